"""Whether a value estimated offline is what the policy earns online.

``optimism = J_off - J_on``, relative to ``max(|J_on|, S)``, S = P95 - P5 of the logged episodes'
returns, so that values of 0 and below are no special case. Positive: the offline value promises
too much. Both sides must estimate one thing: see :class:`Estimand`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from lit_offrl.data.transitions import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimate import Estimate

Gauge = Literal["OPTIMISTIC", "PESSIMISTIC", "CALIBRATED", "INCONCLUSIVE"]
Array = NDArray[np.float64]
MARGIN = 0.10
"""Relative optimism that still counts as calibrated."""
RESAMPLES = 2000
LEAST_EPISODES = 2
MOST_EPISODES = 1_000_000


@dataclass(frozen=True)
class Estimand:
    """What a value is the value of: two that differ here must not be compared.

    Args:
        discount: γ.
        reward_shift: Added to each raw reward.
        reward_scale: Factor on rewards; values in raw scale have 1.
        starts: Where episodes start.
    """

    discount: float
    reward_shift: float = 0.0
    reward_scale: float = 1.0
    starts: str = "first observations of the environment"


def check_estimand(offline: Estimand, online: Estimand) -> None:
    """Refuse to compare values of different things.

    Raises:
        InputError: If the two differ, naming in what.
    """
    for name in (field.name for field in fields(Estimand)):
        one, other = getattr(offline, name), getattr(online, name)
        same = one == other if isinstance(one, str) else math.isclose(one, other, rel_tol=1e-9)
        if not same:
            raise InputError(
                f"The offline value has `{name}` {one}, the online returns {other}: their "
                "difference means nothing. Make them the same."
            )


@dataclass(frozen=True)
class Gap:
    """How optimistic an offline value is.

    Args:
        offline: J_off.
        online: J_on.
        optimism: J_off - J_on.
        relative: Optimism over ``max(|J_on|, S)``.
        interval: Of ``relative``.
        gauge: ``OPTIMISTIC`` if the interval lies above the margin, ``PESSIMISTIC`` if below minus
            the margin, ``CALIBRATED`` if within, else ``INCONCLUSIVE``.
        more_episodes: How many more online episodes it would take to leave ``INCONCLUSIVE``; None
            where the offline side is too uncertain for any number, or none is needed.
        n_episodes: Online episodes.
    """

    offline: float
    online: float
    optimism: float
    relative: float
    interval: tuple[float, float]
    gauge: Gauge
    more_episodes: int | None
    n_episodes: int


def offline_online_gap(
    offline: ArrayLike | Estimate,
    online: ArrayLike,
    spread: float,
    *,
    level: float = 0.95,
    margin: float = MARGIN,
    seed: int = 0,
) -> Gap:
    """Compare an offline value with online returns, by a percentile bootstrap of both.

    The order of the samples does not matter.

    Args:
        offline: Values at start observations, (S,), or an estimate with a standard error, which is
            taken as normal.
        online: Returns of episodes, (n,), n >= 2.
        spread: S.
        level: Of the interval.
        margin: Relative optimism that counts as calibrated.
        seed: Of the bootstrap.

    Raises:
        InputError: If a side is empty or not finite, an estimate has no standard error, or both
            S and J_on are 0, so that nothing says what is much.

    >>> offline_online_gap([10.0, 10.0], [5.0, 5.0], spread=2.0).gauge
    'OPTIMISTIC'
    """
    rng = np.random.default_rng(seed)
    returns = _sample(online, "online", LEAST_EPISODES)
    j_off, off_error, off_means = _offline_side(offline, rng)
    j_on = float(returns.mean())
    scale = max(abs(j_on), spread)
    on_means = _resampled_means(returns, rng)  # (R,)
    scales = np.maximum(np.abs(on_means), spread)  # (R,)
    if not (scale > 0 and (scales > 0).all()):
        raise InputError(
            "Neither the online returns nor the logged ones tell what is much: all are 0. Compare "
            "the policies in an environment with rewards."
        )
    relative = (j_off - j_on) / scale
    tail = (1 - level) / 2
    low, high = np.quantile((off_means - on_means) / scales, [tail, 1 - tail]).tolist()
    gauge: Gauge = "INCONCLUSIVE"
    if low > margin:
        gauge = "OPTIMISTIC"
    elif high < -margin:
        gauge = "PESSIMISTIC"
    elif low >= -margin and high <= margin:
        gauge = "CALIBRATED"
    more = None
    if gauge == "INCONCLUSIVE":
        # d relative / d J_on, by which an episode's noise counts
        slope = 1 / scale if spread >= abs(j_on) else abs(j_off) / j_on**2
        noise = slope * float(returns.std(ddof=1))
        distance = min(abs(relative - margin), abs(relative + margin))
        more = _more_episodes(distance, off_error / scale, noise, len(returns), level)
    return Gap(j_off, j_on, j_off - j_on, relative, (low, high), gauge, more, len(returns))


def _offline_side(
    offline: ArrayLike | Estimate, rng: np.random.Generator
) -> tuple[float, float, Array]:
    """Value, standard error and resampled values (R,) of the offline side."""
    if isinstance(offline, Estimate):
        if offline.value is None or offline.std_error is None:
            raise InputError(
                f"{offline.name} has no {'value' if offline.value is None else 'standard error'}: "
                "compare an estimate that has."
            )
        error = offline.std_error
        return offline.value, error, offline.value + error * rng.standard_normal(RESAMPLES)
    values = _sample(offline, "offline", 1)
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), error, _resampled_means(values, rng)


def _sample(values: ArrayLike, side: str, least: int) -> Array:
    sample = np.sort(np.asarray(values, np.float64).ravel())  # ranks gather in another order
    if len(sample) < least or not np.isfinite(sample).all():
        raise InputError(
            f"The {side} side of the gap needs at least {least} finite values, and has "
            f"{len(sample)}, {int(np.isfinite(sample).sum())} of them finite."
        )
    return sample


def _resampled_means(sample: Array, rng: np.random.Generator) -> Array:
    means: Array = sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(1)
    return means


def _more_episodes(
    distance: float, off_error: float, noise: float, n: int, level: float
) -> int | None:
    """Episodes until ``z sqrt(off_error² + noise² / n)`` is below the distance to a margin."""
    allowed = (distance / float(norm.ppf((1 + level) / 2))) ** 2 - off_error**2
    if allowed <= 0 or noise**2 / allowed > MOST_EPISODES:
        return None
    return max(math.ceil(noise**2 / allowed) - n, 1)


def episode_spread(transitions: Transitions, discount: float) -> float:
    """S: P95 - P5 of the discounted returns of logged episodes.

    Args:
        transitions: Whole episodes.
        discount: γ.
    """
    returns = transitions.mc_returns(discount)[transitions.episode_bounds[:-1]].astype(np.float64)
    low, high = np.quantile(returns, [0.05, 0.95])
    return float(high - low)


def bootstrapped_returns(
    rewards: Sequence[Array],
    last_value: Array,
    discount: float,
    limit: int | None,
    reward_shift: float = 0.0,
) -> Array:
    """Returns with a critic's value in place of what a time limit cut off, (n,).

    ``Σ_{t<T-1} γ^t r_t + γ^(T-1) Q(s_{T-1}, a_{T-1})`` for episodes as long as the limit; the plain
    discounted return for others. A critic that bootstraps at truncations estimates this one.

    Args:
        rewards: Rewards of each episode.
        last_value: Value of the last observation that was acted on and that action, (n,).
        discount: γ.
        limit: Steps at which episodes are truncated; None if they never are.
        reward_shift: Added to each reward.

    >>> bootstrapped_returns([np.ones(2)], np.array([10.0]), discount=0.5, limit=2)
    array([6.])
    """
    returns = []
    for steps, value in zip(rewards, last_value, strict=True):
        known = steps + reward_shift
        if limit is not None and len(known) >= limit:
            known = np.append(known[:-1], value)
        returns.append(known @ discount ** np.arange(len(known)))
    return np.array(returns, np.float64)
