"""Where the verdicts on a behavior model turn: chance is taken off, few episodes never fail it."""

import math
from dataclasses import replace

import pytest

from lit_offrl.evaluation.behavior.findings import (
    overfit_finding,
    score_findings,
    self_kl_finding,
)
from lit_offrl.evaluation.behavior.scores import Scores
from lit_offrl.evaluation.finding import Finding

DISCRETE = Scores(1000, 10, 0.5, ece=0.0, ece_noise=0.0, pit=None, unexplained=0.0, unseen=0.0)
BOX = replace(DISCRETE, ece=None, ece_noise=None, pit=(0.0, 0.0))


def finding(name: str, scores: Scores) -> Finding:
    return next(one for one in score_findings(scores) if one.name == f"behavior_{name}")


@pytest.mark.parametrize(
    ("ece", "noise", "verdict"),
    [(0.05, 0.0, "ok"), (0.051, 0.0, "watch"), (0.15, 0.0, "watch"), (0.151, 0.0, "fail"),
     (0.2, 0.151, "ok"), (0.2, 0.149, "watch")],
)  # fmt: skip
def test_what_chance_makes_of_the_confidence_is_taken_off(
    ece: float, noise: float, verdict: str
) -> None:
    found = finding("ece", replace(DISCRETE, ece=ece, ece_noise=noise))
    assert (found.verdict, found.value) == (verdict, ece)
    assert f"off by {ece:.3f}" in found.meaning and f"makes {noise:.3f}" in found.meaning


@pytest.mark.parametrize(
    ("excess", "verdict"), [(0.099, "ok"), (0.101, "watch"), (0.199, "watch"), (0.201, "fail")]
)
def test_the_worst_dimension_counts_beyond_what_chance_makes_of_all(
    excess: float, verdict: str
) -> None:
    chance = math.sqrt(math.log(2 * 2 / 0.05) / 2000)  # of 1,000 rows and two dimensions
    found = finding("pit", replace(BOX, pit=(0.01, chance + excess)))
    assert found.verdict == verdict and found.value == pytest.approx(chance + excess)
    assert "action dimension 1 is off" in found.meaning


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.1, "ok"), (0.11, "watch"), (0.3, "watch"), (0.31, "fail")]
)
def test_what_observations_still_predict_is_judged(share: float, verdict: str) -> None:
    found = finding("unexplained", replace(BOX, unexplained=share))
    assert (found.verdict, bool(found.advice)) == (verdict, verdict != "ok")
    assert finding("unexplained", replace(BOX, unexplained=None)).verdict == "not applicable"


def test_fewer_than_ten_episodes_do_not_fail_a_model() -> None:
    wrong = replace(DISCRETE, ece=0.9, unexplained=0.9)
    assert {one.verdict for one in score_findings(wrong)} == {"fail"}
    few = score_findings(replace(wrong, n_episodes=9))
    assert {one.verdict for one in few} == {"watch"}


def test_what_halves_of_the_log_differ_by_is_judged_per_dimension() -> None:
    assert self_kl_finding(6.0, 6).verdict == "ok"
    assert self_kl_finding(6.1, 6).verdict == "watch"
    assert self_kl_finding(1.1, 1).verdict == "watch"
    assert self_kl_finding(None, 1).verdict == "not applicable"


def test_held_out_rows_may_cost_a_quarter_of_a_nat_more_per_dimension() -> None:
    assert overfit_finding(-3.5, -4.0, 2, False).verdict == "ok"
    worse = overfit_finding(-3.4, -4.0, 2, False)
    assert worse.verdict == "watch" and worse.value == pytest.approx(0.3)
    assert overfit_finding(-4.0, -3.0, 2, False).verdict == "ok"  # better than on fitted rows
    assert overfit_finding(9.0, 0.0, 1, True).verdict == "not applicable"
