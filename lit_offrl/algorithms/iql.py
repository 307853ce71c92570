"""Implicit Q-learning (IQL): Kostrikov, Nair, Levine (2021), https://arxiv.org/abs/2110.06169."""

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.encoders import EncoderName, Image, observed
from lit_offrl.losses import awr_metrics, awr_weight, ensemble_mse, expectile_loss
from lit_offrl.networks import QNetwork, ValueNetwork
from lit_offrl.policies import DeterministicPolicy, GaussianPolicy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import polyak_update, target_copy, td_target


class IQL(OfflineAlgorithm):
    """Values of in-sample actions by expectile regression; the policy by weighted regression.

    ``L_V = E |τ - 1(u < 0)| u²``, u = min_j Q̄_j(s, a) - V(s) (eq. 5)
    ``L_Q = Σ_j E (r + γ (1 - terminated) V(s') - Q_j(s, a))²`` (eq. 6)
    ``L_π = -E min(exp(β u), 100) log π(a|s)`` (eq. 7)

    No action outside the data is ever valued.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        lr: Learning rate of V, Q and π.
        cosine_schedule: Let π's learning rate fall to 0 over ``max_steps``.
        expectile: τ; 0.5 is the mean, towards 1 the maximum over actions in the data.
        inverse_temperature: β; 0 is behavior cloning. Raise it with ``expectile``.
        deterministic_policy: Weighted squared error instead of log-likelihood.
        dropout: Dropout of the Gaussian policy.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target critic.
        images: Where images lie in an observation, given by the data.
        encoder: What looks at them, a copy for each network: ``nature`` (DQN's) or ``impala``.
    """

    policy: GaussianPolicy | DeterministicPolicy
    actions = "box"
    hint = "DiscreteIQL"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        cosine_schedule: bool = True,
        expectile: float = 0.7,
        inverse_temperature: float = 3.0,
        deterministic_policy: bool = False,
        dropout: float = 0.0,
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
        self.q = QNetwork(seen, action_dim, hidden, n_critics)
        self.target_q = target_copy(self.q)
        if deterministic_policy:
            self.policy = DeterministicPolicy(seen, action_dim, hidden)
        else:
            self.policy = GaussianPolicy(seen, action_dim, hidden, dropout)
        self.optimize(self.v, lr)
        self.optimize(self.q, lr)
        self.optimize(self.policy, lr, cosine=cosine_schedule)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update V, Q, π and the target critic once."""
        with torch.no_grad():
            q_min = self.target_q(batch.obs, batch.action).amin(0)  # (B,)
            q_target = td_target(batch, self.discount, self.v(batch.next_obs))  # (B,)
        v = self.v(batch.obs)
        advantage = q_min - v

        v_loss = expectile_loss(advantage, self.expectile)
        q = self.q(batch.obs, batch.action)  # (n, B)
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
        return self.q(obs, action)  # type: ignore[no-any-return]
