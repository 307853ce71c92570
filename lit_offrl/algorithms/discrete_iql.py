"""Implicit Q-learning on discrete actions: Kostrikov et al. (2021), https://arxiv.org/abs/2110.06169."""

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.encoders import EncoderName, Image, observed
from lit_offrl.losses import awr_metrics, awr_weight, ensemble_mse, expectile_loss
from lit_offrl.networks import DiscreteQNetwork, ValueNetwork
from lit_offrl.policies import CategoricalPolicy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import polyak_update, take_action, target_copy, td_target


class DiscreteIQL(OfflineAlgorithm):
    """IQL (see there) with one Q head per action and a categorical policy.

    The policy is the regressed π, never the argmax of Q: heads of actions that are not in the
    data are untrained.

    Args:
        obs_dim: O.
        action_dim: Number of actions.
        hidden: Widths of the hidden layers.
        lr: Learning rate of V, Q and π.
        cosine_schedule: Let π's learning rate fall to 0 over ``max_steps``.
        expectile: τ; 0.5 is the mean, towards 1 the maximum over actions in the data.
        inverse_temperature: β; 0 is behavior cloning.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target critic.
        images: Where images lie in an observation, given by the data.
        encoder: What looks at them, a copy for each network: ``nature`` (DQN's) or ``impala``.
    """

    policy: CategoricalPolicy
    actions = "discrete"
    hint = "IQL"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        cosine_schedule: bool = True,
        expectile: float = 0.7,
        inverse_temperature: float = 3.0,
        n_critics: int = 2,
        discount: float = 0.99,
        polyak: float = 0.005,
        images: tuple[Image, ...] = (),
        encoder: EncoderName = "nature",
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        seen = observed(obs_dim, images, encoder)
        self.expectile, self.inverse_temperature = expectile, inverse_temperature
        self.polyak = polyak
        self.v = ValueNetwork(seen, hidden)
        self.q = DiscreteQNetwork(seen, action_dim, hidden, n_critics)
        self.target_q = target_copy(self.q)
        self.policy = CategoricalPolicy(seen, action_dim, hidden)
        self.optimize(self.v, lr)
        self.optimize(self.q, lr)
        self.optimize(self.policy, lr, cosine=cosine_schedule)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update V, Q, π and the target critic once."""
        with torch.no_grad():
            q_min = take_action(self.target_q(batch.obs), batch.action).amin(0)  # (B,)
            q_target = td_target(batch, self.discount, self.v(batch.next_obs))  # (B,)
        v = self.v(batch.obs)
        advantage = q_min - v

        v_loss = expectile_loss(advantage, self.expectile)
        q = take_action(self.q(batch.obs), batch.action)  # (n, B)
        q_loss = ensemble_mse(q, q_target)
        weight = awr_weight(advantage.detach(), self.inverse_temperature)
        policy_loss = (weight * self.policy(batch.obs).imitation_loss(batch.action)).mean()

        self.minimize(v_loss, self.v)
        self.minimize(q_loss, self.q)
        self.minimize(policy_loss, self.policy)
        polyak_update(self.q, self.target_q, self.polyak)
        return {
            "loss/v": v_loss.detach(),
            "loss/q": q_loss.detach(),
            "loss/policy": policy_loss.detach(),
            "q/data": q.detach().mean(),
            "v/data": v.detach().mean(),
            **awr_metrics(weight),
        }

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return take_action(self.action_values(obs), action)

    def action_values(self, obs: Tensor) -> Tensor:
        """Values of all actions, (n, B, A); trustworthy only for actions in the data."""
        return self.q(obs)  # type: ignore[no-any-return]
