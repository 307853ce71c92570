"""How far importance weights can be trusted, and clipping them.

Effective sample size: Owen (2013), "Monte Carlo theory, methods and examples", chapter 9.
Pareto k: Vehtari, Simpson, Gelman, Yao & Gabry (2024), https://arxiv.org/abs/1507.02646.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.estimators.weights import SMALL, Array

SHORTEST_TAIL = 5
"""Fewest weights that a Pareto tail is fitted to."""


def effective_sample_size(log_weight: ArrayLike) -> float:
    """ESS: ``(Σ w)² / Σ w²``, from 1 to n episodes.

    >>> effective_sample_size(np.log([1.0, 1.0, 2.0]))  # 16 / 6
    2.6666666666666665

    Args:
        log_weight: ``log w_T`` of each episode, (n,).
    """
    weight = _relative(log_weight)
    return float(weight.sum() ** 2 / (weight**2).sum())


def max_weight_share(log_weight: ArrayLike) -> float:
    """Share of the whole weight that the heaviest episode has.

    >>> max_weight_share(np.log([1.0, 1.0, 2.0]))
    0.5
    """
    return float(1 / _relative(log_weight).sum())  # the heaviest has weight 1


def clip_log_weight(log_weight: ArrayLike, clip: float) -> tuple[Array, float]:
    """Clip weights at ``clip``, and return the share of the whole weight that this cuts off.

    >>> clipped, share = clip_log_weight(np.log([1.0, 1.0, 6.0]), clip=2.0)
    >>> np.exp(clipped).round(6), round(share, 6)
    (array([1., 1., 2.]), 0.5)

    Args:
        log_weight: ``log w_T`` of each episode, (n,).
        clip: Largest weight.

    Raises:
        InputError: If ``clip`` is not positive.
    """
    if not clip > 0:
        raise InputError(f"Weights are clipped at {clip}: choose a number above 0.")
    whole = _relative(log_weight)
    weights = np.asarray(log_weight, dtype=np.float64)
    kept = np.exp(np.minimum(weights, math.log(clip)) - weights.max())
    return np.minimum(weights, math.log(clip)), float(1 - kept.sum() / whole.sum())


def pareto_k(log_weight: ArrayLike) -> float | None:
    """Shape of the upper tail of the weights; above 0.7 their mean cannot be trusted.

    A generalized Pareto distribution is fitted to the ``min(n / 5, 3 √n)`` largest weights. Moments
    of order 1/k and above do not exist.

    Args:
        log_weight: ``log w_T`` of each episode, (n,).

    Returns:
        k, inf where the tail spans more than float64 holds, or None where fewer than 5 weights
        stand out: the effective sample size speaks for those.
    """
    _relative(log_weight)
    ordered = np.sort(np.asarray(log_weight, dtype=np.float64))
    length = math.ceil(min(len(ordered) / 5, 3 * math.sqrt(len(ordered))))
    if length < SHORTEST_TAIL or length >= len(ordered):
        return None
    threshold = ordered[-length - 1]
    tail = ordered[ordered > threshold]
    if len(tail) < SHORTEST_TAIL:
        return None
    excess = np.exp(tail - tail[-1]) - np.exp(threshold - tail[-1])
    return math.inf if excess[len(excess) // 4] < SMALL else generalized_pareto_shape(excess)


def generalized_pareto_shape(excess: Array) -> float:
    """Estimate k of a generalized Pareto distribution (Zhang & Stephens 2009).

    The posterior mean of ``θ = −k/σ`` on a grid, then k by its likelihood equation. It has no
    optimizer that may fail, as maximum likelihood has, and Vehtari et al. add 10 observations'
    worth of prior weight at k = 0.5 for short tails.

    Args:
        excess: Excesses over the threshold, ascending, (m,).
    """
    m = len(excess)
    n_grid = 30 + int(math.sqrt(m))
    quartile = excess[int(m / 4 + 0.5) - 1]
    spread = 1 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))
    theta = 1 / excess[-1] + spread / (3 * quartile)  # (grid,)
    theta = theta[theta != 0]  # an exponential tail, where the likelihood is 0 / 0
    k = np.log1p(-theta[:, None] * excess).mean(1)  # (grid,)
    log_likelihood = m * (np.log(-theta / k) - k - 1)  # profile likelihood, (grid,)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    mean_theta = (posterior * theta).sum() / posterior.sum()
    shape = np.log1p(-mean_theta * excess).mean()
    return float((m * shape + 10 * 0.5) / (m + 10))


def _relative(log_weight: ArrayLike) -> Array:
    """Weights relative to the largest, (n,)."""
    array = np.asarray(log_weight, dtype=np.float64)
    if array.ndim != 1 or not (array < np.inf).all():
        raise InputError("`log_weight` must be (episodes,), and neither NaN nor +inf.")
    if not np.isfinite(array).any():
        raise NotApplicableError("All importance weights are 0.")
    return np.asarray(np.exp(array - array.max()))
