import math
from functools import partial
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators.importance import clipped_returns, weighted_importance_sampling
from lit_offrl.evaluation.estimators.intervals import (
    Interval,
    bootstrap_interval,
    empirical_bernstein_lower_bound,
    student_t_interval,
)
from tests.algorithms.chain5 import DISCOUNT, Array
from tests.evaluation.estimators.chain5_log import J_PI, coverage, simulate

SAMPLE = np.random.default_rng(0).gamma(2.0, size=60)


def mean_of_sample(counts: Array) -> Array:
    return np.asarray(counts @ SAMPLE / counts.sum(-1))


@pytest.mark.parametrize(("method", "name"), [("percentile", "percentile"), ("bca", "BCa")])
def test_counts_give_the_bootstrap_of_the_values(
    method: Literal["percentile", "bca"], name: str
) -> None:
    found = bootstrap_interval(mean_of_sample, 60, level=0.9, resamples=300, seed=4, method=method)
    expected = stats.bootstrap(
        (SAMPLE,),
        np.mean,
        n_resamples=300,
        confidence_level=0.9,
        method=name,
        random_state=np.random.default_rng(4),
    )
    assert found.bounds == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)
    assert found.std_error == pytest.approx(float(expected.standard_error), rel=1e-9)
    assert found.remark == ""


def test_the_bootstrap_of_a_mean_has_the_width_of_theory() -> None:
    bounds, std_error = unpack(bootstrap_interval(mean_of_sample, 60, resamples=4000))
    theory = SAMPLE.std() / math.sqrt(60)
    assert std_error == pytest.approx(theory, rel=0.05)
    assert bounds[1] - bounds[0] == pytest.approx(2 * 1.96 * theory, rel=0.05)


def test_bca_corrects_for_skewness() -> None:
    percentile, _ = unpack(bootstrap_interval(mean_of_sample, 60))
    corrected, _ = unpack(bootstrap_interval(mean_of_sample, 60, method="bca"))
    assert corrected[0] > percentile[0] and corrected[1] > percentile[1]


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    first = bootstrap_interval(mean_of_sample, 60)
    assert first == bootstrap_interval(mean_of_sample, 60)
    assert first != bootstrap_interval(mean_of_sample, 60, seed=1)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_that_cannot_be_say_why(method: Literal["percentile", "bca"]) -> None:
    one = bootstrap_interval(mean_of_sample, 1, method=method)
    assert one == Interval(None, None, one.remark) and "One episode" in one.remark
    same = bootstrap_interval(lambda counts: np.ones(len(counts)), 5, method=method)
    assert same.bounds is None and "do not differ" in same.remark
    log_ratio = np.array([[0.0], [-np.inf], [-np.inf]])
    statistic = partial(weighted_importance_sampling, log_ratio, np.ones((3, 1)), 1.0)
    few = bootstrap_interval(statistic, 3, method=method)
    assert few.bounds is None and "Only 1 of 3 episodes" in few.remark


def test_student_t_is_that_of_scipy() -> None:
    bounds, std_error = unpack(student_t_interval(SAMPLE, level=0.9))
    expected = stats.ttest_1samp(SAMPLE, 0).confidence_interval(0.9)
    assert bounds == pytest.approx(tuple(expected), rel=1e-12)
    assert std_error == pytest.approx(float(stats.sem(SAMPLE)), rel=1e-12)


def test_student_t_of_one_episode_or_of_equal_ones_says_why_there_is_none() -> None:
    assert "One episode" in student_t_interval([1.0]).remark
    assert student_t_interval([0.1, 0.1, 0.1]).bounds is None


def test_empirical_bernstein_is_its_formula() -> None:
    x, low, high, delta = SAMPLE, -1.0, 20.0, 0.1
    log_term = np.log(2 / delta)
    variance = ((x - x.mean()) ** 2).sum() / 59
    expected = x.mean() - np.sqrt(2 * variance * log_term / 60) - 7 * 21 * log_term / (3 * 59)
    bound = empirical_bernstein_lower_bound(x, low, high, delta)
    assert bound.value == pytest.approx(expected, rel=1e-12) and not bound.vacuous


def test_empirical_bernstein_says_when_it_is_vacuous() -> None:
    for x in ([0.5], [0.0, 1.0, 1.0]):
        bound = empirical_bernstein_lower_bound(x, low=0.0, high=1.0)
        assert bound.vacuous and bound.value == 0.0


def test_empirical_bernstein_holds_where_the_range_of_the_sample_does_not() -> None:
    rng = np.random.default_rng(0)
    truth, wrong = 0.9 - 0.1 * 20, {"a priori": 0, "of the sample": 0}
    for _ in range(200):
        x = np.where(rng.random(20) < 0.1, -20.0, 1.0)
        for name, low in (("a priori", -20.0), ("of the sample", float(x.min()))):
            wrong[name] += empirical_bernstein_lower_bound(x, low, 1.0).value > truth
    assert wrong["a priori"] == 0
    assert wrong["of the sample"] > 0.05 * 200


def test_the_bound_of_clipped_returns_lies_below_the_value_and_is_not_vacuous() -> None:
    log = simulate(20_000, np.random.default_rng(0))
    lowest, highest, clip = -2.0, 0.9, 5.0  # -0.1 forever, and one step to the end
    x = clipped_returns(log.log_ratio, log.reward, DISCOUNT, clip, lowest)
    bound = empirical_bernstein_lower_bound(x, lowest, lowest + clip * (highest - lowest))
    assert not bound.vacuous
    assert J_PI - 0.5 < bound.value < J_PI


@pytest.mark.parametrize(
    ("x", "low", "high", "delta", "message"),
    [
        ([2.0], 0.0, 1.0, 0.05, "leave the range"),
        ([-1.0], 0.0, 1.0, 0.05, "leave the range"),
        ([np.nan], 0.0, 1.0, 0.05, "must be finite"),
        ([], 0.0, 1.0, 0.05, "must be finite"),
        ([0.5], 0.0, 1.0, 0.0, "`delta` is 0"),
    ],
)
def test_empirical_bernstein_refuses_wrong_input(
    x: list[float], low: float, high: float, delta: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        empirical_bernstein_lower_bound(x, low, high, delta)


def test_levels_are_probabilities() -> None:
    with pytest.raises(InputError, match="`level` is 95"):
        student_t_interval(SAMPLE, level=95)
    with pytest.raises(InputError, match="`level` is 0"):
        bootstrap_interval(mean_of_sample, 60, level=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (50, {"IS": 0.93, "WIS": 0.90, "PDIS": 0.91, "WPDIS": 0.91, "DR": 0.90, "WDR": 0.90}),
        (500, {"IS": 0.95, "WIS": 0.89, "PDIS": 0.955, "WPDIS": 0.96, "DR": 0.93, "WDR": 0.93}),
    ],
)
def test_coverage_of_nominal_95_percent_intervals(n: int, expected: dict[str, float]) -> None:
    found = coverage(n, repetitions=300, seed=0)
    for name, share in expected.items():
        assert found[name] == pytest.approx(share, abs=0.05), name  # 3 standard errors


def unpack(interval: Interval) -> tuple[tuple[float, float], float]:
    assert interval.bounds is not None and interval.std_error is not None
    return interval.bounds, interval.std_error
