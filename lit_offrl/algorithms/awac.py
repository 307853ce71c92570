"""Advantage-weighted actor-critic (AWAC): Nair et al. (2020), https://arxiv.org/abs/2006.09359."""

from typing import Literal

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.losses import awr_metrics, awr_weight, ensemble_mse
from lit_offrl.networks import QNetwork
from lit_offrl.policies import Gaussian, GaussianPolicy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import polyak_update, target_copy, td_target

MAX_LOGIT = 80.0  # exp of more overflows float32


class AWAC(OfflineAlgorithm):
    """An actor-critic whose policy imitates the data, weighted by how good each action was.

    ``y = r + γ (1 - terminated) min_j Q̄_j(s', a')``, a' ~ π(·|s')
    ``L_Q = Σ_j E (Q_j(s, a) - y)²``
    ``L_π = -E min(exp(A / λ), 100) log π(a|s)``, A = min_j Q_j(s, a) - min_j Q_j(s, ã), ã ~ π(·|s)
    (eq. 13)

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        lr: Learning rate of Q and π.
        awr_temperature: λ; large values are behavior cloning.
        normalize: ``batch_softmax`` divides exp(A / λ) by its mean over the batch, and does not
            clip.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target critic.
    """

    policy: GaussianPolicy
    actions = "box"
    hint = "DiscreteIQL"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        awr_temperature: float = 1.0,
        normalize: Literal["none", "batch_softmax"] = "none",
        n_critics: int = 2,
        discount: float = 0.99,
        polyak: float = 0.005,
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        self.awr_temperature, self.normalize, self.polyak = awr_temperature, normalize, polyak
        self.q = QNetwork(obs_dim, action_dim, hidden, n_critics)
        self.policy = GaussianPolicy(obs_dim, action_dim, hidden)
        self.target_q = target_copy(self.q)
        self.optimize(self.q, lr)
        self.optimize(self.policy, lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update Q, then π with the new Q, and the target critic once."""
        with torch.no_grad():
            next_action = self._draw(self.policy(batch.next_obs), batch.action)
            next_q = self.target_q(batch.next_obs, next_action).amin(0)  # (B,)
            q_target = td_target(batch, self.discount, next_q)
        q = self.q(batch.obs, batch.action)  # (n, B)
        q_loss = ensemble_mse(q, q_target)
        self.minimize(q_loss, self.q)

        policy: Gaussian = self.policy(batch.obs)
        with torch.no_grad():
            actions = torch.stack([batch.action, self._draw(policy, batch.action)])
            of_data, of_policy = self.q(batch.obs, actions).amin(0)  # (B,) each
            weight = self._weight(of_data - of_policy)
        policy_loss = -(weight * policy.log_prob(batch.action)).mean()
        self.minimize(policy_loss, self.policy)
        polyak_update(self.q, self.target_q, self.polyak)
        return {
            "loss/q": q_loss.detach(),
            "loss/policy": policy_loss.detach(),
            "q/data": q.detach().mean(),
            "q/policy": of_policy.mean(),
            **awr_metrics(weight),
        }

    def _draw(self, policy: Gaussian, like: Tensor) -> Tensor:
        """Draw an action of each row, clipped to [-1, 1], (B, A)."""
        return policy.rsample(self.randn(*like.shape)).clamp(-1, 1)

    def _weight(self, advantage: Tensor) -> Tensor:
        """Weights of the rows (B,)."""
        if self.normalize == "none":
            return awr_weight(advantage, 1 / self.awr_temperature)
        logits = advantage / self.awr_temperature
        weight = (logits - self.batch_mean(logits)).clamp(max=MAX_LOGIT).exp()
        return weight / self.batch_mean(weight)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return self.q(obs, action)  # type: ignore[no-any-return]
