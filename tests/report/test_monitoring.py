"""What a monitor's report concludes, and the curves that it draws."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from lit_offrl.evaluation.finding import Finding, Verdict
from lit_offrl.online.monitor.seen import Prediction
from lit_offrl.online.monitor.sequential import Cusum, Wealth
from lit_offrl.online.monitor.verdict import conclude
from lit_offrl.report import Report
from lit_offrl.report.monitoring import ASSUMPTIONS, UNCALIBRATED, monitor_report


def report_of(
    alarms: dict[str, int] | None = None, judged: int = 9, worst: Verdict = "ok", **known: Any
) -> Report:
    wealth, cusum = Wealth(1), Cusum(0.0, 1.0)
    wealth.path = [0.0, math.log(10.0), math.log(1e9)]
    for x in (1.0, 2.0, -1.0):
        cusum.add(x)
    monitor = SimpleNamespace(
        conclusion=conclude(alarms or {}, 9, judged, 9, 0.5),
        findings=lambda: [Finding("monitor_states", worst, "What.")],
        delta=0.1, calibrated=False, threshold=100.0, wealth={"reward": wealth}, cusum=cusum,
        seen=[SimpleNamespace(value=value) for value in (1.0, 2.0, -1.0)],
        prediction=None, unpredicted="", expects_returns=True,
    )  # fmt: skip
    vars(monitor).update(known)
    return monitor_report(monitor, "IQL on a log")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("alarms", "judged", "worst", "conclusion"),
    [
        ({}, 9, "ok", "use"),
        ({}, 9, "watch", "not shown"),
        ({}, 8, "ok", "not shown"),
        ({"reward": 3}, 9, "fail", "do not use"),
        ({"reward": 3, "returns": 5}, 2, "watch", "do not use"),
    ],
)
def test_only_enough_episodes_without_alarm_and_doubt_are_a_yes(
    alarms: dict[str, int], judged: int, worst: Verdict, conclusion: str
) -> None:
    report = report_of(alarms, judged, worst)
    assert report.conclusion == conclusion
    found = conclude(alarms, 9, judged, 9, 0.5)
    assert report.headline == f"{found.change}: {found.sentence}" and report.why == found.advice


def test_the_level_and_the_assumptions_are_those_of_the_monitor() -> None:
    assert report_of().level == pytest.approx(0.9)
    assert report_of().assumptions == (*ASSUMPTIONS, UNCALIBRATED)
    assert report_of(calibrated=True).assumptions == ASSUMPTIONS


def test_evidence_is_drawn_in_powers_of_ten_up_to_thrice_the_alarm() -> None:
    evidence, returns, sums = report_of().curves
    assert list(evidence.x) == [1, 2, 3] and evidence.hlines == {"alarm": pytest.approx(2.0)}
    assert evidence.series["reward"] == pytest.approx([0.0, 1.0, 6.0])
    assert returns.series == {"return": [1.0, 2.0, -1.0]} and not returns.hlines
    assert sums.series["sum"] == pytest.approx([0.5, 2.0, 0.5])
    assert sums.hlines == {"upper limit": 5.0, "lower limit": -5.0}
    assert [curve.title for curve in report_of(expects_returns=False).curves] == [
        evidence.title,
        returns.title,
    ]
    assert report_of(seen=[]).curves == []


def test_a_prediction_is_drawn_where_returns_are_compared_with_it() -> None:
    lines = {"predicted, low": 0.5, "predicted, high": 2.0}
    known = Prediction(1.0, 0.5, 2.0)
    assert report_of(prediction=known).curves[1].hlines == lines
    assert not report_of(prediction=known, unpredicted="Cut off.").curves[1].hlines
