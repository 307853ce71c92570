"""Measures against closed forms, and the recommendation against its table."""

from pathlib import Path

import numpy as np
import pytest

from lit_offrl.errors import InputError
from lit_offrl.inspection import Answers
from lit_offrl.inspection.coverage import actions_per_cell, effective_number
from lit_offrl.inspection.questions import read_answers
from lit_offrl.inspection.returns import (
    good_share,
    modes_finding,
    positive_sided_variance,
    trajectory_quality,
)
from tests.inspection.test_flags import clean, inspected, lost_row


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


def test_the_baselines_are_always_there_and_every_config_exists() -> None:
    advice = inspected(clean()).recommendation()
    assert {"BC", "10 % BC"} <= {one.algorithm for one in advice.candidates}
    for one in advice.candidates:
        assert (Path(__file__).parents[2] / one.config.split()[0]).is_file()
    assert len(advice.open_questions) == 4


def test_confounding_and_a_broken_log_stop_the_recommendation() -> None:
    stopped = inspected(clean()).recommendation(Answers(confounding=True))
    assert not stopped.candidates and "confounding" in stopped.sentence
    broken = inspected(lost_row(clean())).recommendation()
    assert not broken.candidates and "continuity" in broken.sentence


def test_online_rl_is_named_only_where_data_are_cheap_and_safe() -> None:
    report = inspected(clean())
    cheap = Answers(can_collect=True, expensive=False, dangerous=False)
    assert "Online RL" in report.recommendation(cheap).sentence
    risky = Answers(can_collect=True, expensive=False, dangerous=True)
    assert "Online RL" not in report.recommendation(risky).sentence


@pytest.mark.parametrize("text", ["unknown: yes", "dangerous: perhaps", "- 1", "{"])
def test_wrong_answers_are_refused(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "answers.yaml").write_text(text)
    with pytest.raises(InputError, match=r"answers\.yaml"):
        read_answers(path)
