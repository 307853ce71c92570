import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import Finding
from lit_offrl.report import Curve, KnownValue, Report, Scatter
from tests.report.examples import empty_report, failing_report


def test_a_report_survives_strict_json() -> None:
    values = failing_report().to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_json_has_its_format_and_every_field() -> None:
    values = failing_report().to_dict()
    assert values["format"] == 1
    assert set(values) == {"format", *(field.name for field in fields(Report))}
    curve = failing_report().curves[0]
    assert values["curves"][0] == {
        "title": curve.title,
        "ylabel": curve.ylabel,
        "x": list(curve.x),
        "series": {label: list(column) for label, column in curve.series.items()},
        "bands": {label: [list(low), list(high)] for label, (low, high) in curve.bands.items()},
        "hlines": {"behavior policy": 231.0},
        "xlabel": "gradient updates",
    }
    assert values["behavior_value"] == {
        "value": 231.4,
        "interval": [224.1, 238.8],
        "note": "2,158 logged episodes",
    }


def test_numbers_that_are_not_finite_become_none_in_json() -> None:
    report = Report(
        "",
        "use",
        "",
        "",
        findings=[Finding("a", "ok", "", value=float("nan"), interval=(float("-inf"), 1.0))],
        estimates=[Estimate("IS", "importance sampling", 1.0, std_error=float("inf"))],
        curves=[Curve("c", "y", [0, 1], {"a": [float("nan"), 2.0]})],
        ledger={"loss": float("nan")},
    )
    values = report.to_dict()
    assert values["findings"][0]["value"] is None
    assert values["findings"][0]["interval"] == [None, 1.0]
    assert values["estimates"][0]["std_error"] is None
    assert values["curves"][0]["series"] == {"a": [None, 2.0]}
    assert values["ledger"] == {"loss": None}


def test_columns_may_be_arrays_and_tensors() -> None:
    curve = Curve("c", "y", np.arange(2), {"a": torch.tensor([0.5, 1.5])})  # type: ignore[arg-type, dict-item]
    values = Report("", "use", "", "", curves=[curve]).to_dict()["curves"][0]
    assert values["x"] == [0.0, 1.0] and values["series"] == {"a": [0.5, 1.5]}


def test_findings_stand_with_the_worst_first_and_in_their_order() -> None:
    groups = failing_report().findings_by_verdict()
    assert list(groups) == ["fail", "watch", "ok", "not applicable"]
    assert [one.name for one in groups["fail"]] == ["q_bounds", "offline_online_gap"]
    assert [one.name for one in groups["watch"]] == ["q_policy_gap", "ess", "td_error"]
    assert sum(map(len, groups.values())) == len(failing_report().findings)


def test_the_key_estimate_is_the_first_valid_one() -> None:
    report = failing_report()
    assert replace(report, estimates=report.estimates[3:]).key_estimate is None
    turned = replace(report, estimates=report.estimates[::-1])
    assert turned.key_estimate is not None and turned.key_estimate.name == "WDR"
    assert empty_report().key_estimate is None


def test_a_scatter_draws_whole_pairs_the_same_ones_for_the_same_seed() -> None:
    x = [float(value) for value in range(5000)]
    y = [2 * value for value in x]
    scatter = Scatter.of("", "", "", x, y, max_points=100, seed=3)
    assert len(set(scatter.x)) == 100 and scatter.total == 5000
    assert list(scatter.y) == [2 * value for value in scatter.x]
    assert scatter == Scatter.of("", "", "", x, y, max_points=100, seed=3)
    assert scatter != Scatter.of("", "", "", x, y, max_points=100, seed=4)
    assert 2000 < np.mean(scatter.x) < 3000


def test_a_scatter_does_not_draw_the_same_step_of_every_episode() -> None:
    steps = [float(step % 50) for step in range(5000)]
    assert len(set(Scatter.of("", "", "", steps, steps, max_points=100).x)) > 30


def test_a_small_scatter_keeps_all_its_pairs() -> None:
    scatter = Scatter.of("", "", "", [3.0, 1.0], [0.0, 5.0])
    assert (scatter.x, scatter.y, scatter.total) == ([3.0, 1.0], [0.0, 5.0], 2)


def test_ragged_plots_and_unknown_conclusions_are_refused() -> None:
    with pytest.raises(ValueError, match="`KL` is not as long"):
        Curve("KL", "bits", [0, 1], {"mean": [1.0]})
    with pytest.raises(ValueError, match="`KL` is not as long"):
        Curve("KL", "bits", [0, 1], {"mean": [1.0, 2.0]}, {"mean": ([1.0], [1.0, 2.0])})
    with pytest.raises(ValueError, match="bands of no series"):
        Curve("KL", "bits", [0], {"mean": [1.0]}, {"median": ([1.0], [1.0])})
    with pytest.raises(ValueError, match="2 x, 1 y"):
        Scatter("Q", "", "", [0.0, 1.0], [0.0], 2)
    with pytest.raises(ValueError, match="no conclusion `maybe`"):
        Report("", "maybe", "", "")  # type: ignore[arg-type]


def test_a_known_value_needs_neither_interval_nor_note() -> None:
    values = replace(empty_report(), online_value=KnownValue(1.0)).to_dict()
    assert values["online_value"] == {"value": 1.0, "interval": None, "note": ""}
