"""ReBRAC: Tarasov et al. (2023), https://arxiv.org/abs/2305.09836."""

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.losses import ensemble_mse
from lit_offrl.networks import QNetwork
from lit_offrl.policies import Deterministic, DeterministicPolicy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import polyak_update, target_copy, td_target


class ReBRAC(OfflineAlgorithm):
    """TD3 that is held near the data in the policy's loss and in the critic's target.

    ``y = r + γ (1 - terminated) (min_j Q̄_j(s', ã') - β_2 |ã' - a'|²)``, ã' = clip(π̄(s') + ε), a'
    the action that was taken at s', where there was one
    ``L_Q = Σ_j E (Q_j(s, a) - y)²``
    ``L_π = E [β_1 |π(s) - a|² - λ min_j Q_j(s, π(s))]``, λ = 1 / E|min_j Q_j|

    Batches need ``next_action`` and ``has_next_action``.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the policy's hidden layers.
        critic_hidden: Widths of the critics' hidden layers, each followed by a layer norm.
        policy_lr: Learning rate of π.
        q_lr: Learning rate of Q.
        policy_penalty: β_1.
        critic_penalty: β_2.
        policy_noise: Standard deviation of the target noise ε.
        noise_clip: Bound of ε.
        policy_delay: Updates of Q per update of π and of the target networks.
        layer_norm: Whether the critics have their layer norms.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target networks.
    """

    policy: DeterministicPolicy
    actions = "box"
    hint = "DiscreteBCQ, DiscreteCQL or DiscreteIQL"
    extras = ("next_action", "has_next_action")

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256, 256),
        critic_hidden: tuple[int, ...] = (256, 256, 256),
        policy_lr: float = 1e-3,
        q_lr: float = 1e-3,
        policy_penalty: float = 0.01,
        critic_penalty: float = 0.01,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        layer_norm: bool = True,
        n_critics: int = 2,
        discount: float = 0.99,
        polyak: float = 0.005,
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        self.policy_penalty, self.critic_penalty = policy_penalty, critic_penalty
        self.policy_noise, self.noise_clip = policy_noise, noise_clip
        self.policy_delay, self.polyak = policy_delay, polyak
        self.q = QNetwork(
            obs_dim, action_dim, critic_hidden, n_critics, layer_norm, relu_first=True
        )
        self.policy = DeterministicPolicy(obs_dim, action_dim, hidden)
        self.target_q, self.target_policy = target_copy(self.q), target_copy(self.policy)
        self.optimize(self.q, q_lr)
        self.optimize(self.policy, policy_lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update Q once, and π and the target networks every ``policy_delay`` updates."""
        with torch.no_grad():
            noise = self.policy_noise * self.randn(*batch.action.shape)
            noise = noise.clamp(-self.noise_clip, self.noise_clip)
            next_action = (self.target_policy(batch.next_obs).mode + noise).clamp(-1, 1)  # (B, A)
            next_q = self.target_q(batch.next_obs, next_action).amin(0)  # (B,)
            distance = (next_action - batch.needed("next_action")).square().sum(-1)  # (B,)
            distance = distance * batch.needed("has_next_action")
            next_value = next_q - self.critic_penalty * distance
            q_target = td_target(batch, self.discount, next_value)

        q = self.q(batch.obs, batch.action)  # (n, B)
        q_loss = ensemble_mse(q, q_target)
        self.minimize(q_loss, self.q)
        metrics = {
            "loss/q": q_loss.detach(),
            "q/data": q.detach().mean(),
            "rebrac/next_distance": distance.mean(),
        }
        if self.due(self.policy_delay):
            metrics |= self._update_policy(batch)
        return metrics

    def _update_policy(self, batch: Batch) -> dict[str, Tensor]:
        """Update π and the target networks once."""
        policy: Deterministic = self.policy(batch.obs)
        q = self.q(batch.obs, policy.mode).amin(0)  # (B,)
        weight = 1 / self.batch_mean(q.detach().abs())
        distance = (policy.mode - batch.action).square().sum(-1).mean()
        policy_loss = self.policy_penalty * distance - weight * q.mean()

        self.minimize(policy_loss, self.policy)
        polyak_update(self.q, self.target_q, self.polyak)
        polyak_update(self.policy, self.target_policy, self.polyak)
        return {
            "loss/policy": policy_loss.detach(),
            "rebrac/distance": distance.detach(),
            "q/policy": q.detach().mean(),
        }

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return self.q(obs, action)  # type: ignore[no-any-return]
