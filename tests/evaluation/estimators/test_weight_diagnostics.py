import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.estimators.weight_diagnostics import (
    clip_log_weight,
    effective_sample_size,
    generalized_pareto_shape,
    max_weight_share,
    pareto_k,
)
from lit_offrl.evaluation.estimators.weights import Array


def test_the_effective_sample_size_runs_from_one_to_all() -> None:
    assert effective_sample_size(np.full(9, -2000.0)) == pytest.approx(9)
    assert effective_sample_size([0.0, -900.0, -np.inf]) == 1
    assert effective_sample_size(np.log([3.0, 1.0])) == pytest.approx(16 / 10)


def test_the_heaviest_share_is_of_the_whole_weight() -> None:
    assert max_weight_share(np.log([3.0, 1.0]) - 5000) == pytest.approx(0.75)


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 0.7, 1.2])
def test_pareto_k_is_that_of_the_generalized_pareto_distribution(k: float) -> None:
    samples = stats.genpareto.rvs(k, scale=2.0, size=(30, 20_000), random_state=0)
    found = [pareto_k(np.log(sample)) for sample in samples]
    assert np.mean([value for value in found if value is not None]) == pytest.approx(k, abs=0.05)


def test_pareto_k_is_close_to_maximum_likelihood() -> None:
    excess = np.sort(stats.genpareto.rvs(0.6, size=2000, random_state=1))
    shape, _, _ = stats.genpareto.fit(excess, floc=0)
    assert generalized_pareto_shape(excess) == pytest.approx(shape, abs=0.02)


def test_pareto_k_is_of_the_excesses_over_the_next_weight_with_ten_more_of_one_half() -> None:
    """As the paper's authors write it down, in a loop: the 20 largest of 100 weights."""
    weight = np.sort(np.exp(np.random.default_rng(0).normal(size=100)))
    x = weight[-20:] - weight[-21]
    grid = [1 / x[-1] + (1 - math.sqrt(34 / (j - 0.5))) / (3 * x[4]) for j in range(1, 35)]
    shapes = [np.log1p(-b * x).mean() for b in grid]
    likelihood = np.exp([20 * (math.log(-b / k) - k) for b, k in zip(grid, shapes, strict=True)])
    shape = np.log1p(-np.average(grid, weights=likelihood) * x).mean()
    assert pareto_k(np.log(weight)) == pytest.approx((20 * shape + 10 * 0.5) / 30)


def test_pareto_k_tells_light_tails_from_heavy_ones() -> None:
    normal = np.random.default_rng(0).normal(size=1000)
    light, heavy = pareto_k(0.3 * normal), pareto_k(3 * normal)
    assert light is not None and heavy is not None
    assert light < 0.5 and heavy > 0.7
    assert pareto_k(3 * normal + 500) == pytest.approx(heavy)


def test_pareto_k_of_a_tail_beyond_float64_is_infinite() -> None:
    assert pareto_k(np.linspace(0, 1e5, 100)) == math.inf


@pytest.mark.parametrize(
    "log_weight", [np.zeros(1000), np.arange(20.0), np.append(np.full(99, -np.inf), [0.0, 1.0])]
)
def test_without_a_tail_there_is_no_pareto_k(log_weight: Array) -> None:
    assert pareto_k(log_weight) is None


def test_equal_weights_in_the_tail_give_a_number() -> None:
    # 40 grid points, the third of which is 0 where the tail is one value: 0 / 0
    assert math.isfinite(generalized_pareto_shape(np.ones(100)))


def test_clipping_weights_reports_what_it_cuts_off() -> None:
    clipped, share = clip_log_weight(np.log([1.0, 3.0, 16.0]), clip=4.0)
    assert np.exp(clipped) == pytest.approx([1, 3, 4])
    assert share == pytest.approx(12 / 20)
    assert clip_log_weight([0.0, -np.inf], clip=2.0)[1] == 0
    assert clip_log_weight([2000.0, 0.0], clip=2.0)[1] == pytest.approx(1.0)
    with pytest.raises(InputError, match="above 0"):
        clip_log_weight([0.0], clip=0.0)


@pytest.mark.parametrize("diagnostic", [effective_sample_size, max_weight_share, pareto_k])
def test_weights_that_are_no_numbers_or_all_zero_are_refused(
    diagnostic: Callable[[object], object],
) -> None:
    for bad in ([np.nan, 0.0], [np.inf, 0.0], [[0.0]]):
        with pytest.raises(InputError, match="neither NaN nor"):
            diagnostic(bad)
    with pytest.raises(NotApplicableError, match="All importance weights are 0"):
        diagnostic([-np.inf, -np.inf])
