import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.judging import leave_evaluation
from tests.cli.running import Fit, Outcome, run


@pytest.fixture
def checkpoint(fit: Fit, tmp_path: Path) -> Path:
    """An IQL of a few updates on a small set."""
    assert fit("--run_dir", str(tmp_path / "run"), trainer__max_steps=4).code == 0
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture
def exported(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> Outcome:
    return run(capsys, ["export", str(checkpoint), "--format", "torch"])


def test_the_files_lie_in_the_runs_folder(exported: Outcome, checkpoint: Path) -> None:
    assert exported.code == 0, exported.err
    folder = checkpoint.parents[1] / "export" / "last"
    assert {p.name for p in folder.iterdir()} == {"card.json", "card.md", "policy.pt2"}
    assert all(name in exported.out for name in ("card.json", "card.md", "policy.pt2"))
    assert f"Files: {folder}\n" in exported.out
    assert "act as the policy does at 1000 observations of the log" in exported.out
    assert "Intended use: None yet" in exported.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "is there: name another"),
        (("--format", "pickle"), "Option `format`"),
        (("--out", "/proc/none/x"), "Cannot write"),
    ],
)
def test_wrong_input_is_one_line(
    exported: Outcome,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert exported.code == 0
    outcome = run(capsys, ["export", str(checkpoint), "--format", "torch", *arguments])
    assert message in outcome.complaint


OTHERS: list[dict[str, Any]] = [
    {"ledger": {"gradient updates": 2}},
    {"ledger": {"training seed": 9}},
    {"ledger": {"its content hash": "another"}},
    {"ledger": {"algorithm": "CQL"}},
    {"ledger": {"evaluation policy": "sampled"}},
    {"details": {"discount": 0.9}},
]


def test_only_an_evaluation_of_this_very_policy_is_on_the_card(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = ["export", str(checkpoint), "--format", "torch", "--overwrite", "true"]
    for changes in [{}, *OTHERS]:
        report = leave_evaluation(checkpoint, **changes)
        caplog.clear()
        assert run(capsys, command).code == 0
        card = json.loads((checkpoint.parents[1] / "export" / "last" / "card.json").read_text())
        assert (card["headline"], card["conclusion"]) == (
            ("", "not evaluated") if changes else ("It is better.", "use")
        )
        assert ("judges another policy" in caplog.text) == bool(changes)
        report.unlink()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"conclusion": "use", "ledger": 3}'])
def test_a_damaged_evaluation_is_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    leave_evaluation(checkpoint).write_text(content)
    outcome = run(capsys, ["export", str(checkpoint), "--format", "torch"])
    assert "is no report of `lit-offrl evaluate`: make it anew, or remove it" in outcome.complaint
