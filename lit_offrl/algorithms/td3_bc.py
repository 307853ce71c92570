"""TD3+BC: Fujimoto and Gu (2021), https://arxiv.org/abs/2106.06860."""

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.losses import ensemble_mse
from lit_offrl.networks import QNetwork
from lit_offrl.policies import Deterministic, DeterministicPolicy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import polyak_update, target_copy, td_target


class TD3BC(OfflineAlgorithm):
    """TD3 whose policy also imitates the data.

    ``y = r + γ (1 - terminated) min_j Q̄_j(s', clip(π̄(s') + ε))``, ε clipped noise
    ``L_Q = Σ_j E (Q_j(s, a) - y)²``
    ``L_π = -λ E Q_1(s, π(s)) + E |π(s) - a|²``, λ = α / E|Q_1| (eq. 5)

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        lr: Learning rate of Q and π.
        bc_alpha: α, the weight of Q against imitation; 0 is behavior cloning.
        policy_noise: Standard deviation of the target noise ε.
        noise_clip: Bound of ε.
        policy_delay: Updates of Q per update of π and of the target networks.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target networks.
    """

    policy: DeterministicPolicy
    actions = "box"
    hint = "DiscreteBCQ, DiscreteCQL or DiscreteIQL"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        bc_alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        n_critics: int = 2,
        discount: float = 0.99,
        polyak: float = 0.005,
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        self.bc_alpha, self.policy_delay = bc_alpha, policy_delay
        self.policy_noise, self.noise_clip = policy_noise, noise_clip
        self.polyak = polyak
        self.q = QNetwork(obs_dim, action_dim, hidden, n_critics)
        self.policy = DeterministicPolicy(obs_dim, action_dim, hidden)
        self.target_q, self.target_policy = target_copy(self.q), target_copy(self.policy)
        self.optimize(self.q, lr)
        self.optimize(self.policy, lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update Q once, and π and the target networks every ``policy_delay`` updates."""
        with torch.no_grad():
            noise = self.policy_noise * self.randn(*batch.action.shape)
            noise = noise.clamp(-self.noise_clip, self.noise_clip)
            next_action = (self.target_policy(batch.next_obs).mode + noise).clamp(-1, 1)  # (B, A)
            next_q = self.target_q(batch.next_obs, next_action).amin(0)  # (B,)
            q_target = td_target(batch, self.discount, next_q)

        q = self.q(batch.obs, batch.action)  # (n, B)
        q_loss = ensemble_mse(q, q_target)
        self.minimize(q_loss, self.q)
        metrics = {"loss/q": q_loss.detach(), "q/data": q.detach().mean()}
        if self.due(self.policy_delay):
            metrics |= self._update_policy(batch)
        return metrics

    def _update_policy(self, batch: Batch) -> dict[str, Tensor]:
        """Update π and the target networks once."""
        policy: Deterministic = self.policy(batch.obs)
        q = self.q(batch.obs, policy.mode)[0]  # (B,)
        weight = self.bc_alpha / self.batch_mean(q.detach().abs())
        bc_loss = policy.imitation_loss(batch.action).mean()
        policy_loss = -weight * q.mean() + bc_loss

        self.minimize(policy_loss, self.policy)
        polyak_update(self.q, self.target_q, self.polyak)
        polyak_update(self.policy, self.target_policy, self.polyak)
        return {
            "loss/policy": policy_loss.detach(),
            "loss/bc": bc_loss.detach(),
            "q/policy": q.detach().mean(),
        }

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return self.q(obs, action)  # type: ignore[no-any-return]
