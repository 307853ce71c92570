"""Tests that may be looked at after every episode: wealth of bets against "nothing has changed".

Under the null hypothesis a wealth starts at 1 and is not expected to grow, so that it ever reaches
1/α with probability α at most (Ville's inequality), however often one looks.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
POWERS = np.linspace(0.1, 0.9, 9)
"""Exponents ε of the bets ``ε p^(ε-1)`` on a p-value."""
FRACTIONS = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
"""Bets on a mean, as shares of the largest that cannot ruin."""
TINY = 1e-12
"""Stands for the p-value 0, which rounding may make."""
WAKING = 0.02
"""Share of the wealth that is kept back and starts to bet at each episode: for late changes."""
DRAWS = 9
"""Resamples of which the median says what drop of the returns would show."""
MOST_DRAWN = 300
"""Episodes of a resample at most: more would show smaller drops, but take longer."""


class Wealth:
    """Wealth of several bets, half of it kept back at first for a change that comes later.

    ``W_t = R_t + Σ_j A_{t,j}``; at each episode a share :data:`WAKING` of the reserve R is spread
    over the bets A, each of which is then multiplied by its factor. If no factor is expected to
    exceed 1, neither is W's growth.

    Args:
        bets: Number of bets.
    """

    def __init__(self, bets: int) -> None:
        self._log_reserve = math.log(0.5)
        self._log_bets = np.full(bets, math.log(0.5 / bets))
        self.path: list[float] = []
        """Natural logarithm of the wealth after each episode."""
        self.judged = 0
        """Episodes that were bet on, and not skipped."""

    def bet(self, factors: Array) -> None:
        """Multiply the bets by their factors, (bets,)."""
        self.judged += 1
        woken = self._log_reserve + math.log(WAKING / len(factors))
        self._log_reserve += math.log1p(-WAKING)
        with np.errstate(divide="ignore"):  # a bet may be lost wholly
            self._log_bets = np.logaddexp(self._log_bets, woken) + np.log(factors)
        self.path.append(self.log)

    def skip(self) -> None:
        """Bet nothing on an episode."""
        self.path.append(self.log)

    @property
    def log(self) -> float:
        """Natural logarithm of the wealth."""
        return float(np.logaddexp.reduce(np.append(self._log_bets, self._log_reserve)))

    @property
    def log_peak(self) -> float:
        """Natural logarithm of the largest wealth so far, at least 0."""
        return max([0.0, *self.path])


class ConformalTest:
    """Are new scores exchangeable with calibration scores (Vovk, Gammerman and Shafer, 2005)?

    The n-th score gets ``p_n = (#{larger} + U #{equal}) / n`` among all scores so far, itself
    included and calibration ones first. Under exchangeability these are independent and uniform,
    exactly and in any number. Bets are ``ε p^(ε-1)``, which win where p is small.

    Args:
        calibration: Scores of episodes of which nothing is suspected, (n,).
        two_sided: Whether small scores are as suspicious as large ones.
        seed: Of the draws U, uniform in (0, 1], which break ties.
    """

    def __init__(
        self, calibration: Sequence[float], two_sided: bool = False, seed: int = 0
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._scores = list(calibration)
        self._two_sided = two_sided
        self.wealth = Wealth(len(POWERS))

    def add(self, score: float) -> float:
        """Bet on the next score, and return its p-value."""
        self._scores.append(score)
        known = np.asarray(self._scores)  # (n,)
        share = 1 - self._rng.random()
        p = float((known > score).mean() + share * (known == score).mean())
        if self._two_sided:
            p = max(2 * min(p, 1 - p), TINY)
        self.wealth.bet(power_bets(p))
        return p


class MeanTest:
    """Does the mean of bounded numbers lie in an interval (Waudby-Smith and Ramdas, 2023)?

    Bets ``1 + λ (low - x)`` with ``λ = c / (b - low)`` win where the mean is below ``low``, their
    mirror images where it is above ``high``; https://arxiv.org/abs/2010.09686.

    Args:
        interval: Lowest and highest mean that are as predicted.
        bounds: What no number can leave, known beforehand; numbers are clipped to them.
    """

    def __init__(self, interval: tuple[float, float], bounds: tuple[float, float]) -> None:
        self.interval, self.bounds = interval, bounds
        self.wealth = Wealth(2 * len(FRACTIONS))

    def add(self, low: float, high: float | None = None) -> None:
        """Bet on the next number, or on one between ``low`` and ``high``, as the worst would do."""
        best = low if high is None else high
        below, _ = np.split(mean_bets(best, self.interval, self.bounds), 2)
        _, above = np.split(mean_bets(low, self.interval, self.bounds), 2)
        self.wealth.bet(np.append(below, above))


def power_bets(p: float) -> Array:
    """``ε p^(ε-1)`` for all :data:`POWERS`, (9,); each is expected to be 1 if p is uniform."""
    return np.asarray(POWERS * p ** (POWERS - 1))


def mean_bets(x: float, interval: tuple[float, float], bounds: tuple[float, float]) -> Array:
    """Factors of the bets of a :class:`MeanTest`, (10,).

    >>> mean_bets(0.0, interval=(0.5, 0.5), bounds=(0.0, 1.0)).round(2).tolist()
    [1.05, 1.1, 1.2, 1.4, 1.8, 0.95, 0.9, 0.8, 0.6, 0.2]
    """
    (low, high), (a, b) = interval, bounds
    x = min(max(x, a), b)
    below = FRACTIONS * (low - x) / (b - low) if b > low else np.zeros_like(FRACTIONS)
    above = FRACTIONS * (x - high) / (high - a) if high > a else np.zeros_like(FRACTIONS)
    return 1 + np.concatenate([below, above])


def first_passage(path: Sequence[float], threshold: float) -> int | None:
    """Episodes until a logarithmic wealth first reached ``log(threshold)``; None if it has not.

    >>> first_passage([0.0, 2.0, 5.0, 1.0], threshold=100.0)
    3
    """
    reached = np.flatnonzero(np.asarray(path) >= math.log(threshold))
    return int(reached[0]) + 1 if len(reached) else None


def fewest_episodes(n_calibration: int, threshold: float, limit: int = 1000) -> int | None:
    """Episodes after which a conformal test alarms if each is stranger than all calibration ones.

    Args:
        n_calibration: Number of calibration scores.
        threshold: Wealth at which it alarms.
        limit: Number of episodes beyond which it does not matter.

    Returns:
        Their number, or None where so few calibration scores never suffice.
    """
    wealth = Wealth(len(POWERS))
    for k in range(1, limit + 1):
        wealth.bet(power_bets((k + 1) / 2 / (n_calibration + k)))  # the middle of the k strangest
        if wealth.log >= math.log(threshold):
            return k
    return None


def visible_drop(
    test: MeanTest | ConformalTest, values: Array, n: int, threshold: float, seed: int = 0
) -> float | None:
    """Smallest drop of the mean that n numbers of usual spread would show.

    It is the median over :data:`DRAWS` resamples of n values, each moved to the mean that is tried:
    below the predicted interval of a :class:`MeanTest`, below the calibration scores' mean
    otherwise.

    Args:
        test: What kind of test is asked, and with which interval.
        values: Calibration scores, which show the usual spread, (m,).
        n: How many are to be seen; of more than :data:`MOST_DRAWN` only as many.
        threshold: Wealth at which the test alarms.
        seed: Of the resamples.

    Returns:
        The drop, a hundredth of the possible one exact; None if the largest would not show.
    """
    if not n:
        return None
    rng, n = np.random.default_rng(seed), min(n, MOST_DRAWN)
    found = []
    for _ in range(DRAWS):
        drawn = rng.choice(values, n)
        spread = drawn - drawn.mean()
        if isinstance(test, MeanTest):
            largest = test.interval[0] - test.bounds[0]
            found.append(_smallest_drop(partial(_shows_low, test, spread, threshold), largest))
        else:
            new = values.mean() + spread
            largest = float(np.ptp(values)) or abs(float(values.mean()))
            found.append(_smallest_drop(partial(_shows_other, values, new, threshold), largest))
    median = float(np.median(found))
    return median if math.isfinite(median) else None


def _smallest_drop(shows: Callable[[float], bool], largest: float) -> float:
    """Smallest drop that shows; infinite if the largest does not, or 0 already does."""
    drops = np.linspace(0, largest, 101)
    if shows(0.0) or not shows(drops[-1]):
        return math.inf
    first, last = 0, 100  # the last shows
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if shows(drops[middle]) else (middle, last)
    return float(drops[last])


def _shows_low(test: MeanTest, spread: Array, threshold: float, drop: float) -> bool:
    """Whether bets on a mean below the interval alarm, those above it being lost."""
    wealth = Wealth(2 * len(FRACTIONS))
    for x in test.interval[0] - drop + spread:
        below = mean_bets(float(x), test.interval, test.bounds)[: len(FRACTIONS)]
        wealth.bet(np.append(below, np.zeros_like(below)))
    return wealth.log_peak >= math.log(threshold)


def _shows_other(known: Array, new: Array, threshold: float, drop: float) -> bool:
    test = ConformalTest(known.tolist(), two_sided=True)
    for x in new - drop:
        test.add(float(x))
    return test.wealth.log_peak >= math.log(threshold)


class Cusum:
    """Two-sided cumulative sums of standardized numbers (Page, 1954).

    ``S+ = max(0, S+ + z - k)`` and ``S- = max(0, S- - z - k)``; on independent normal numbers one
    of them exceeds h = 5 about once in 465 for k = 0.5, so that a crossing is a hint, no alarm.

    Args:
        mean: Mean that is expected.
        std: Standard deviation that is expected.
        k: Half of the shift to detect, in standard deviations.
        h: Sum that counts as a crossing.
    """

    def __init__(self, mean: float, std: float, k: float = 0.5, h: float = 5.0) -> None:
        self.mean, self.std, self.k, self.h = mean, std, k, h
        self._high = self._low = 0.0
        self.path: list[float] = []
        """Larger of the two sums after each number, negative where it is S-."""

    def add(self, x: float) -> None:
        """Add the next number."""
        z = (x - self.mean) / self.std
        self._high = max(0.0, self._high + z - self.k)
        self._low = max(0.0, self._low - z - self.k)
        self.path.append(self._high if self._high >= self._low else -self._low)

    @property
    def crossed(self) -> int | None:
        """Episodes until a sum first exceeded h; None if none has."""
        beyond = np.flatnonzero(np.abs(self.path) > self.h)
        return int(beyond[0]) + 1 if len(beyond) else None
