"""Measures against closed forms, and the answers of a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from numpy.typing import NDArray

from lit_offrl.data import Transitions
from lit_offrl.data.frames import Frames
from lit_offrl.data.spec import DatasetSpec, make_spec
from lit_offrl.errors import InputError
from lit_offrl.inspection import inspect_transitions
from lit_offrl.inspection.coverage import actions_per_cell, effective_number
from lit_offrl.inspection.questions import read_answers
from lit_offrl.inspection.returns import (
    good_share,
    modes_finding,
    positive_sided_variance,
    return_findings,
    trajectory_quality,
    trend_finding,
)
from lit_offrl.report.inspection import histogram, histogram_edges


def test_positive_sided_variance_is_half_the_variance_of_a_symmetric_sample() -> None:
    returns = np.array([-3.0, -1.0, 1.0, 3.0])
    assert positive_sided_variance(returns) == pytest.approx(returns.var() / 2)
    assert positive_sided_variance(np.array([0.0, 4.0, 4.0, 4.0])) == pytest.approx(0.75)


def test_quality_and_good_share_are_relative_to_the_references() -> None:
    returns = np.array([10.0, 20.0, 30.0, 28.0])
    assert trajectory_quality(returns, 10, 30) == pytest.approx(0.6)
    assert good_share(returns, 10, 30) == 0.5


def test_effective_number_is_e_to_the_entropy() -> None:
    assert effective_number(np.array([7, 7, 7])) == pytest.approx(1)
    assert effective_number(np.array([0, 0, 0, 5])) == pytest.approx(4 / 3**0.75)


def test_actions_are_counted_within_cells() -> None:
    cells, action = np.array([0, 0, 1, 1]), np.array([[0], [1], [1], [1]])
    assert actions_per_cell(cells, action) == pytest.approx((2 + 2 + 1 + 1) / 4)


def test_two_behaviors_make_two_modes() -> None:
    pytest.importorskip("sklearn")
    draws = np.random.default_rng(0).normal(size=200)
    assert modes_finding(draws).value == 1
    assert modes_finding(draws + 20 * (np.arange(200) % 2)).value == 2


def test_spread_and_poor_episodes_stand_on_the_scale_of_the_returns() -> None:
    returns = np.array([0.0, 0.05, 1.0, 1.0, 2.0])
    values = {one.name: one.value for one in return_findings(_bandit(returns), _spec(returns))}
    assert values["poor_share"] == pytest.approx(2 / 5)
    mean = returns.mean()
    spread = np.sqrt((2 * (1 - mean) ** 2 + (2 - mean) ** 2) / 5) / 2
    assert values["return_spread"] == pytest.approx(spread)
    assert values["expert_share"] == pytest.approx(1 / 5)


def test_a_trend_is_the_rank_correlation_with_the_order_of_recording() -> None:
    order = np.arange(30.0)
    assert trend_finding(order**3).value == pytest.approx(1)
    assert "trained" in trend_finding(order**3).meaning
    assert trend_finding(-order).value == pytest.approx(-1)
    swapped = order.copy()
    swapped[[0, 29]] = swapped[[29, 0]]
    assert trend_finding(swapped).value == pytest.approx(1 - 6 * 2 * 29**2 / (30 * (30**2 - 1)))
    for returns in (order[:29], np.ones(30)):
        assert trend_finding(returns).verdict == "not applicable"


def test_each_of_few_whole_numbers_has_a_bar_and_few_values_have_few_bars() -> None:
    assert histogram_edges(np.array([0, 2, 2, 1])) == pytest.approx([-0.5, 0.5, 1.5, 2.5])
    assert histogram_edges(np.ones(7)) == pytest.approx([0.5, 1.5])
    draws = np.random.default_rng(0).normal(size=4000)
    bars = [len(histogram_edges(draws[:n])) - 1 for n in (4, 100, 4000)]
    assert bars == [5, 10, 40]


def test_equal_lengths_are_marked_by_whole_numbers() -> None:
    ticks = histogram("Lengths", "steps", np.full(9, 200)).axes[0].get_xticks()
    assert 200 in ticks and not np.mod(ticks, 1).any()


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 1 + 2**-23] * 20, np.float32),
        np.array([1e15, 1e15 + 0.125] * 20),
        np.full(20, 1e18),
        np.full(20, 1e9, np.float32),
    ],
)
def test_values_that_are_nearly_equal_have_bars_that_hold_them_all(values: NDArray[Any]) -> None:
    edges = histogram_edges(values)
    assert (np.diff(edges) > 0).all()
    assert np.histogram(values.astype(np.float64), edges)[0].sum() == len(values)


def test_images_that_never_change_are_a_constant_dimension() -> None:
    log = _bandit(np.arange(40.0))
    space, place = Box(0, 255, (32, 32), np.uint8), np.zeros((40, 1), np.int32)
    frames = Frames((0, 32, 32), np.zeros((1, 1024), np.uint8), place, place)
    log = replace(log, obs=log.obs[:, :0], next_obs=log.obs[:, :0], frames=(frames,))
    spec = make_spec("tests/black-v0", "0" * 8, space, Box(-1.0, 1.0, (1,)), log)
    found = {one.name: one for one in inspect_transitions(log, spec, 0).findings}
    assert found["constant_dims"].verdict == "watch"


@pytest.mark.parametrize("text", ["unknown: yes", "dangerous: perhaps", "- 1", "{"])
def test_wrong_answers_are_refused(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "answers.yaml").write_text(text)
    with pytest.raises(InputError, match=r"answers\.yaml"):
        read_answers(path)


def _bandit(returns: NDArray[np.float64]) -> Transitions:
    """Episodes of one step."""
    n = len(returns)
    obs, ends = np.zeros((n, 1), np.float32), np.ones(n, bool)
    action = np.zeros((n, 1), np.float32)
    return Transitions(obs, action, returns.astype(np.float32), obs, ends, ~ends, np.arange(n))


def _spec(returns: NDArray[np.float64]) -> DatasetSpec:
    space = Box(-1.0, 1.0, (1,), np.float32)
    return make_spec("tests/bandit-v0", "0" * 8, space, space, _bandit(returns))
