import math

import pytest

from lit_offrl.online.findings import dip_finding, recalibration_finding, recovery_finding
from lit_offrl.online.measures import outcome


def test_a_dip_is_measured_on_the_moving_mean() -> None:
    # moving means of two: 100, 70, 40, 60, 90, 110
    points = list(
        zip(range(1000, 7000, 1000), [100.0, 40.0, 40.0, 80.0, 100.0, 120.0], strict=True)
    )
    smooth = [100.0, 70.0, 60.0, 65.0, 72.0, 76.0]  # windows of up to five
    result = outcome(90.0, points, random_return=-10.0)
    assert result.lowest == pytest.approx(min(smooth))
    assert result.dip == pytest.approx((90 - 60) / 100)
    assert result.recovery_steps == math.inf
    assert result.after == pytest.approx(76.0)
    assert result.regret == pytest.approx(
        sum((120 - r) / 130 for r in (100, 40, 40, 80, 100, 120)) / 6
    )


def test_a_dip_after_the_first_100_000_steps_does_not_count() -> None:
    points = [(50_000, 90.0), (100_000, 90.0), (150_000, 0.0)]
    assert outcome(90.0, points, random_return=0.0).dip == 0
    assert outcome(90.0, points[2:], random_return=0.0).dip == 1


def test_recovery_is_where_the_moving_mean_is_back() -> None:
    returns = [50.0] + [100.0] * 9
    points = [(1000 * (i + 1), value) for i, value in enumerate(returns)]
    result = outcome(90.0, points, random_return=0.0)
    assert result.lowest == 50 and result.dip == pytest.approx(40 / 90)
    assert result.recovery_steps == 5000  # the first mean of five at 90: (50 + 4 * 100) / 5


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
