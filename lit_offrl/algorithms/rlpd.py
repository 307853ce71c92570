"""RL with prior data (RLPD): Ball et al. (2023), https://arxiv.org/abs/2302.02948."""

import math

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.losses import ensemble_mse
from lit_offrl.networks import QNetwork, Scalar
from lit_offrl.policies import TanhGaussian, TanhGaussianPolicy
from lit_offrl.ranges import check_arguments, within
from lit_offrl.targets import polyak_update, target_copy, td_target


class RLPD(OfflineAlgorithm):
    """SAC with a large ensemble of layer-normalized critics, for online training beside a log.

    ``y = r + γ (1 - terminated) (min_{j in M} Q̄_j(s', a') - α log π(a'|s'))``, a' ~ π(·|s'), M a
    random subset of the critics (REDQ, Chen et al. 2021, https://arxiv.org/abs/2101.05982)
    ``L_Q = Σ_j E (Q_j(s, a) - y)²``
    ``L_π = E [α log π(a|s) - mean_j Q_j(s, a)]``, a ~ π(·|s)
    ``L_α = -log α E [log π(a|s) + H]``, H the target entropy

    Two critics, both in the subset, without layer norm, are plain SAC (Haarnoja et al. 2018) but
    for the mean in L_π. On a log alone nothing keeps the policy near the data.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the policy's hidden layers.
        critic_hidden: Widths of the critics' hidden layers.
        lr: Learning rate of Q, and of π and α unless they have their own.
        policy_lr: Learning rate of π and α.
        n_critics: Size n of the Q ensemble.
        n_target_critics: Size of the subset M.
        layer_norm: Whether the critics' hidden layers are normalized.
        entropy_backup: Whether the target holds the entropy bonus; off for AntMaze and Adroit.
        target_entropy: H in nats; -A/2 if null.
        policy_period: Updates of Q per update of π and α; with several updates per environment
            step, that many (the authors' update-to-data ratio).
        discount: γ.
        polyak: Step of the target critics.
    """

    policy: TanhGaussianPolicy
    actions = "box"
    hint = "DQN or DiscreteCQL"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        critic_hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        policy_lr: float | None = None,
        n_critics: int = 10,
        n_target_critics: int = 2,
        layer_norm: bool = True,
        entropy_backup: bool = True,
        target_entropy: float | None = None,
        policy_period: int = 1,
        discount: float = 0.99,
        polyak: float = 0.005,
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        within(f"[1, {n_critics}]", n_target_critics=n_target_critics)
        self.n_critics, self.n_target_critics = n_critics, n_target_critics
        self.entropy_backup, self.policy_period, self.polyak = entropy_backup, policy_period, polyak
        self.target_entropy = -action_dim / 2 if target_entropy is None else target_entropy
        self.policy = TanhGaussianPolicy(obs_dim, action_dim, hidden)
        self.q = QNetwork(obs_dim, action_dim, critic_hidden, n_critics, layer_norm)
        self.target_q = target_copy(self.q)
        self.log_alpha_entropy = Scalar(0.0)
        for net in (self.log_alpha_entropy, self.policy):
            self.optimize(net, policy_lr or lr)
        self.optimize(self.q, lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update Q and the target critics once, and π and α every ``policy_period`` updates."""
        alpha = self.log_alpha_entropy().exp().detach()
        with torch.no_grad():
            next_policy: TanhGaussian = self.policy(batch.next_obs)
            noise = self.randn(*batch.action.shape)
            next_action, next_log_prob = next_policy.rsample_with_log_prob(noise)
            next_q = self._subset_min(self.target_q(batch.next_obs, next_action))  # (B,)
            if self.entropy_backup:
                next_q = next_q - alpha * next_log_prob
            q_target = td_target(batch, self.discount, next_q)

        q = self.q(batch.obs, batch.action)  # (n, B)
        q_loss = ensemble_mse(q, q_target)
        self.minimize(q_loss, self.q)
        polyak_update(self.q, self.target_q, self.polyak)
        metrics = {"loss/q": q_loss.detach(), "q/data": q.detach().mean()}
        if self.due(self.policy_period):
            metrics |= self._update_policy(batch, alpha)
        return metrics

    def _subset_min(self, q: Tensor) -> Tensor:
        """Smallest value of a random subset of the critics, of (n, B): (B,)."""
        if self.n_target_critics == self.n_critics:
            return q.amin(0)
        order = self.rand(self.n_critics)  # the same on all ranks
        last = order.topk(self.n_target_critics).values[-1]
        return q.masked_fill((order < last).unsqueeze(-1), torch.inf).amin(0)

    def _update_policy(self, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        """Update π and α once."""
        policy: TanhGaussian = self.policy(batch.obs)
        action, log_prob = policy.rsample_with_log_prob(self.randn(*batch.action.shape))
        q = self.q(batch.obs, action).mean(0)  # (B,)
        policy_loss = (alpha * log_prob - q).mean()
        log_alpha = self.log_alpha_entropy()
        alpha_loss = -log_alpha * self.batch_mean(log_prob.detach() + self.target_entropy)

        self.minimize(policy_loss, self.policy)
        self.minimize(alpha_loss, self.log_alpha_entropy)
        return {
            "loss/policy": policy_loss.detach(),
            "q/policy": q.detach().mean(),
            "policy/log_prob": log_prob.detach().mean(),
            "policy/alpha_entropy": alpha,
        }

    @property
    def entropy_bound(self) -> float:
        """Most that entropy bonuses add to a value, α A ln 2 / (1 - γ), in transformed reward.

        A ln 2 is the entropy of uniform actions in [-1, 1]^A.
        """
        if not self.entropy_backup:
            return 0.0
        most = self.log_alpha_entropy().exp().item() * self.hparams["action_dim"] * math.log(2)
        return most / (1 - self.discount) if self.discount < 1 else math.inf

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return self.q(obs, action)  # type: ignore[no-any-return]
