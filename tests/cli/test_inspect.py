"""``lit-offrl inspect``: tables, the sentence, the files, and wrong input."""

import io
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lit_offrl.inspection.questions import QUESTIONS
from tests.cli.running import run


def test_a_discrete_log_gets_tables_a_sentence_and_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["inspect", "tests/discrete-v0", "--behavior_updates", "10", "--dangerous", "no"]
    outcome = run(capsys, arguments)
    assert outcome.code == 0, outcome.err
    assert "BC" in outcome.out and "--can_collect" in outcome.out
    assert "--dangerous" not in outcome.out  # which was answered
    assert "…" not in outcome.out  # a path that is cut off cannot be copied
    folder = Path("runs/inspect/tests-discrete-v0")
    values = json.loads((folder / "report.json").read_text())
    assert {"behavior_entropy", "determinism"} <= {one["name"] for one in values["findings"]}
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    images = {path.stem for path in folder.glob("*.png")}
    assert images == {"returns", "lengths", "rewards", "actions"}


class Terminal(io.StringIO):
    """Typed lines that claim to come from a person."""

    def isatty(self) -> bool:
        return True


QUICK = ["inspect", "tests/box-v0", "--behavior_updates", "0"]


def test_ask_puts_only_open_questions_and_leaves_unanswered_ones_open(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("No\n\nperhaps\n"))
    outcome = run(capsys, [*QUICK, "--ask", "--confounding", "no"])
    assert outcome.code == 0, outcome.err
    asked = [question in outcome.out for question in QUESTIONS.values()]
    assert asked == [True, True, True, False]
    still_open = [name for name in QUESTIONS if f"open: `--{name}`" in outcome.out]
    assert still_open == ["expensive", "dangerous"]


def test_ask_hears_a_yes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\n\n\ny\n"))
    assert "cannot support a conclusion" in run(capsys, [*QUICK, "--ask"]).out


def test_ask_does_not_wait_where_nobody_can_answer_or_wants_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(capsys, [*QUICK, "--ask"]).out.count("open: ") == len(QUESTIONS)
    monkeypatch.setattr(sys, "stdin", Terminal())  # which ends at the first question
    assert run(capsys, QUICK).out.count("open: ") == len(QUESTIONS)


def test_options_go_before_the_file_of_answers(capsys: pytest.CaptureFixture[str]) -> None:
    Path("answers.yaml").write_text("can_collect: yes\nexpensive: no\ndangerous: no\n")
    arguments = [*QUICK, "--answers", "answers.yaml"]
    assert "Online RL" in run(capsys, arguments).out
    assert "Online RL" not in run(capsys, [*arguments, "--dangerous", "yes"]).out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.hdf5"], "missing.hdf5"),
        (["tests/box-v0", "--behavior_updates", "-1"], "behavior_updates"),
        (["tests/box-v0", "--answers", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in run(capsys, ["inspect", *arguments]).complaint
    assert not Path("runs").exists()


def test_names_in_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    (path := Path("[old]/[/x].hdf5")).parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ends = np.arange(40) % 10 == 9
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = rng.normal(size=(40, 2)), rng.random((40, 1))
        file["rewards"], file["terminals"], file["timeouts"] = rng.random(40), ends, ~ends & False
    outcome = run(capsys, ["inspect", str(path), "--behavior_updates", "0"])
    assert outcome.code == 0, outcome.err
    assert "[old]/[/x].hdf5" in outcome.out
