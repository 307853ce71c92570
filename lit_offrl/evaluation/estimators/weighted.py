"""All estimates that weight logged episodes, from one log and the policy's log-ratios on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from lit_offrl.data.transitions import Transitions
from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.estimate import Estimate, Family, inapplicable
from lit_offrl.evaluation.estimators.doubly_robust import (
    doubly_robust_returns,
    magic,
    weighted_doubly_robust,
    with_tail,
)
from lit_offrl.evaluation.estimators.importance import (
    clipped_returns,
    per_decision_returns,
    weighted_importance_sampling,
    weighted_per_decision,
    weighted_returns,
)
from lit_offrl.evaluation.estimators.intervals import (
    Interval,
    bootstrap_interval,
    empirical_bernstein_lower_bound,
    student_t_interval,
)
from lit_offrl.evaluation.estimators.weight_diagnostics import (
    clip_log_weight,
    effective_sample_size,
    max_weight_share,
    pareto_k,
)
from lit_offrl.evaluation.estimators.weights import cumulative_log_weight

Array = NDArray[np.float64]
IMPORTANCE = ("IS", "WIS", "PDIS", "WPDIS")
DOUBLY_ROBUST = ("DR", "WDR", "MAGIC")
ROUNDING = 1e-9
"""By what share of its size a return may leave the range that it cannot leave."""


@dataclass(frozen=True)
class WeightedLog:
    """A log as one row per episode, padded after its end with rewards and log-ratios of 0.

    Args:
        log_ratio: ``log π(a|s) - log β(a|s)`` in nats, (n, T).
        reward: Raw rewards, (n, T).
        length: Number of steps of each episode, (n,).
        q: Q̂(s_t, a_t) that was not fitted on the episode, (n, T).
        v: V̂(s_t), likewise.
        tail_v: V̂ of each truncated episode's last observation, 0 for terminated ones, (n,).
    """

    log_ratio: Array
    reward: Array
    length: NDArray[np.int64]
    q: Array
    v: Array
    tail_v: Array

    def untruncated(self, discount: float) -> Array:
        """Rewards with ``γ V̂(s_T)`` added to the last one of a truncated episode, (n, T).

        Importance sampling alone would estimate the return until the logged truncation.
        """
        reward = self.reward.copy()
        reward[np.arange(len(reward)), self.length - 1] += discount * self.tail_v
        return reward


def padded(values: NDArray[np.floating], transitions: Transitions) -> Array:
    """Lay out numbers per row (N,) as one line per episode, (n, T), 0 after its end.

    >>> one = np.zeros((3, 1), np.float32)
    >>> flag, episode = np.zeros(3, np.bool_), np.array([0, 0, 1])
    >>> log = Transitions(one, one, one[:, 0], one, flag, flag, episode)
    >>> padded(np.array([1.0, 2.0, 3.0]), log)
    array([[1., 2.],
           [3., 0.]])
    """
    bounds = transitions.episode_bounds
    step = np.arange(len(values)) - bounds[transitions.episode]
    table = np.zeros((transitions.n_episodes, int(np.diff(bounds).max())))
    table[transitions.episode, step] = values
    return table


def weighted_estimates(
    log: WeightedLog,
    discount: float,
    return_range: tuple[float, float],
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Estimate]:
    """Make IS, WIS, PDIS, WPDIS, DR, WDR and MAGIC estimates with their intervals.

    Intervals are Student's t where an estimate is a mean over episodes, else of a bootstrap of
    episodes (approximate, and too narrow with few episodes).

    Args:
        log: The log.
        discount: γ.
        return_range: What no discounted return can leave, known before the data.
        level: Of the intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    try:
        log_weight = cumulative_log_weight(log.log_ratio)[:, -1]  # (n,)
    except NotApplicableError as error:
        return refused(str(error))
    details = {
        "ess": effective_sample_size(log_weight),
        "max_weight_share": max_weight_share(log_weight),
    }
    if (k := pareto_k(log_weight)) is not None and math.isfinite(k):
        details["pareto_k"] = k
    recipes = _Recipes(log, discount, level, resamples, seed)
    estimates = [_estimate(name, recipes.make, details) for name in IMPORTANCE + DOUBLY_ROBUST]
    return [
        _bounded(e, log, log_weight, discount, return_range, level)
        if e.name == "IS" and e.status == "valid"
        else e
        for e in estimates
    ]


class _Recipes:
    """How each estimate and its interval is made."""

    def __init__(
        self, log: WeightedLog, discount: float, level: float, resamples: int, seed: int
    ) -> None:
        self.level, self.resamples, self.seed = level, resamples, seed
        self.weighted = (log.log_ratio, log.untruncated(discount), discount)
        tailed = with_tail(log.v, log.length, log.tail_v)  # (n, T + 1)
        self.robust = (log.log_ratio, log.reward, log.q, tailed, discount)

    def make(self, name: str) -> tuple[float, Interval]:
        """Return the estimate of that name."""
        if name == "MAGIC":
            return self._magic()
        if name in ("IS", "PDIS", "DR"):
            return self._mean(name)
        return self._self_normalized(name)

    def _mean(self, name: str) -> tuple[float, Interval]:
        if name == "DR":
            each = doubly_robust_returns(*self.robust)  # (n,)
        else:
            each = (weighted_returns if name == "IS" else per_decision_returns)(*self.weighted)
        return float(each.mean()), student_t_interval(each, self.level)

    def _self_normalized(self, name: str) -> tuple[float, Interval]:
        statistic: Callable[..., Array] = {
            "WIS": partial(weighted_importance_sampling, *self.weighted),
            "WPDIS": partial(weighted_per_decision, *self.weighted),
            "WDR": partial(weighted_doubly_robust, *self.robust),
        }[name]
        interval = bootstrap_interval(
            lambda counts: statistic(counts=counts),
            len(self.robust[0]),
            self.level,
            self.resamples,
            self.seed,
        )
        return float(statistic()), interval

    def _magic(self) -> tuple[float, Interval]:
        best = magic(*self.robust, seed=self.seed)
        if best.std_error == 0:
            raise NotApplicableError("Its blend is FQE's values alone: it would say FQE twice.")
        half = best.std_error * float(t.ppf((1 + self.level) / 2, len(self.robust[0]) - 1))
        return best.value, Interval((best.value - half, best.value + half), best.std_error)


def refused(reason: str) -> list[Estimate]:
    """Return all of these estimates as not applicable, and why."""
    return [inapplicable(name, _family(name), reason) for name in IMPORTANCE + DOUBLY_ROBUST]


def _estimate(
    name: str, make: Callable[[str], tuple[float, Interval]], details: dict[str, float]
) -> Estimate:
    try:
        value, interval = make(name)
    except NotApplicableError as error:
        return inapplicable(name, _family(name), str(error))
    return Estimate(
        name,
        _family(name),
        value,
        interval.bounds,
        interval.std_error,
        reason=interval.remark,
        details=dict(details),
    )


def _bounded(
    estimate: Estimate,
    log: WeightedLog,
    log_weight: Array,
    discount: float,
    return_range: tuple[float, float],
    level: float,
) -> Estimate:
    """Add the empirical Bernstein bound of IS with weights clipped at √n."""
    low, high = return_range
    clip = math.sqrt(len(log_weight))
    _, mass = clip_log_weight(log_weight, clip)
    details = {**estimate.details, "clipped_mass": mass}
    endless = discount == 1 and bool(log.tail_v.any())  # no bound on what a truncation cut off
    if not (math.isfinite(low) and math.isfinite(high)) or endless or len(log_weight) < 2:
        return replace(estimate, details=details)
    slack = ROUNDING * max(abs(low), abs(high))
    low, high = low - slack, high + slack
    tail_v = np.where(
        log.tail_v == 0, 0.0, log.tail_v.clip(low, high)
    )  # a model may leave the range
    within = replace(log, tail_v=tail_v)
    values = clipped_returns(log.log_ratio, within.untruncated(discount), discount, clip, low)
    bound = empirical_bernstein_lower_bound(
        values, low, low + clip * (high - low), delta=(1 - level) / 2
    )
    details["bernstein_vacuous"] = float(bound.vacuous)
    return replace(estimate, lower_bound=bound.value, details=details)


def _family(name: str) -> Family:
    return "importance sampling" if name in IMPORTANCE else "doubly robust"
