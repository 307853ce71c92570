"""Policy expansion (PEX): Zhang, Xu, Yu (2023), https://arxiv.org/abs/2302.00935."""

from typing import Any

import torch
from torch import Tensor

from lit_offrl.algorithms.iql import IQL
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import target_copy


class PEX(IQL):
    """IQL that keeps the policy trained offline as it is, and learns a second one beside it.

    Each policy proposes an action, and one of the two is taken with probability
    ``∝ exp(κ min_j Q_j(s, a_i))`` (eq. 6), so that nothing learned offline is lost. The updates
    are IQL's, on the second policy.

    Args:
        obs_dim: O.
        action_dim: A.
        choice_inverse_temperature: κ; large values take the better action.
        **iql: Arguments of :class:`IQL`.
    """

    draws_from_policy = False

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        choice_inverse_temperature: float = 10.0,
        **iql: Any,
    ) -> None:
        super().__init__(obs_dim, action_dim, **iql)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        self.choice_inverse_temperature = choice_inverse_temperature
        self.offline_policy = target_copy(self.policy)

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """The better of the two policies' greedy actions at normalized obs (B, O): (B, A)."""
        actions = torch.stack([self.offline_policy(obs).mode, self.policy(obs).mode])  # (2, B, A)
        return _pick(actions, self.q(obs, actions).amin(0).argmax(0))

    @torch.no_grad()
    def explore(self, obs: Tensor) -> Tensor:
        """Draw an action of each policy and one of the two, at normalized obs (B, O): (B, A)."""
        actions = torch.stack([self.offline_policy(obs).sample(), self.policy(obs).sample()])
        logits = self.choice_inverse_temperature * self.q(obs, actions).amin(0)  # (2, B)
        chosen = torch.multinomial(logits.softmax(0).mT, 1).squeeze(-1)
        return _pick(actions, chosen)


def _pick(actions: Tensor, which: Tensor) -> Tensor:
    """Take one of actions (2, B, A) at each observation, (B, A)."""
    return actions[which, torch.arange(which.shape[0], device=which.device)]
