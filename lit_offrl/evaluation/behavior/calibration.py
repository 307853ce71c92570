"""Whether predicted action probabilities are true: pure functions of predictions and actions."""

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.models import SATURATED, TanhMixture

N_FEATURES = 64


def expected_calibration_error(
    probs: Tensor, action: Tensor, bins: int = 15
) -> tuple[float, float]:
    """Compare the confidence in the likeliest action with how often it was taken.

    ``Σ_b n_b/N |mean confidence - accuracy|`` over equal bins of confidence (Guo et al. 2017,
    eq. 3).

    Args:
        probs: Predicted probabilities, (N, A).
        action: Actions taken, (N,).
        bins: Number of bins.

    Returns:
        The error, and what the scatter of N actions makes of it where each probability is true:
        ``Σ_b n_b/N sqrt(2/π Σ p(1 - p)) / n_b``.

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25]]).repeat(4, 1), torch.arange(4) // 3)
    (0.0, 0.17274707473566775)
    """
    _refuse_none(action)
    confidence, likeliest = probs.double().max(-1)  # (N,)
    hit = likeliest.eq(action).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probs.device)[1:-1]
    which = torch.bucketize(confidence, edges)  # (N,)
    gap = torch.zeros(bins, dtype=torch.float64, device=probs.device)
    variance = gap.index_add(0, which, confidence * (1 - confidence))
    gap = gap.index_add(0, which, confidence - hit)
    noise = (variance * 2 / math.pi).sqrt().sum() / len(action)
    return gap.abs().sum().item() / len(action), noise.item()


def fit_temperature(logits: Tensor, action: Tensor) -> float:
    """Return the T in [0.05, 20] at which ``softmax(logits / T)`` has the least NLL (Guo 2017).

    Args:
        logits: Unnormalized log-probabilities, (N, A).
        action: Actions taken, (N,).

    >>> round(fit_temperature(torch.tensor([[2.0, 0.0]]).repeat(4, 1), torch.arange(4) // 3), 3)
    1.82
    """
    _refuse_none(action)
    logits = logits.double()

    def nll(log_temperature: float) -> float:
        log_probs = (logits / math.exp(log_temperature)).log_softmax(-1)
        return -log_probs.gather(-1, action.unsqueeze(-1)).mean().item()

    bounds = (math.log(0.05), math.log(20.0))
    best = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(best.x)


def probability_integral(mixture: TanhMixture, action: Tensor, seed: int = 0) -> Tensor:
    """Return ``F_d(a_d|s)`` of Box actions, which is uniform if the marginals F_d are true.

    Actions beyond 0.999 are interval-censored: of theirs it is only known that F lies between
    F(0.999) and 1, where a seeded draw puts it (randomized PIT, Smith 1985), so that clipped
    actions test the mass at the bound and not its density.

    Args:
        mixture: The predicted distributions.
        action: Actions taken, (N, A).
        seed: Of the draws.

    Returns:
        Float64 numbers in [0, 1], (N, A).
    """
    base = mixture.components.base
    weight = mixture.log_weight.double().exp().unsqueeze(-1)  # (K, N, 1)
    std = base.log_std.double().exp()

    def cdf(z: Tensor) -> Tensor:
        below: Tensor = torch.special.ndtr((z - base.mean.double()) / std)  # (K, N, A)
        return (weight * below).sum(0)

    action = action.double()
    bound = torch.tensor(SATURATED, dtype=torch.float64, device=action.device).atanh()
    z = action.clamp(-SATURATED, SATURATED).atanh()  # (N, A)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(z.shape, generator=generator, dtype=torch.float64).to(z)
    u = torch.where(action >= SATURATED, torch.lerp(cdf(bound), torch.ones_like(z), draw), cdf(z))
    return torch.where(action <= -SATURATED, draw * cdf(-bound), u).clamp(0, 1)


def ks_uniform(u: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distance to the uniform distribution of each column of (N, A): (A,).

    >>> ks_uniform(torch.tensor([[0.25], [0.75]]))
    tensor([0.2500])
    """
    _refuse_none(u)
    n = len(u)
    step = torch.arange(n + 1, dtype=u.dtype, device=u.device).unsqueeze(-1) / n
    ordered = u.sort(0).values
    return torch.maximum((step[1:] - ordered).amax(0), (ordered - step[:-1]).amax(0))


def unexplained_share(residual: Tensor, obs: Tensor, seed: int = 0) -> float | None:
    """Share of the residuals' variance that the observations still predict.

    Where a behavior model is true, its residuals have mean zero whatever the observation, so that
    a regression on p features explains p/N of them by chance, which is taken off (adjusted R²). A
    model that knows only how often each action is taken is calibrated and passes ECE and PIT, but
    not this.

    Args:
        residual: ``1[a] - β̂(a|s)``, or normal scores of the PIT, (N, D).
        obs: Normalized observations, (N, O).
        seed: Of the 64 random ReLU features that are taken beside the observations.

    Returns:
        The share, of all columns together; below 0 by chance. None if rows are too few to tell.
    """
    _refuse_none(residual)
    obs, residual = obs.double().cpu().clamp(-5, 5), residual.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(obs.shape[1] + 1, N_FEATURES, generator=generator, dtype=torch.float64)
    constant = torch.ones(len(obs), 1, dtype=torch.float64)
    inputs = torch.cat([obs, constant], 1)  # (N, O + 1)
    hidden = (inputs @ direction / math.sqrt(inputs.shape[1])).relu()
    features = torch.cat([inputs, hidden], 1)  # (N, O + 65)
    # least squares by eigenvectors, since constant and repeated features make the rank deficient
    size, direction = torch.linalg.eigh(features.T @ features)
    kept = size > size[-1] * 1e-10
    n, rank = len(features), int(kept.sum())
    if n < 2 * rank:
        return None
    found = direction[:, kept].T @ (features.T @ residual)  # (rank, D)
    explained = (found.square() / size[kept].unsqueeze(-1)).sum().item()
    total = residual.square().sum().item()
    return 1 - (1 - explained / total) * n / (n - rank) if total > 0 else 0.0


def _refuse_none(rows: Tensor) -> None:
    if not len(rows):
        raise InputError("Calibration needs at least one row.")
