"""Intervals of estimates over episodes: bootstrap, Student's t and empirical Bernstein.

Bootstrap intervals of importance-sampling estimates are approximate and cover less than they say:
:file:`benchmarks/coverage.py` measures by how much.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lit_offrl.errors import InputError, NotApplicableError

Array = NDArray[np.float64]

BATCH = 2**22
"""Most counts that are held at a time."""


@dataclass(frozen=True)
class Interval:
    """A two-sided interval, or why there is none.

    Args:
        bounds: Low and high end; None where there is no interval.
        std_error: Standard error; None where there is no interval.
        remark: Why there is no interval; else empty.
    """

    bounds: tuple[float, float] | None
    std_error: float | None
    remark: str = ""


def no_interval(reason: str) -> Interval:
    """Return that there is no interval, and why."""
    return Interval(None, None, reason)


def bootstrap_interval(
    statistic: Callable[[Array], Array],
    n: int,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Resample whole episodes (Efron 1979; BCa: Efron 1987).

    >>> x = np.arange(10.0)
    >>> round(bootstrap_interval(lambda counts: counts @ x / 10, n=10).std_error, 1)  # √8.25 / √10
    0.9

    Args:
        statistic: Estimates of counts (R, n) of the episodes, (R,).
        n: Number of episodes.
        level: Coverage that is asked for.
        resamples: Number of resamples, B.
        seed: Seed of the resamples.
        method: ``percentile``, or ``bca``: corrected for bias and skewness.
    """
    _check_level(level)
    if n < 2:
        return no_interval("One episode has no spread: an interval needs 2 or more.")

    def of_episodes(episodes: NDArray[np.int64], axis: int = -1) -> Array:
        rows = np.atleast_2d(episodes).astype(np.int64)  # (R, n), or (R, n - 1) for the jackknife
        shifted = rows + n * np.arange(len(rows))[:, None]
        counts = np.bincount(shifted.ravel(), minlength=n * len(rows)).reshape(-1, n)
        estimates = statistic(counts.astype(np.float64))  # (R,)
        return estimates if episodes.ndim == 2 else estimates[0]

    try:
        # what SciPy warns of is said in the remark
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (np.arange(n),),
                of_episodes,
                n_resamples=resamples,
                batch=max(1, BATCH // n),
                vectorized=True,
                confidence_level=level,
                method="BCa" if method == "bca" else "percentile",
                random_state=np.random.default_rng(seed),
            )
    except NotApplicableError as error:
        return no_interval(str(error))
    bounds = (float(result.confidence_interval.low), float(result.confidence_interval.high))
    if np.ptp(result.bootstrap_distribution) == 0:
        return no_interval("The resampled estimates do not differ: nothing is known of the error.")
    if not np.isfinite(bounds).all():
        return no_interval("BCa has no correction here: use the percentile interval.")
    return Interval(bounds, float(result.standard_error))


def student_t_interval(x: ArrayLike, level: float = 0.95) -> Interval:
    """Return the interval ``mean ± t s / √n`` of a mean.

    >>> student_t_interval([1.0, 2.0, 3.0], level=0.5).bounds  # 2 ± 0.8165 / √3
    (1.5285954792089682, 2.471404520791032)

    Args:
        x: What each episode adds to the mean, (n,).
        level: Coverage that is asked for.
    """
    _check_level(level)
    values = _finite(x)
    if len(values) < 2:
        return no_interval("One episode has no spread: an interval needs 2 or more.")
    if np.ptp(values) == 0:
        return no_interval("The episodes do not differ: nothing is known of the error.")
    std_error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * std_error
    center = float(values.mean())
    return Interval((center - half, center + half), std_error)


@dataclass(frozen=True)
class LowerBound:
    """A one-sided lower confidence bound.

    Args:
        value: The bound; the trivial one where it is vacuous.
        vacuous: Whether the data say no more than the range itself does.
    """

    value: float
    vacuous: bool


def empirical_bernstein_lower_bound(
    x: ArrayLike, low: float, high: float, delta: float = 0.05
) -> LowerBound:
    """Bound a mean from below at any sample size, with probability 1 − δ.

    ``mean − √(2 s² ln(2/δ) / n) − 7 (high − low) ln(2/δ) / (3 (n − 1))``: Maurer & Pontil (2009),
    theorem 4, https://arxiv.org/abs/0907.3740. The range must be known before the data: the
    largest of the values is no bound of the next one.

    >>> empirical_bernstein_lower_bound([0.5] * 101, low=0.0, high=1.0, delta=2 / math.e)
    LowerBound(value=0.4766..., vacuous=False)

    Args:
        x: Independent values, (n,).
        low: Lowest value that can be, the trivial bound.
        high: Highest value that can be.
        delta: δ, the probability that the bound fails.

    Raises:
        InputError: If a value lies outside the range.
    """
    if not 0 < delta < 1:
        raise InputError(f"`delta` is {delta}: choose a probability between 0 and 1.")
    values = _finite(x)
    if values.min() < low or values.max() > high:
        raise InputError(
            f"Values from {values.min():g} to {values.max():g} leave the range [{low:g}, {high:g}]:"
            " give the range that is known before the data."
        )
    n = len(values)
    if n < 2:
        return LowerBound(float(low), vacuous=True)
    log_term = math.log(2 / delta)
    spread = math.sqrt(2 * float(values.var(ddof=1)) * log_term / n)
    bound = float(values.mean()) - spread - 7 * (high - low) * log_term / (3 * (n - 1))
    return LowerBound(max(bound, float(low)), vacuous=bound <= low)


def _finite(x: ArrayLike) -> Array:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise InputError("The values of episodes must be finite and (episodes,).")
    return values


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"`level` is {level}: choose a number between 0 and 1, such as 0.95.")
