"""Bootstrapped targets and target networks."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from lit_offrl.batch import Batch
from lit_offrl.stacking import whole

Net = TypeVar("Net", bound=nn.Module)


def td_target(batch: Batch, discount: float, next_value: Tensor) -> Tensor:
    """``r + γ (1 - terminated) next_value``, (..., B); a truncated episode bootstraps.

    >>> one = torch.ones(1)
    >>> td_target(Batch(one, one, one, one, torch.tensor([1.0])), 0.9, torch.tensor([5.0]))
    tensor([1.])
    """
    return batch.reward + discount * (1 - batch.terminated) * next_value


def target_copy(net: Net) -> Net:
    """Return a copy of ``net`` that takes no gradients."""
    return copy.deepcopy(net).requires_grad_(False)


@torch.no_grad()
def polyak_update(net: nn.Module, target: nn.Module, polyak: float) -> None:
    """``θ̄ ← (1 - polyak) θ̄ + polyak θ``, in place."""
    torch._foreach_lerp_(
        [whole(p) for p in target.parameters()], [whole(p) for p in net.parameters()], polyak
    )


def double_q_action(q: Tensor, allowed: Tensor | None = None) -> Tensor:
    """``argmax_a min_j Q_j(s, a)`` over the allowed actions, (B,).

    Args:
        q: Action values, (n, B, A).
        allowed: True where an action may be taken, (B, A).
    """
    q_min = q.amin(0)
    return (q_min if allowed is None else q_min.masked_fill(~allowed, -torch.inf)).argmax(-1)


def take_action(values: Tensor, action: Tensor) -> Tensor:
    """Pick the entry of ``action`` (B,) out of values (n, B, A, ...): (n, B, ...).

    >>> take_action(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([1, 0]))
    tensor([[2., 3.]])
    """
    return values[:, torch.arange(len(action), device=action.device), action]


def quantile_target(
    batch: Batch, discount: float, next_action: Tensor, next_quantiles: Tensor
) -> Tensor:
    """``r + γ (1 - terminated) min_j θ̄_j(s', a')``, (B, M).

    Args:
        batch: Transitions.
        discount: γ.
        next_action: a', (B,).
        next_quantiles: Quantiles of the target networks, (n, B, A, M); M = 1 for plain values.
    """
    next_value = take_action(next_quantiles, next_action).amin(0)  # (B, M)
    return td_target(batch, discount, next_value.mT).mT


def soft_quantile_target(
    batch: Batch, discount: float, probs: Tensor, next_quantiles: Tensor
) -> Tensor:
    """``r + γ (1 - terminated) min_j Σ_a π(a|s') θ̄_j(s', a)``, (B, M).

    Args:
        batch: Transitions.
        discount: γ.
        probs: π(·|s'), (B, A).
        next_quantiles: Quantiles of the target networks, (n, B, A, M).
    """
    next_value = (probs.unsqueeze(-1) * next_quantiles).sum(-2).amin(0)  # (B, M)
    return td_target(batch, discount, next_value.mT).mT
