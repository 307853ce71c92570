"""How far a policy is from the behavior policy, in bits.

Densities of Box actions near a bound mean little: logged actions lie on the bound exactly, and a
squashed density grows there without limit. What counts is the action that is executed, so actions
within 0.1 % of a bound are one outcome, "on the bound", with a probability; between the bounds
densities are compared as usual. The divergence of such outcomes is never larger than that of the
densities (data processing inequality), equal to it where no mass is near a bound, and defined for
the Gaussian policies too, whose samples are clipped.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_offrl.evaluation.behavior.models import TanhMixture
from lit_offrl.policies import Categorical, Gaussian, TanhGaussian

BITS_PER_NAT = 1 / math.log(2)
END = 0.999
"""Actions beyond this count as on the bound."""


@dataclass(frozen=True)
class GaussianMixture:
    """What the densities of Box actions here are made of, in float64.

    Args:
        log_weight: Log-weights of the components, (K, B).
        mean: Means, (K, B, A).
        log_std: Log standard deviations, (K, B, A).
        squashed: Whether an action is the ``tanh`` of such a variable; else it is clipped.
    """

    log_weight: Tensor
    mean: Tensor
    log_std: Tensor
    squashed: bool

    @property
    def end(self) -> float:
        """Where the bound lies for the Gaussian variable."""
        return math.atanh(END) if self.squashed else END


def as_mixture(distribution: Any) -> GaussianMixture | None:
    """Take apart a Gaussian, a squashed one or a mixture of squashed ones; None for others."""
    if isinstance(distribution, TanhMixture):
        base = distribution.components.base
        weight = distribution.log_weight.double()
        return GaussianMixture(weight, base.mean.double(), base.log_std.double(), True)
    squashed = isinstance(distribution, TanhGaussian)
    base = distribution.base if squashed else distribution
    if not isinstance(base, Gaussian):
        return None
    mean = base.mean.double().unsqueeze(0)  # (1, B, A)
    return GaussianMixture(
        mean.new_zeros(mean.shape[:-1]), mean, base.log_std.double().expand_as(mean), squashed
    )


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``Σ_a p(a) (log2 p(a) - log2 q(a))`` of log-probabilities (B, A): bits, (B,).

    Infinite where q excludes an action that p takes.

    >>> categorical_kl(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.5, 0.5]]).log())
    tensor([1.])
    """
    p = log_p.exp()  # (B, A)
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1) * BITS_PER_NAT


def gaussian_kl(p: Gaussian, q: Gaussian, end: float = math.inf) -> Tensor:
    """``KL(p‖q)`` of each dimension in bits, (B, A), exact.

    With two squashed Gaussians this is the divergence of the actions, since ``tanh`` is invertible.

    Args:
        p: Gaussian variables before ``tanh`` or clipping.
        q: Gaussian variables, likewise.
        end: Values beyond ±end are one outcome each; infinity is the divergence of the densities
            ``log σ_q/σ_p + (σ_p² + (μ_p - μ_q)²) / 2σ_q² - 1/2``.

    >>> normal = Gaussian(torch.zeros(1, 1), torch.zeros(1, 1))
    >>> gaussian_kl(Gaussian(torch.full((1, 1), 2.633), torch.zeros(1, 1)), normal)
    tensor([[5.0009]], dtype=torch.float64)
    """
    mean, log_std = p.mean.double(), p.log_std.double().expand_as(p.mean)
    other, log_other = q.mean.double(), q.log_std.double().expand_as(q.mean)
    std, shift = log_std.exp(), mean - other
    low, high = (-end - mean) / std, (end - mean) / std  # (B, A) the ends in p's own units
    density_low, density_high = (torch.exp(-0.5 * x.square()) for x in (low, high))
    density_low, density_high = (x / math.sqrt(2 * math.pi) for x in (density_low, density_high))
    # Moments of p's noise between the ends: ∫φ, ∫εφ, ∫ε²φ.
    zeroth = torch.special.ndtr(high) - torch.special.ndtr(low)
    first = density_low - density_high
    second = zeroth + _product(low, density_low) - _product(high, density_high)
    distance = std.square() * second + 2 * std * shift * first + shift.square() * zeroth
    inside = (log_other - log_std) * zeroth - second / 2 + distance / (2 * (2 * log_other).exp())
    outside = torch.zeros_like(inside)
    for sign in (-1.0, 1.0):
        log_p = torch.special.log_ndtr((sign * mean - end) / std)
        log_q = torch.special.log_ndtr((sign * other - end) / log_other.exp())
        outside += torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0.0)
    kl: Tensor = (inside + outside) * BITS_PER_NAT
    return kl


def _product(x: Tensor, density: Tensor) -> Tensor:
    """``x φ(x)``, 0 at infinity."""
    return torch.where(x.isinf(), 0.0, x * density)


def log_prob(distribution: Any, action: Tensor) -> Tensor:
    """Log-probability or density of actions in nats, (..., B), in float64.

    Of a Box action it is that of :func:`mixture_log_prob` wherever the distribution is known.

    Raises:
        NotApplicableError: If the distribution has no density.
    """
    mixture = as_mixture(distribution)
    if mixture is not None:
        return mixture_log_prob(mixture, action)
    other: Tensor = distribution.log_prob(action)
    return other.double()


def mixture_log_prob(mixture: GaussianMixture, action: Tensor) -> Tensor:
    """Log-density of actions (..., B, A) in nats, (..., B), with the probability of a bound on it.

    Args:
        mixture: Of the actions.
        action: In [-1, 1], or outside where clipping puts them on the bound.
    """
    action = action.double().unsqueeze(-3)  # (..., 1, B, A)
    inside = action.clamp(-END, END)
    value = inside.atanh() if mixture.squashed else inside
    std = mixture.log_std.exp()
    log_prob = -0.5 * ((value - mixture.mean) / std).square() - mixture.log_std
    log_prob = log_prob - 0.5 * math.log(2 * math.pi)
    if mixture.squashed:
        log_prob = log_prob - (-inside.square()).log1p()
    for sign in (-1.0, 1.0):
        on_bound = torch.special.log_ndtr((sign * mixture.mean - mixture.end) / std)
        log_prob = torch.where(sign * action >= END, on_bound, log_prob)
    return (mixture.log_weight + log_prob.sum(-1)).logsumexp(-2)


def sampled_kl(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Two Monte Carlo estimates of ``KL(π‖β)`` in bits, (B,) each.

    The mean of log ρ, and that of ``(1/ρ - 1) + log ρ``, which is unbiased too, never negative, and
    less noisy where the policies are close (Schulman 2020, "Approximating KL divergence").

    Args:
        log_ratio: ``log ρ = log π(a) - log β(a)`` in nats at actions drawn from π, (draws, B).

    >>> sampled_kl(torch.tensor([[0.0], [math.log(2)]]))
    (tensor([0.5000]), tensor([0.1393]))
    """
    low_variance = torch.expm1(-log_ratio) + log_ratio
    return log_ratio.mean(0) * BITS_PER_NAT, low_variance.mean(0) * BITS_PER_NAT


def policy_kl(policy: Any, behavior: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """``KL(π‖β)`` at each observation in bits, (B,), and the low-variance estimate of it.

    The two are the same where there is a closed form: discrete actions, and two Gaussians that are
    both squashed or both clipped. Otherwise ``noise`` decides on the actions drawn.

    Args:
        policy: Distribution that an algorithm's ``policy(obs)`` returned.
        behavior: Distribution of the behavior policy at the same observations.
        noise: Standard normal, (draws, B, A); not looked at for discrete actions.

    Raises:
        NotApplicableError: If the policy has no density.
    """
    if (log_p := log_probs_of(policy)) is not None and (
        log_q := log_probs_of(behavior)
    ) is not None:
        exact = categorical_kl(log_p.double(), log_q.double())
        return exact, exact
    p, q = as_mixture(policy), as_mixture(behavior)
    if p is None or q is None or len(p.mean) > 1:
        return _drawn_kl(policy, behavior, len(noise))
    if p.squashed == q.squashed and len(q.mean) == 1:
        one, other = (Gaussian(m.mean[0], m.log_std[0]) for m in (p, q))
        exact = gaussian_kl(one, other, p.end).sum(-1)
        return exact, exact
    drawn = p.mean + p.log_std.exp() * noise.double()  # (draws, B, A)
    action = drawn.tanh() if p.squashed else drawn
    return sampled_kl(mixture_log_prob(p, action) - mixture_log_prob(q, action))


def _drawn_kl(policy: Any, behavior: Any, draws: int) -> tuple[Tensor, Tensor]:
    """Monte Carlo with the policy's own ``sample``: for distributions of a kind unknown here."""
    ratios = []
    for _ in range(draws):
        action = policy.sample()
        ratios.append(log_prob(policy, action) - log_prob(behavior, action))
    return sampled_kl(torch.stack(ratios))


def log_probs_of(distribution: Any) -> Tensor | None:
    """Log-probabilities of all discrete actions, (B, A); None for Box actions."""
    if isinstance(distribution, Categorical):
        return distribution.log_probs
    probs: Tensor | None = getattr(distribution, "probs", None)
    return None if probs is None else probs.log()
