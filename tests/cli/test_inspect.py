"""``lit-offrl inspect``: tables, the sentence, the files, and wrong input."""

import json
from pathlib import Path

import pytest

from tests.cli.running import run


def test_a_discrete_log_gets_tables_a_sentence_and_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["inspect", "tests/discrete-v0", "--behavior_updates", "10", "--dangerous", "no"]
    outcome = run(capsys, arguments)
    assert outcome.code == 0, outcome.err
    assert "BC" in outcome.out and "--can_collect" in outcome.out
    assert "--dangerous" not in outcome.out  # which was answered
    folder = Path("runs/inspect/tests-discrete-v0")
    values = json.loads((folder / "report.json").read_text())
    assert {"behavior_entropy", "determinism"} <= {one["name"] for one in values["findings"]}
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    images = {path.stem for path in folder.glob("*.png")}
    assert images == {"returns", "lengths", "rewards", "actions"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["no/such-v0"], "no/such-v0"),
        (["tests/box-v0", "--behavior_updates", "-1"], "behavior_updates"),
        (["tests/box-v0", "--answers", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in run(capsys, ["inspect", *arguments]).complaint
    assert not Path("runs").exists()
