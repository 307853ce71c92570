"""Weighted estimates of one log: each is the pure function's, with what says how far it counts."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from lit_offrl.data import Transitions
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.estimators import doubly_robust as dr
from lit_offrl.evaluation.estimators import importance as ips
from lit_offrl.evaluation.estimators.intervals import (
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
from lit_offrl.evaluation.estimators.weighted import (
    DOUBLY_ROBUST,
    IMPORTANCE,
    WeightedLog,
    padded,
    refused,
    weighted_estimates,
)
from tests.evaluation.logs import chain_log

DISCOUNT, RANGE = 0.9, (-10.0, 10.0)
Array = np.typing.NDArray[np.float64]


def make_log(n: int = 60, longest: int = 12, noise: float = 0.3, seed: int = 0) -> WeightedLog:
    """Episodes of different lengths, every third of them truncated, with a model of no use."""
    rng = np.random.default_rng(seed)
    length = rng.integers(longest // 2, longest + 1, n)
    length[0] = longest
    alive = np.arange(longest) < length[:, None]

    def drawn(scale: float) -> Array:
        return np.where(alive, scale * rng.normal(size=alive.shape), 0.0)

    reward = np.where(alive, rng.uniform(-1, 1, alive.shape), 0.0)
    tail_v = np.where(np.arange(n) % 3 == 0, rng.uniform(1, 2, n), 0.0)
    return WeightedLog(drawn(noise), reward, length, drawn(0.5), drawn(0.5), tail_v)


def estimates_of(
    log: WeightedLog,
    discount: float = DISCOUNT,
    value_range: tuple[float, float] = RANGE,
    **options: Any,
) -> dict[str, Estimate]:
    found = weighted_estimates(log, discount, value_range, **{"resamples": 100, **options})
    assert [estimate.name for estimate in found] == [*IMPORTANCE, *DOUBLY_ROBUST]
    return {estimate.name: estimate for estimate in found}


def tailed_reward(log: WeightedLog, discount: float = DISCOUNT) -> Array:
    """Rewards with the value behind a truncation put on the last step, in a loop."""
    reward = log.reward.copy()
    for i, steps in enumerate(log.length):
        reward[i, steps - 1] += discount * log.tail_v[i]
    return reward


def test_each_estimate_is_that_of_the_pure_function() -> None:
    log = make_log()
    found = estimates_of(log)
    plain = (log.log_ratio, tailed_reward(log), DISCOUNT)
    robust = (log.log_ratio, log.reward, log.q, dr.with_tail(log.v, log.length, log.tail_v))
    expected: dict[str, Any] = {
        "IS": ips.importance_sampling(*plain),
        "WIS": ips.weighted_importance_sampling(*plain),
        "PDIS": ips.per_decision(*plain),
        "WPDIS": ips.weighted_per_decision(*plain),
        "DR": dr.doubly_robust(*robust, DISCOUNT),
        "WDR": dr.weighted_doubly_robust(*robust, DISCOUNT),
        "MAGIC": dr.magic(*robust, DISCOUNT).value,
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(float(value), rel=1e-12), name
        assert found[name].status == "valid"
        family = "importance sampling" if name in IMPORTANCE else "doubly robust"
        assert found[name].family == family
    values = [float(value) for value in expected.values()]
    assert len({round(value, 6) for value in values}) == 7  # else names might be mixed up


def test_without_a_model_the_doubly_robust_ones_are_per_decision_sampling() -> None:
    log = make_log()
    zero = np.zeros_like(log.q)
    found = estimates_of(replace(log, q=zero, v=zero))
    assert found["DR"].value == pytest.approx(found["PDIS"].value, rel=1e-12)
    assert found["WDR"].value == pytest.approx(found["WPDIS"].value, rel=1e-12)


def test_a_blend_of_the_model_alone_is_no_estimate_of_its_own() -> None:
    log = make_log(n=200)
    zero = np.zeros_like(log.q)
    ended = replace(log, q=zero, v=zero, tail_v=np.zeros(200))
    magic = estimates_of(ended)["MAGIC"]
    assert (magic.status, magic.value) == ("not applicable", None)
    assert "FQE's values alone" in magic.reason


def test_a_tail_counts_with_its_discount_and_weight_and_changes_all() -> None:
    one = WeightedLog(
        np.log([[2.0, 0.5], [0.5, 1.0]]),
        np.array([[1.0, 1.0], [1.0, 0.0]]),
        np.array([2, 1]),
        np.zeros((2, 2)),
        np.zeros((2, 2)),
        np.array([0.0, 4.0]),
    )
    # (1 · (1 + 0.5 · 1) + 0.5 · (1 + 0.5 · 4)) / 2
    assert estimates_of(one, discount=0.5)["IS"].value == pytest.approx(1.5)
    log = make_log()
    with_tail, without = estimates_of(log), estimates_of(replace(log, tail_v=0 * log.tail_v))
    for name, estimate in with_tail.items():
        other = without[name].value
        assert estimate.value is not None and other is not None
        assert estimate.value > other + 0.01, name
    assert (log.reward == make_log().reward).all()  # not in place


def test_intervals_are_students_for_means_and_of_the_bootstrap_for_ratios() -> None:
    log = make_log()
    found = estimates_of(log, level=0.8, seed=3)
    plain = (log.log_ratio, tailed_reward(log), DISCOUNT)
    each = {"IS": ips.weighted_returns(*plain), "PDIS": ips.per_decision_returns(*plain)}
    for name, values in each.items():
        interval = student_t_interval(values, 0.8)
        assert found[name].interval == pytest.approx(interval.bounds)
        assert found[name].std_error == pytest.approx(interval.std_error)
    statistic = partial(ips.weighted_importance_sampling, *plain)
    resampled = bootstrap_interval(
        lambda counts: statistic(counts=counts), 60, 0.8, resamples=100, seed=3
    )
    assert found["WIS"].interval == pytest.approx(resampled.bounds)
    assert estimates_of(log, level=0.8, seed=4)["WIS"].interval != found["WIS"].interval
    robust = (log.log_ratio, log.reward, log.q, dr.with_tail(log.v, log.length, log.tail_v))
    blend = dr.magic(*robust, DISCOUNT, seed=3)
    half = blend.std_error * float(t.ppf(0.9, 59))
    assert found["MAGIC"].interval == pytest.approx((blend.value - half, blend.value + half))
    for estimate in found.values():
        assert estimate.interval is not None and estimate.value is not None
        assert estimate.interval[0] < estimate.value < estimate.interval[1]


def test_the_state_of_the_weights_stands_beside_each_estimate() -> None:
    log = make_log()
    log_weight = log.log_ratio.sum(1)
    for estimate in estimates_of(log).values():
        assert estimate.details["ess"] == pytest.approx(effective_sample_size(log_weight))
        assert estimate.details["max_weight_share"] == pytest.approx(max_weight_share(log_weight))
        assert estimate.details["pareto_k"] == pytest.approx(pareto_k(log_weight))
    heavy = make_log(noise=1.0)
    weight = np.exp(heavy.log_ratio.sum(1))
    clipped = np.minimum(weight, math.sqrt(60))
    mass = estimates_of(heavy)["IS"].details["clipped_mass"]
    assert mass == pytest.approx(1 - clipped.sum() / weight.sum())
    assert mass == pytest.approx(clip_log_weight(np.log(weight), math.sqrt(60))[1])
    assert mass > 0.1
    assert estimates_of(make_log(noise=0.05))["IS"].details["clipped_mass"] == 0
    assert "clipped_mass" not in estimates_of(log)["WIS"].details


def test_a_tail_index_that_is_not_known_is_left_out() -> None:
    log = make_log(n=10)
    assert pareto_k(log.log_ratio.sum(1)) is None
    found = estimates_of(log)
    assert "pareto_k" not in found["WIS"].details and "ess" in found["WIS"].details


def test_plain_sampling_has_a_bernstein_bound_and_says_where_it_is_vacuous() -> None:
    log = make_log(n=4000, noise=0.02)
    found = estimates_of(log, value_range=(-9.0, 12.0), resamples=2, level=0.9)
    clip = math.sqrt(4000)
    weight = np.minimum(np.exp(log.log_ratio.sum(1)), clip)
    returns = tailed_reward(log) @ DISCOUNT ** np.arange(12)
    values = -9.0 + weight * (returns + 9.0)
    bound = empirical_bernstein_lower_bound(values, -9.0, -9.0 + clip * 21.0, delta=0.05)
    estimate = found["IS"]
    assert estimate.lower_bound == pytest.approx(bound.value, abs=1e-5)
    assert estimate.details["bernstein_vacuous"] == 0.0
    assert estimate.value is not None and estimate.lower_bound is not None
    assert -9.0 < estimate.lower_bound < estimate.value
    assert {name for name, e in found.items() if e.lower_bound is not None} == {"IS"}

    few = estimates_of(make_log(n=40), value_range=(-9.0, 12.0))["IS"]
    assert few.details["bernstein_vacuous"] == 1.0
    assert few.lower_bound == pytest.approx(-9.0, abs=1e-6)


@pytest.mark.parametrize("value_range", [(-math.inf, 10.0), (-10.0, math.inf)])
def test_without_a_range_there_is_no_bound(value_range: tuple[float, float]) -> None:
    estimate = estimates_of(make_log(), value_range=value_range)["IS"]
    assert estimate.lower_bound is None
    assert "bernstein_vacuous" not in estimate.details and "clipped_mass" in estimate.details


@pytest.mark.parametrize("tail", [-30.0, 30.0])
def test_a_model_that_leaves_the_range_of_returns_does_not_stop_the_evaluation(tail: float) -> None:
    """A network's value of the last observation is not bounded as a return is."""
    log = make_log()
    reward = np.where(log.reward == 0, 0.0, math.copysign(1.0, tail))
    log = replace(log, reward=reward, tail_v=np.where(log.tail_v > 0, tail, 0.0))
    found = estimates_of(log, value_range=(-10.0, 10.0))
    within = replace(log, tail_v=log.tail_v.clip(-10, 10))
    expected = estimates_of(within, value_range=(-10.0, 10.0))["IS"].lower_bound
    assert found["IS"].lower_bound == pytest.approx(expected)
    assert found["IS"].value != pytest.approx(estimates_of(within)["IS"].value)  # as it was given


@pytest.mark.parametrize("steps", [3, 7, 133, 1000])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_returns_at_the_end_of_their_range_may_round(steps: int, sign: float) -> None:
    reward = np.full((40, steps), np.float64(np.float32(sign * 0.1)))
    ratio = 0.3 * np.random.default_rng(0).normal(size=(40, steps)) / math.sqrt(steps)
    zero = np.zeros((40, steps))
    log = WeightedLog(ratio, reward, np.full(40, steps), zero, zero, np.zeros(40))
    end = float(reward[0, 0]) * steps
    value_range = (end, sign * 0.1) if sign < 0 else (float(reward[0, 0]), end)
    assert estimates_of(log, 1.0, value_range, resamples=2)["IS"].lower_bound is not None
    r = float(reward[0, 0])
    endless = replace(log, tail_v=np.full(40, r / (1 - 0.97)))
    value_range = (r / (1 - 0.97), r) if sign < 0 else (r, r / (1 - 0.97))
    assert estimates_of(endless, 0.97, value_range, resamples=2)["IS"].lower_bound is not None


def test_without_discount_nothing_bounds_what_a_truncation_cut_off() -> None:
    log = make_log()
    assert log.tail_v.any()
    found = estimates_of(log, discount=1.0, value_range=(-12.0, 12.0))["IS"]
    assert found.status == "valid" and found.lower_bound is None
    ended = replace(log, tail_v=np.zeros(60))
    assert estimates_of(ended, 1.0, (-12.0, 12.0))["IS"].lower_bound is not None


def test_refused_estimates_keep_their_names_and_the_reason() -> None:
    found = refused("No density.")
    assert [estimate.name for estimate in found] == [*IMPORTANCE, *DOUBLY_ROBUST]
    assert {(e.status, e.value, e.reason) for e in found} == {
        ("not applicable", None, "No density.")
    }
    assert [e.family for e in found] == 4 * ["importance sampling"] + 3 * ["doubly robust"]


def test_a_policy_that_takes_no_logged_action_has_no_estimate() -> None:
    log = make_log()
    found = estimates_of(replace(log, log_ratio=np.full_like(log.log_ratio, -np.inf)))
    assert {(e.status, e.value) for e in found.values()} == {("not applicable", None)}
    assert all("all weights are 0" in e.reason for e in found.values())
    # one episode that it does follow is enough for a value, and not for an interval
    ratio = np.where(np.arange(60)[:, None] == 0, log.log_ratio, -np.inf)
    found = estimates_of(replace(log, log_ratio=ratio))
    returns = tailed_reward(log)[0] @ DISCOUNT ** np.arange(12)
    assert found["WIS"].value == pytest.approx(returns)
    assert found["WIS"].details["ess"] == pytest.approx(1.0)
    assert found["WIS"].interval is None and "too few for an interval" in found["WIS"].reason


def test_weights_beyond_floats_leave_the_self_normalized_estimates() -> None:
    log = make_log()
    found = estimates_of(replace(log, log_ratio=np.where(log.reward == 0, 0.0, 60.0)))
    for name in ("IS", "PDIS", "DR"):
        assert found[name].status == "not applicable"
        assert "too large to average" in found[name].reason
        assert found[name].lower_bound is None
    for name in ("WIS", "WPDIS", "WDR", "MAGIC"):
        assert found[name].status == "valid" and math.isfinite(found[name].value or math.nan)


def test_one_episode_has_values_and_no_intervals() -> None:
    found = estimates_of(make_log(n=1))
    for name in ("IS", "WIS", "PDIS", "WPDIS", "DR", "WDR"):
        assert found[name].value is not None and found[name].interval is None
        assert "One episode has no spread" in found[name].reason
    assert found["MAGIC"].status == "not applicable"
    assert found["IS"].lower_bound is None


def test_two_thousand_steps_are_as_good_as_two() -> None:
    log = make_log(n=40, longest=2000, noise=0.01)
    value_range = (-1 / (1 - 0.999), 1 / (1 - 0.999))
    found = estimates_of(log, 0.999, value_range, resamples=20)
    weight = np.array([math.exp(math.fsum(row)) for row in log.log_ratio])
    returns = np.array([math.fsum(r * 0.999 ** np.arange(2000)) for r in tailed_reward(log, 0.999)])
    assert found["IS"].value == pytest.approx((weight * returns).mean(), rel=1e-9)
    assert found["WIS"].value == pytest.approx((weight * returns).sum() / weight.sum(), rel=1e-9)
    assert all(estimate.status == "valid" for estimate in found.values())
    # a product of ratios below the range of floats
    low = replace(log, log_ratio=log.log_ratio - 1.0 * (log.reward != 0))
    far = estimates_of(low, 0.999, value_range, resamples=20)
    assert far["WPDIS"].value is not None and math.isfinite(far["WPDIS"].value)
    assert far["WIS"].details["ess"] >= 1


def test_rows_are_laid_out_as_episodes_and_padded_with_zeros() -> None:
    log = chain_log(7, seed=0)
    values = np.arange(1.0, len(log) + 1)
    table = padded(values, log)
    length = np.diff(log.episode_bounds)
    assert table.shape == (7, length.max())
    for row, first, steps in zip(table, log.episode_bounds, length, strict=False):
        np.testing.assert_array_equal(row[:steps], values[first : first + steps])
        assert not row[steps:].any()


def test_one_long_and_one_short_episode_are_laid_out() -> None:
    one, flag = np.zeros((2001, 1), np.float32), np.zeros(2001, np.bool_)
    episode = np.append(np.zeros(2000, np.int64), 1)
    log = Transitions(one, one, one[:, 0], one, flag, flag, episode)
    table = padded(np.ones(2001), log)
    assert table.shape == (2, 2000) and table.sum(1).tolist() == [2000, 1]
