import json
from pathlib import Path

import pytest

from lit_offrl.checkpoint import load
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


@pytest.mark.parametrize(("updates", "headline"), [(4, "It is better."), (2, "")])
def test_an_evaluation_of_another_state_is_left_out(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], updates: int, headline: str
) -> None:
    info, spec = (policy := load(checkpoint)).info, policy.spec
    judged = {
        "gradient updates": updates,
        "training seed": info.seed,
        "its content hash": spec.content_hash,
    }
    report = {"conclusion": "use", "headline": "It is better.", "ledger": judged}
    folder = checkpoint.parents[1] / "evaluation" / "last"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    assert run(capsys, ["export", str(checkpoint), "--format", "torch"]).code == 0
    card = json.loads((checkpoint.parents[1] / "export" / "last" / "card.json").read_text())
    assert card["headline"] == headline
    assert (card["conclusion"] == "not evaluated") == (not headline)
