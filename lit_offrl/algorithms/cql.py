"""Conservative Q-learning (CQL): Kumar et al. (2020), https://arxiv.org/abs/2006.04779."""

import math
from typing import Literal

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from lit_offrl.losses import ensemble_mse, prior_weight
from lit_offrl.networks import QNetwork, Scalar, orthogonal_
from lit_offrl.policies import ACTION_BOUND, TanhGaussian, TanhGaussianPolicy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import polyak_update, target_copy, td_target


def sampled_logsumexp(q: Tensor, log_density: Tensor, temperature: float = 1.0) -> Tensor:
    """``T log 1/M Σ_i exp((Q(s, a_i) - log ρ_i(a_i)) / T)``, (n, B): estimates T log ∫ exp(Q/T).

    Args:
        q: Values of M sampled actions, (n, M, B).
        log_density: Log-density of each under the proposal it came from, (M, B).
        temperature: T.

    >>> sampled_logsumexp(torch.ones(1, 4, 1), torch.zeros(4, 1))
    tensor([[1.]])
    """
    logits = (q - log_density) / temperature
    return temperature * (logits.logsumexp(1) - math.log(q.shape[1]))


class CQL(OfflineAlgorithm):
    """SAC with a critic that is pushed down on sampled actions and up on the data's.

    ``L_Q = Σ_j E (Q_j(s, a) - y)² + α Σ_j E [log ∫ exp Q_j(s, ·) - Q_j(s, a)]`` (eq. 4, CQL(H)),
    the integral by importance sampling from U(-1, 1), π(·|s) and π(·|s');
    ``y = r + γ (1 - terminated) min_j Q̄_j(s', a')``, a' ~ π(·|s');
    ``L_π = E [α_ent log π(a|s) - min_j Q_j(s, a)]``, a ~ π(·|s).

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the policy's hidden layers.
        critic_hidden: Widths of the critics' hidden layers.
        policy_lr: Learning rate of π and of the entropy temperature.
        q_lr: Learning rate of Q, of the Lagrange multiplier and of the behavior policy.
        cql_alpha: α; with the squared error taken without ½ it is twice the paper's.
        n_actions: Actions drawn from each of the three proposals.
        temperature: T of the log-sum-exp.
        gap_clip: Bounds of the penalty of one row.
        lagrange_gap: Tune a multiplier of α so that the penalty is this (on the scale without
            the constant log 3N = 3.4 that other code has); None fixes it at 1.
        max_target_backup: Bootstrap from the best of ``n_actions`` draws of π(·|s').
        penalty_prior: ``behavior`` weights sampled actions by how unlikely they are in the data,
            (1 - b) / (1 + b) with b the behavior density relative to its mode.
        min_weight: Lower bound of that weight.
        policy_regularizer: ``kl`` adds KL(π‖behavior) to L_π in place of the entropy bonus,
            ``bc`` adds -log π(a|s) of logged actions; Q is then divided by its mean size.
        regularizer_weight: Weight of that term.
        orthogonal_init: Orthogonal weights, gain √2 and 0.01 for the last layers.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target critic.
    """

    policy: TanhGaussianPolicy
    actions = "box"
    hint = "DiscreteCQL"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256, 256),
        critic_hidden: tuple[int, ...] = (256, 256, 256),
        policy_lr: float = 1e-4,
        q_lr: float = 3e-4,
        cql_alpha: float = 5.0,
        n_actions: int = 10,
        temperature: float = 1.0,
        gap_clip: tuple[float, float] = (-math.inf, math.inf),
        lagrange_gap: float | None = None,
        max_target_backup: bool = False,
        penalty_prior: Literal["uniform", "behavior"] = "uniform",
        min_weight: float = 0.1,
        policy_regularizer: Literal["none", "kl", "bc"] = "none",
        regularizer_weight: float = 1.0,
        orthogonal_init: bool = True,
        n_critics: int = 2,
        discount: float = 0.99,
        polyak: float = 0.005,
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        if not gap_clip[0] < gap_clip[1]:
            raise InputError(f"`gap_clip` must hold a lower and a higher number, not {gap_clip}.")
        self.cql_alpha, self.n_actions, self.temperature = cql_alpha, n_actions, temperature
        self.gap_clip, self.lagrange_gap = gap_clip, lagrange_gap
        self.max_target_backup, self.polyak = max_target_backup, polyak
        self.penalty_prior, self.min_weight = penalty_prior, min_weight
        self.policy_regularizer, self.regularizer_weight = policy_regularizer, regularizer_weight
        self.target_entropy = -float(action_dim)
        self.policy = TanhGaussianPolicy(obs_dim, action_dim, hidden)
        self.q = QNetwork(obs_dim, action_dim, critic_hidden, n_critics)
        if orthogonal_init:
            orthogonal_(self.policy)
            orthogonal_(self.q)
        self.target_q = target_copy(self.q)
        self.log_alpha_entropy, self.log_multiplier = Scalar(0.0), Scalar(1.0)
        self.optimize(self.log_alpha_entropy, policy_lr)
        self.optimize(self.policy, policy_lr)
        self.optimize(self.q, q_lr)
        if lagrange_gap is not None:
            self.optimize(self.log_multiplier, q_lr)
        self.learns_behavior = penalty_prior == "behavior" or policy_regularizer == "kl"
        if self.learns_behavior:
            self.behavior = TanhGaussianPolicy(obs_dim, action_dim, hidden, (-5.0, 2.0), 0.0)
            self.optimize(self.behavior, q_lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update α_ent, π, Q and the target critic once, all from the same parameters.

        The behavior policy and the multiplier, where they are learned, are updated on the way.
        """
        policy: TanhGaussian = self.policy(batch.obs)
        noise = self.randn(*batch.action.shape)
        action, log_prob = policy.rsample_with_log_prob(noise)
        q_target, proposals, log_density = self._sample_actions(batch, policy)

        log_alpha = self.log_alpha_entropy()
        alpha = log_alpha.exp().detach()
        alpha_loss = -log_alpha * self.batch_mean(log_prob.detach() + self.target_entropy)
        q_policy = self.q(batch.obs, action).amin(0)  # (B,)
        policy_loss = self._policy_loss(batch, policy, noise, alpha * log_prob, q_policy)

        q_all = self.q(batch.obs, torch.cat([proposals, batch.action.unsqueeze(0)]))
        q = q_all[:, -1]  # (n, B)
        td_loss = ensemble_mse(q, q_target)
        penalized, bound_metrics = self.penalized(q_all[:, :-1], batch)
        soft_max = sampled_logsumexp(penalized, log_density, self.temperature)
        gap = (soft_max - q).clamp(*self.gap_clip).mean(-1)  # (n,)
        multiplier = self._multiplier(gap.detach())
        q_loss = td_loss + multiplier * self.cql_alpha * gap.sum()

        self.minimize(alpha_loss, self.log_alpha_entropy)
        self.minimize(policy_loss, self.policy)
        self.minimize(q_loss, self.q)
        polyak_update(self.q, self.target_q, self.polyak)
        return {
            "loss/q": q_loss.detach(),
            "loss/td": td_loss.detach(),
            "loss/policy": policy_loss.detach(),
            "cql/gap": gap.detach().mean(),
            "cql/multiplier": multiplier,
            "q/data": q.detach().mean(),
            "q/policy": q_policy.detach().mean(),
            "policy/log_prob": log_prob.detach().mean(),
            "policy/alpha_entropy": alpha,
            **bound_metrics,
        }

    def penalized(self, q: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Values of the 3N sampled actions (n, 3N, B) that the penalty sees, and what to log."""
        return q, {}

    @torch.no_grad()
    def _sample_actions(self, batch: Batch, policy: TanhGaussian) -> tuple[Tensor, Tensor, Tensor]:
        """Return the TD target (B,), 3N proposals (3N, B, A) and their log-densities (3N, B)."""
        n, shape = self.n_actions, batch.action.shape
        uniform = 2 * self.rand(n, *shape) - 1
        current, log_current = policy.rsample_with_log_prob(self.randn(n, *shape))
        next_policy: TanhGaussian = self.policy(batch.next_obs)
        following, log_next = next_policy.rsample_with_log_prob(self.randn(n + 1, *shape))

        candidates = following[:n] if self.max_target_backup else following[n:]
        next_q = self.target_q(batch.next_obs, candidates).amin(0).amax(0)  # (B,)
        q_target = td_target(batch, self.discount, next_q)

        proposals = torch.cat([uniform, current, following[:n]])
        log_uniform = torch.full_like(log_current, -shape[-1] * math.log(2))
        log_density = torch.cat([log_uniform, log_current, log_next[:n]])
        if self.penalty_prior == "behavior":
            base = self.behavior(batch.obs).base
            z = proposals.clamp(-ACTION_BOUND, ACTION_BOUND).atanh()
            relative = (base.log_prob(z) - base.log_prob(base.mean)).exp()
            weight = prior_weight(relative, self.min_weight)
            log_density = log_density - self.temperature * weight.log()
        return q_target, proposals, log_density

    def _policy_loss(
        self, batch: Batch, policy: TanhGaussian, noise: Tensor, entropy_cost: Tensor, q: Tensor
    ) -> Tensor:
        """``E [α_ent log π - Q]``, or Q / E|Q| with one of the regularizers, ()."""
        if self.learns_behavior:
            self.minimize(-self.behavior(batch.obs).log_prob(batch.action).mean(), self.behavior)
        if self.policy_regularizer == "none":
            return (entropy_cost - q).mean()
        value = q.mean() / self.batch_mean(q.detach().abs())
        if self.policy_regularizer == "bc":
            imitation = policy.imitation_loss(batch.action).mean()
            return entropy_cost.mean() - value + self.regularizer_weight * imitation
        # Before tanh, whose slopes cancel in the ratio: saturated actions carry no gradient.
        z = policy.base.rsample(noise)
        ratio = policy.base.log_prob(z) - self.behavior(batch.obs).base.log_prob(z)
        return self.regularizer_weight * ratio.clamp(-20, 20).mean() - value  # type: ignore[no-any-return]

    def _multiplier(self, gap: Tensor) -> Tensor:
        """Return the Lagrange multiplier α' of α, (), after tuning it on the gaps (n,)."""
        if self.lagrange_gap is None:
            return gap.new_ones(())
        multiplier = self.log_multiplier().exp().clamp(0, 1e6)
        excess = self.batch_mean(gap - self.lagrange_gap)
        self.minimize(-multiplier * self.cql_alpha * excess, self.log_multiplier)
        return multiplier.detach()  # type: ignore[no-any-return]

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return self.q(obs, action)  # type: ignore[no-any-return]
