"""What a fine-tuning run gained, what it cost, and how deep it dipped: plain functions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOVING = 5
"""Evaluations in the moving mean that the dip is taken of."""
DIP_WINDOW = 100_000
"""Environment steps in which a dip counts."""
Point = tuple[int, float]
"""Environment step, mean return."""


class Outcome(NamedTuple):
    """How a run went from its offline policy on.

    Args:
        before: Mean return of the offline policy, J_0.
        window: Evaluations in the moving mean.
        lowest: Lowest moving mean of the returns within the first 100,000 steps. The mean is over
            five evaluations, or over all of those steps' where they have fewer.
        worst: Lowest return of one evaluation within those steps.
        dip: ``max(0, J_0 - lowest) / |J_0 - J_rand|``.
        recovery_steps: Environment steps from the start until the moving mean is back at J_0 after
            its lowest point; infinite if it is not, 0 if there was no dip.
        after: Moving mean at the end.
        regret: Mean over evaluations of ``(J_best - J_t) / (J_best - J_rand)``.
    """

    before: float
    window: int
    lowest: float
    worst: float
    dip: float
    recovery_steps: float
    after: float
    regret: float


def moving_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Means of ``window`` values in a row, (n - window + 1,).

    >>> moving_mean([2.0, 4.0, 6.0], 2).tolist()
    [3.0, 5.0]
    """
    return np.convolve(values, np.full(window, 1 / window), "valid")


def outcome(
    before: float, points: Sequence[Point], random_return: float, best_return: float | None = None
) -> Outcome:
    """Sum a run up.

    Args:
        before: Mean return of the offline policy, J_0.
        points: Evaluations after it, in order; at least one.
        random_return: Mean return of random actions, J_rand.
        best_return: What a perfect policy returns; the best evaluation if None.
    """
    steps = np.array([step for step, _ in points])
    returns = [value for _, value in points]
    early = int(np.sum(steps <= max(DIP_WINDOW, steps[0])))
    window = min(MOVING, early)
    smooth, ends = moving_mean(returns, window), steps[window - 1 :]
    bottom = int(np.argmin(smooth[: early - window + 1]))
    lowest = float(smooth[bottom])
    scale = abs(before - random_return) or 1.0
    dip = max(0.0, before - lowest) / scale
    back = np.flatnonzero(smooth[bottom:] >= before)
    recovery = float(ends[bottom + back[0]]) if len(back) else math.inf
    best = max([before, *returns]) if best_return is None else best_return
    span = best - random_return
    missed = [(best - value) / span for value in returns] if span > 0 else [0.0]
    return Outcome(
        before,
        window,
        lowest,
        min(returns[:early]),
        dip,
        recovery if dip else 0.0,
        float(smooth[-1]),
        float(np.mean(missed)),
    )
