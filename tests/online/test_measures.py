import math

import pytest

from lit_offrl.online.findings import dip_finding, recalibration_finding, recovery_finding
from lit_offrl.online.measures import outcome


def test_a_dip_is_measured_on_the_moving_mean() -> None:
    returns = [100.0, 100.0, 40.0, 40.0, 20.0, 80.0, 120.0]
    points = list(zip(range(1000, 8000, 1000), returns, strict=True))
    smooth = [60.0, 56.0, 60.0]  # whole windows of five
    result = outcome(90.0, points, random_return=-10.0)
    assert result.lowest == pytest.approx(min(smooth))
    assert result.worst == 20
    assert result.dip == pytest.approx((90 - 56) / 100)
    assert result.recovery_steps == math.inf
    assert result.after == pytest.approx(60.0)
    assert result.regret == pytest.approx(sum((120 - r) / 130 for r in returns) / 7)


def test_one_bad_evaluation_at_the_start_is_not_a_mean_of_five() -> None:
    points = [(1000 * (i + 1), value) for i, value in enumerate([0.0] + [100.0] * 9)]
    result = outcome(90.0, points, random_return=0.0)
    assert result.lowest == 80 and result.worst == 0


def test_fewer_than_five_evaluations_are_one_window() -> None:
    result = outcome(90.0, [(1, 50.0), (2, 100.0)], random_return=0.0)
    assert result.lowest == result.after == 75 and result.worst == 50
    assert dip_finding(result).meaning == (
        "The mean of 2 evaluations fell from 90.0 to 75.0 at the lowest (17% of what the offline "
        "policy had over random actions); the worst single one returned 50.0."
    )


def test_a_dip_after_the_first_100_000_steps_does_not_count() -> None:
    points = [(50_000, 90.0), (100_000, 90.0), (150_000, 0.0)]
    assert outcome(90.0, points, random_return=0.0).dip == 0
    assert outcome(90.0, points[2:], random_return=0.0).dip == 1


def test_recovery_is_where_the_moving_mean_is_back() -> None:
    returns = [100.0] * 5 + [50.0] * 3 + [100.0] * 8
    points = [(1000 * (i + 1), value) for i, value in enumerate(returns)]
    result = outcome(85.0, points, random_return=0.0)
    assert result.lowest == 70 and result.dip == pytest.approx(15 / 85)
    assert result.recovery_steps == 12000  # (50 + 4 * 100) / 5, the first above 85 after 70


def test_without_a_dip_there_is_nothing_to_recover_from() -> None:
    result = outcome(10.0, [(1, 20.0), (2, 30.0)], random_return=0.0, best_return=40.0)
    assert (result.dip, result.recovery_steps, result.after) == (0.0, 0.0, 25.0)
    assert result.regret == pytest.approx((20 / 40 + 10 / 40) / 2)
    assert recovery_finding(result).verdict == "not applicable"


def test_a_dip_after_the_window_does_not_count() -> None:
    result = outcome(10.0, [(0, 10.0)] * 5 + [(200_000, -90.0)], random_return=0.0)
    assert result.dip == 0 and result.after == pytest.approx(-10.0)


def test_verdicts_follow_the_size_of_the_dip() -> None:
    for low, verdict in ((95.0, "ok"), (80.0, "watch"), (20.0, "fail")):
        found = dip_finding(outcome(100.0, [(1, low)], random_return=0.0))
        assert found.verdict == verdict
        assert bool(found.advice) == (verdict != "ok")
    assert recovery_finding(outcome(100.0, [(1, 20.0)], 0.0)).verdict == "watch"


def test_values_that_moved_by_more_than_the_returns_spread_are_watched() -> None:
    assert recalibration_finding(0.9, 1.0).verdict == "ok"
    assert recalibration_finding(-1.1, 1.0).verdict == "watch"
