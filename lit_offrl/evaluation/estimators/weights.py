"""Importance weights in log space: their sums over time, their averages over episodes.

Products of a thousand ratios leave the range of floats; sums of their logarithms do not.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_offrl.errors import InputError, NotApplicableError

Array = NDArray[np.float64]

SMALL = 1e-280
"""A sum of weights below it, the largest being 1, has lost digits to underflow."""


def cumulative_log_weight(log_ratio: ArrayLike) -> Array:
    """Sum log-ratios over time: ``log w_t``, (n, T).

    >>> cumulative_log_weight([[0.5, -1.0, 0.0]])
    array([[ 0.5, -0.5, -0.5]])

    Raises:
        InputError: If a log-ratio is NaN or +inf, or the shape is not (n, T).
        NotApplicableError: If every episode has weight 0.
    """
    steps = np.asarray(log_ratio, dtype=np.float64)
    if steps.ndim != 2 or steps.size == 0:
        raise InputError(f"`log_ratio` has shape {steps.shape}: pass (episodes, steps).")
    if np.isnan(steps).any() or np.isposinf(steps).any():
        raise InputError(
            "`log_ratio` holds NaN or +inf: a logged action has behavior probability 0 or no "
            "probability at all; floor log β̂, or drop those episodes and say so."
        )
    log_weight: Array = np.cumsum(steps, axis=1)
    if np.isneginf(log_weight[:, -1]).all():
        raise NotApplicableError(
            f"The policy never takes some logged action in each of the {len(steps)} episodes: "
            "all weights are 0."
        )
    return log_weight


def plain_weight(log_weight: Array) -> Array:
    """Return ``w``.

    Raises:
        NotApplicableError: If float64 cannot hold a weight.
    """
    largest = float(log_weight.max())
    if largest > math.log(np.finfo(np.float64).max) / 2:  # leaves room for sums and rewards
        raise NotApplicableError(
            f"The largest weight is e^{largest:.0f}, too large to average: clip the log-ratios, or "
            "use a self-normalized estimator."
        )
    return np.exp(log_weight)


def self_normalized(log_weight: Array, x: Array, counts: ArrayLike | None = None) -> Array:
    """Average each column with its weights: ``Σ_i c_i w_i x_i / Σ_i c_i w_i``, (R, T) or (T,).

    Args:
        log_weight: ``log w``, (n, T); a row that is -inf stays so.
        x: What is averaged, (n, T).
        counts: How often each episode counts, (R, n).

    Raises:
        NotApplicableError: If a resample has only episodes of weight 0.
    """
    draws = np.ones((1, len(x))) if counts is None else np.atleast_2d(as_counts(counts, len(x)))
    supported = ~np.isneginf(log_weight[:, -1])  # (n,)
    if (draws @ supported == 0).any():
        raise NotApplicableError(
            f"Only {supported.sum()} of {len(x)} episodes have a weight above 0, and some "
            "resample has none of them: too few for an interval."
        )
    weight = np.exp(log_weight - log_weight.max(0))  # (n, T)
    total = draws @ weight  # (R, T)
    lost = total < SMALL  # (R, T)
    mean = (draws @ (weight * x)) / np.where(lost, 1.0, total)  # (R, T)
    for row in np.flatnonzero(lost.any(1)):  # the heaviest episodes were not drawn: shift again
        drawn = draws[row] > 0
        log_drawn = log_weight[np.ix_(drawn, lost[row])]
        again = draws[row, drawn, None] * np.exp(log_drawn - log_drawn.max(0))
        mean[row, lost[row]] = (again * x[np.ix_(drawn, lost[row])]).sum(0) / again.sum(0)
    return np.asarray(mean[0] if counts is None or np.ndim(counts) == 1 else mean)


def same_shape(name: str, values: ArrayLike, like: Array) -> Array:
    """Return ``values`` as float64.

    Raises:
        InputError: If they have another shape than ``like``, or are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != like.shape:
        raise InputError(f"`{name}` has shape {array.shape}, `log_ratio` {like.shape}: pad both.")
    if not np.isfinite(array).all():
        raise InputError(f"`{name}` holds NaN or inf: remove those episodes and say so.")
    return array


def as_counts(counts: ArrayLike, n: int) -> Array:
    """Return counts of resampled episodes as float64, (R, n) or (n,).

    Raises:
        InputError: If there is not one count, 0 or more, for each of the n episodes, or all are 0.
    """
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim not in (1, 2) or array.shape[-1] != n or not (array >= 0).all():
        raise InputError(f"`counts` has shape {array.shape}: pass (resamples, {n}) counts >= 0.")
    if (array.sum(-1) == 0).any():
        raise InputError("Some of `counts` draw no episode: each row needs a count above 0.")
    return array
