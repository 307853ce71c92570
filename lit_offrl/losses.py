"""Losses that several algorithms share: pure functions of tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def expectile_loss(u: Tensor, expectile: float) -> Tensor:
    """``E |τ - 1(u < 0)| u²`` (IQL, eq. 5).

    >>> expectile_loss(torch.tensor([2.0, -2.0]), expectile=0.75)
    tensor(2.)
    """
    return ((expectile - (u < 0).to(u.dtype)).abs() * u.square()).mean()


def awr_weight(advantage: Tensor, inverse_temperature: float, clip: float = 100.0) -> Tensor:
    """``min(exp(β A), clip)``, the weight of advantage-weighted regression (IQL, eq. 7).

    >>> awr_weight(torch.tensor([0.0, 10.0]), inverse_temperature=3.0)
    tensor([  1., 100.])
    """
    return (inverse_temperature * advantage).exp().clamp(max=clip)


def ensemble_mse(q: Tensor, target: Tensor) -> Tensor:
    """``Σ_j E (Q_j - y)²`` for values (n, B) and one target (B,), without ½.

    >>> ensemble_mse(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([1.0, 1.0]))
    tensor(3.)
    """
    return (q - target).square().mean(-1).sum()


def ensemble_huber(q: Tensor, target: Tensor) -> Tensor:
    """``Σ_j E Huber(Q_j - y)`` for values (n, B) and one target (B,).

    >>> ensemble_huber(torch.tensor([[1.5, 3.0]]), torch.tensor([1.0, 1.0]))
    tensor(0.8125)
    """
    return F.huber_loss(q, target.expand_as(q), reduction="none").mean(-1).sum()


def quantile_huber_loss(quantiles: Tensor, target: Tensor) -> Tensor:
    """``Σ_j E Σ_i E_k |τ_i - 1(u_ik < 0)| Huber(u_ik)``, u_ik = y_k - θ_i (QR-DQN, eq. 10).

    Args:
        quantiles: θ, (n, B, M), of levels τ_i = (i + ½) / M.
        target: Quantiles y of the target, (B, M).

    >>> quantile_huber_loss(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[2.0, 2.0]]))
    tensor(0.7500)
    """
    m = quantiles.shape[-1]
    level = (torch.arange(m, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / m
    u = target.unsqueeze(-2) - quantiles.unsqueeze(-1)  # (n, B, M quantiles, M targets)
    weight = (level.unsqueeze(-1) - (u < 0).to(u.dtype)).abs()
    huber = torch.where(u.abs() <= 1, 0.5 * u.square(), u.abs() - 0.5)
    return (weight * huber).mean(-1).sum(-1).mean(-1).sum()


def quantile_td_loss(quantiles: Tensor, target: Tensor) -> Tensor:
    """TD loss of quantiles (n, B, M) and one target (B, M): Huber if M = 1, else quantile Huber."""
    if quantiles.shape[-1] == 1:
        return ensemble_huber(quantiles.squeeze(-1), target.squeeze(-1))
    return quantile_huber_loss(quantiles, target)


def awr_metrics(weight: Tensor, clip: float = 100.0) -> dict[str, Tensor]:
    """Mean, clipped share and effective sample size per row of weights (B,), for the log."""
    return {
        "awr/weight": weight.mean(),
        "awr/clipped": (weight >= clip).float().mean(),
        "awr/ess": weight.sum().square() / (weight.square().sum() * len(weight)),
    }


def at_least_return(q: Tensor, mc_return: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """``max(Q(s, a), G(s))``, the bound of Cal-QL (Nakamoto et al. 2023), and how often it acts.

    Args:
        q: Values, of the bound's shape after broadcasting.
        mc_return: Return-to-go G of the logged behavior; minus infinity where it is not known.

    >>> at_least_return(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))[0]
    tensor([2., 3.])
    """
    rate = (mc_return > q.detach()).to(q).mean()
    return torch.maximum(q, mc_return), {"calql/bound_rate": rate}


def prior_weight(relative_density: Tensor, min_weight: float) -> Tensor:
    """``max(w_min, (1 - b) / (1 + b))``: weight of an action in CQL's partition function.

    Args:
        relative_density: b, the behavior policy's density relative to its mode, in [0, 1].
        min_weight: w_min; without it an action with b = 1 would escape the penalty.

    >>> prior_weight(torch.tensor([0.0, 0.5, 1.0]), 0.1)
    tensor([1.0000, 0.3333, 0.1000])
    """
    return ((1 - relative_density) / (1 + relative_density)).clamp(min=min_weight)
