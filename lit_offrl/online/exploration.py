"""Actions for collecting: close to what is trusted at first, free later."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.errors import InputError
from lit_offrl.policies import (
    Categorical,
    Deterministic,
    Distribution,
    Gaussian,
    Greedy,
    TanhGaussian,
)

BISECTIONS = 30


@dataclass(frozen=True)
class Exploration:
    """How far actions that are collected with may stray.

    Args:
        noise: Standard deviation added to a deterministic Box policy (ReBRAC 0.03, TD3+BC 0.1).
        sample_scale: Factor on the standard deviation of a stochastic Box policy, temperature of a
            discrete one (probabilities ∝ p^(1 / sample_scale)); 0 is greedy.
        epsilon: Probability of a uniform action where actions are discrete.
        kl_budget: Bits by which the collecting policy may differ from the offline policy at each
            state; null does not limit it.
        kl_relax_steps: Environment steps over which the budget grows without bound, as
            ``kl_budget / (1 - step / kl_relax_steps)``.
    """

    noise: float = 0.1
    sample_scale: float = 1.0
    epsilon: float = 0.05
    kl_budget: float | None = None
    kl_relax_steps: int = 50_000

    def __post_init__(self) -> None:
        for name in ("noise", "sample_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"`{name}` must not be negative, as {getattr(self, name)} is.")
        if not 0 <= self.epsilon <= 1:
            raise InputError(f"`epsilon` must lie in [0, 1], not {self.epsilon}.")
        if self.kl_budget is not None and self.kl_budget < 0:
            raise InputError(f"`kl_budget` must not be negative, as {self.kl_budget} is.")
        if self.kl_budget is not None and 0 in (self.noise, self.sample_scale):
            raise InputError("With `kl_budget`, `noise` and `sample_scale` must be positive.")
        if self.kl_relax_steps < 1:
            raise InputError(f"`kl_relax_steps` must be positive, not {self.kl_relax_steps}.")

    def budget(self, step: int) -> float:
        """Nats that are free at an environment step; infinite without a limit."""
        if self.kl_budget is None or step >= self.kl_relax_steps:
            return math.inf
        return self.kl_budget * math.log(2) / (1 - step / self.kl_relax_steps)

    def widened(self, policy: Distribution) -> Distribution:
        """The distribution that is drawn from where no budget binds."""
        if isinstance(policy, Categorical):
            uniform = torch.full_like(policy.log_probs, 1 / policy.log_probs.shape[-1])
            probs = _tempered(policy, self.sample_scale).probs
            mixed = (1 - self.epsilon) * probs + self.epsilon * uniform
            return Categorical(mixed.log())
        if isinstance(policy, Deterministic):
            log_std = torch.full_like(policy.action, self.noise).log()
            return Gaussian(policy.action, log_std)
        base = policy.base if isinstance(policy, TanhGaussian) else policy
        if not isinstance(base, Gaussian):
            return policy  # of a kind unknown here: sampled as it is
        scaled = Gaussian(base.mean, base.log_std.expand_as(base.mean) + _log(self.sample_scale))
        return TanhGaussian(scaled) if isinstance(policy, TanhGaussian) else scaled

    def refuse_unfit(
        self, algorithm: OfflineAlgorithm, offline: OfflineAlgorithm, obs: Tensor
    ) -> None:
        """Raise InputError if these policies cannot explore so.

        Args:
            algorithm: What is trained.
            offline: Policy that was trained offline.
            obs: Any normalized observation, (1, O).
        """
        name = type(algorithm).__name__
        if not algorithm.draws_from_policy:
            if self.kl_budget is not None or self.sample_scale != 1:
                raise InputError(
                    f"{name} chooses between two policies: leave `kl_budget` and `sample_scale` "
                    "out."
                )
        elif self.kl_budget is not None:
            with torch.no_grad():
                policy, trusted = algorithm.policy(obs), offline.policy(obs)
            within(self.widened(policy), self.widened(trusted), 0.0)


def _tempered(policy: Categorical, temperature: float) -> Categorical:
    if temperature == 1:
        return policy
    if temperature == 0:
        return Greedy(policy.mode, policy.log_probs.shape[-1])
    below = policy.log_probs - policy.log_probs.amax(-1, keepdim=True)  # not all may become -inf
    return Categorical(below / temperature)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


class Explorer:
    """The algorithm's policy as it collects.

    Args:
        algorithm: What is trained; its own ``explore(obs)`` where that draws from more than its
            policy.
        offline: Policy that was trained offline, frozen: what a KL budget refers to.
        exploration: How far to stray.
    """

    def __init__(
        self, algorithm: OfflineAlgorithm, offline: OfflineAlgorithm, exploration: Exploration
    ) -> None:
        self.algorithm, self.offline, self.exploration = algorithm, offline, exploration

    @torch.no_grad()
    def act(self, obs: Tensor, step: int, warming_up: bool = False) -> Tensor:
        """Draw actions at normalized obs (B, O): (B, A) in [-1, 1], or indices (B,).

        Args:
            obs: Where to act.
            step: Environment step, which the budget depends on.
            warming_up: Whether the policy trained offline acts.
        """
        algorithm = self.offline if warming_up else self.algorithm
        if not algorithm.draws_from_policy:
            return algorithm.explore(obs)
        policy = self.exploration.widened(algorithm.policy(obs))
        budget = self.exploration.budget(step)
        if budget < math.inf:
            policy = within(policy, self.exploration.widened(self.offline.policy(obs)), budget)
        action = policy.sample()
        return action.clamp(-1, 1) if action.is_floating_point() else action


def within(policy: Distribution, trusted: Distribution, budget: float) -> Distribution:
    """Move a distribution toward a trusted one until KL(result‖trusted) fits the budget.

    The means and log σ of Gaussians, and the log-probabilities of discrete actions, are joined by
    a line; the largest share of ``policy`` that fits is found by bisection, at each observation.

    Args:
        policy: What is wanted.
        trusted: Distribution of the same kind.
        budget: Nats.

    Raises:
        InputError: If they are of different kinds, or of one without density.
    """
    if type(policy) is not type(trusted):
        raise InputError(
            "`kl_budget` needs two policies of one kind, and the offline policy is a "
            f"{type(trusted).__name__}, not a {type(policy).__name__}: leave it out."
        )
    if isinstance(policy, Categorical) and isinstance(trusted, Categorical):
        return _categorical_within(policy.log_probs, trusted.log_probs, budget)
    one, other = (p.base if isinstance(p, TanhGaussian) else p for p in (policy, trusted))
    if not (isinstance(one, Gaussian) and isinstance(other, Gaussian)):
        raise InputError("`kl_budget` needs a policy with a density: leave it out.")
    found = _gaussian_within(one, other, budget)
    return TanhGaussian(found) if isinstance(policy, TanhGaussian) else found


def _categorical_within(wanted: Tensor, trusted: Tensor, budget: float) -> Categorical:
    """:func:`within` of log-probabilities (B, A)."""
    wanted, trusted = wanted.clamp(min=-1e9), trusted.clamp(min=-1e9)

    def blend(share: Tensor) -> Categorical:
        return Categorical(torch.lerp(trusted, wanted, share))

    def kl(share: Tensor) -> Tensor:
        found = blend(share)
        return (found.probs * (found.log_probs - trusted)).sum(-1, keepdim=True)

    return blend(_largest_share(kl, budget, wanted[..., :1]))


def _gaussian_within(wanted: Gaussian, trusted: Gaussian, budget: float) -> Gaussian:
    """:func:`within` of Gaussians of (B, A)."""
    mean, log_std = wanted.mean, wanted.log_std.expand_as(wanted.mean)

    def blend(share: Tensor) -> Gaussian:
        other = trusted.log_std.expand_as(mean)
        return Gaussian(torch.lerp(trusted.mean, mean, share), torch.lerp(other, log_std, share))

    def kl(share: Tensor) -> Tensor:
        found = blend(share)
        shift = (found.mean - trusted.mean) / trusted.log_std.exp()
        gap = found.log_std - trusted.log_std
        nats = 0.5 * ((2 * gap).exp() + shift.square() - 1) - gap  # (B, A)
        return nats.sum(-1, keepdim=True)

    return blend(_largest_share(kl, budget, mean[..., :1]))


def _largest_share(kl: Callable[[Tensor], Tensor], budget: float, like: Tensor) -> Tensor:
    """Largest share in [0, 1] whose ``kl`` is at most the budget, (B, 1)."""
    low, high = torch.zeros_like(like), torch.ones_like(like)
    low = torch.where(kl(high) <= budget, high, low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = kl(middle) <= budget
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low
