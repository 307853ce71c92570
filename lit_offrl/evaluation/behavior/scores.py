"""How good a behavior model is: scores on logged rows, and what they mean."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_offrl.evaluation.behavior.calibration import (
    expected_calibration_error,
    ks_uniform,
    probability_integral,
    unexplained_share,
)
from lit_offrl.evaluation.behavior.models import TanhMixture, as_mixture
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.diagnosis.divergence import policy_kl
from lit_offrl.policies import Gaussian, TanhGaussian
from lit_offrl.rng import seeded

CHUNK = 4096
N_DRAWS = 16
"""Actions per state where a divergence has no closed form."""


@dataclass(frozen=True)
class Scores:
    """Scores of a behavior model on logged rows.

    Args:
        n_rows: Number of rows N.
        n_episodes: Number of episodes that they come from.
        nll: Mean of ``-log β̂(a|s)`` in nats; of a density per unit of scaled Box action.
        ece: Expected calibration error; None for Box actions.
        ece_noise: What N draws make of the ECE of a true model.
        pit: Kolmogorov-Smirnov distance of the PIT to uniform, per action dimension; None for
            discrete actions.
        unexplained: Share of the residuals' variance that observations still predict; None if
            there are too few rows to tell.
        unseen: Share of the logged actions that the model counts as unseen.
    """

    n_rows: int
    n_episodes: int
    nll: float
    ece: float | None
    ece_noise: float | None
    pit: tuple[float, ...] | None
    unexplained: float | None
    unseen: float

    @property
    def pit_statistic(self) -> float | None:
        """Largest distance over the action dimensions."""
        return None if self.pit is None else max(self.pit)


@torch.no_grad()
def score(policy: BehaviorPolicy, obs: Tensor, action: Tensor, n_episodes: int) -> Scores:
    """Score a behavior model on logged rows.

    Args:
        policy: The model.
        obs: Normalized observations, (N, O), N >= 1.
        action: Scaled Box actions, (N, A), or indices of discrete ones, (N,).
        n_episodes: Number of episodes that the rows come from.
    """
    rows = list(zip(torch.split(obs, CHUNK), torch.split(action, CHUNK), strict=True))
    nll = -torch.cat([policy.log_prob(o, a) for o, a in rows]).double().mean().item()
    unseen = torch.cat([policy.unseen(o, a) for o, a in rows]).double().mean().item()
    ece = noise = pit = None
    if policy.discrete:
        probs = torch.cat([policy.probs(o) for o, _ in rows]).double()  # (N, A)
        ece, noise = expected_calibration_error(probs, action)
        residual = F.one_hot(action, policy.action_dim) - probs
    else:
        u = torch.cat(
            [
                probability_integral(as_mixture(policy.policy(o)), a, seed)
                for seed, (o, a) in enumerate(rows)
            ]
        )  # (N, A)
        pit = tuple(ks_uniform(u).tolist())
        residual = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
    return Scores(
        len(obs), n_episodes, nll, ece, noise, pit, unexplained_share(residual, obs), unseen
    )


@torch.no_grad()
def divergence_bits(
    one: BehaviorPolicy, other: BehaviorPolicy, obs: Tensor, seed: int = 0
) -> tuple[float, tuple[float, ...]]:
    """Return ``KL(one ‖ other)`` in bits, mean over states: of the action, and per dimension.

    It is measured as that of a policy to β̂ is, see :func:`policy_kl`. Per dimension it is the
    divergence of the marginals, whose sum need not be the total.

    Args:
        one: Model that is drawn from.
        other: Model of the same kind of actions.
        obs: Normalized observations, (N, O).
        seed: Of the draws, 16 per state where there is no closed form.
    """
    p, q = one.policy(obs), other.policy(obs)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(N_DRAWS, len(obs), one.action_dim, generator=generator)
    with seeded(seed):  # a mixture draws by itself
        total = policy_kl(p, q, noise)[0].mean().item()
        if one.discrete:
            return total, (total,)
        p, q = as_mixture(p), as_mixture(q)
        per_dim = [
            policy_kl(_marginal(p, d), _marginal(q, d), noise[..., d : d + 1])[0].mean().item()
            for d in range(one.action_dim)
        ]
    return total, tuple(per_dim)


def _marginal(mixture: TanhMixture, dim: int) -> TanhMixture:
    """Distribution of one action dimension."""
    base = mixture.components.base
    one = slice(dim, dim + 1)
    components = TanhGaussian(Gaussian(base.mean[..., one], base.log_std[..., one]))
    return TanhMixture(mixture.log_weight, components)
