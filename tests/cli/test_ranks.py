"""``lit-offrl fit`` in two processes does, says and leaves what it does in one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import LightningModule, Trainer

from lit_offrl.cli.running import run
from lit_offrl.errors import InputError
from tests.cli.running import Fit, Outcome, metrics, read, tiny
from tests.cli.signals import SendSignal
from tests.ranks import SOURCES, TORCHRUN

RUN = Path("runs/pendulum-mixed/iql/seed-0")
TWO = {"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.precision": "64-true"}
SHORT = {
    "data.dataset_id": "pendulum/mixed",
    "evaluation.episodes": 3,
    "diagnostics": "true",
    "q_values.rows": 65,
    "kl.rows": 65,
    "gap.episodes": 5,
}


def fit_on_two(
    folder: Path, options: Mapping[str, Any], *arguments: str, torchrun: bool = False
) -> Outcome:
    """Run ``lit-offrl fit`` on two ranks, in ``folder``."""
    folder.mkdir(exist_ok=True)
    script = folder.parent / "lit_offrl_main.py"
    script.write_text("from lit_offrl.cli import main\nmain()\n")
    start = [*TORCHRUN, "--nproc_per_node=2"] if torchrun else [sys.executable]
    done = subprocess.run(
        [*start, str(script), "fit", *tiny("IQL", {**TWO, **options}), *arguments],
        env={**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def files(folder: Path) -> set[str]:
    """Files of a run; TensorBoard's have the time in their names."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "events" not in p.name}


@pytest.mark.slow
def test_two_ranks_leave_and_say_what_one_does(fit: Fit, tmp_path: Path) -> None:
    one = fit(**SHORT, trainer__precision="64-true")
    assert one.code == 0
    two = fit_on_two(tmp_path / "two", SHORT)
    assert two.code == 0, two.err

    other = Path("two") / RUN
    assert files(RUN) == files(other)
    assert len(list(other.glob("tensorboard/events.*"))) == 1
    assert (RUN / "report.md").read_text() == (other / "report.md").read_text()
    lines = [[x for x in out.splitlines() if "updates/s" not in x] for out in (one.out, two.out)]
    assert lines[0] == lines[1]
    mine, theirs = metrics(RUN), metrics(other)
    assert len(mine) == len(theirs)
    for row, expected in zip(theirs, mine, strict=True):
        for either in (row, expected):
            either.pop("awr/ess", None)  # no mean over rows
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for name in ("last", "best"):
        assert read(RUN, name)["global_step"] == read(other, name)["global_step"]


class SignalSecondRank(SendSignal):
    """Sends a signal to the second rank alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send nothing from other ranks."""
        if trainer.global_rank != 1:
            self.times = 0


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_with_one_checkpoint(fit: Fit, tmp_path: Path) -> None:
    sender = "{class_path: tests.cli.test_ranks.SignalSecondRank, init_args: {update: 12}}"
    options = {"data.updates_per_step": 3, "run_dir": "run"}
    stopped = fit_on_two(tmp_path, options, "--trainer.callbacks", f"[{sender}]")
    assert stopped.code == 128 + 15, stopped.err
    says, command = stopped.err.splitlines()
    assert says == "Interrupted after update 16. Resume with:"
    assert command.endswith("--run_dir run --ckpt_path last")
    assert read("run")["global_step"] == 16

    resumed = fit("--ckpt_path", "last", run_dir="run", trainer__precision="64-true")
    assert (resumed.code, resumed.err) == (0, "")
    assert fit(run_dir="whole", trainer__precision="64-true").code == 0
    whole, weights = read("whole")["state_dict"], read("run")["state_dict"]
    for key, value in whole.items():
        assert float((weights[key] - value).abs().max()) < 1e-8


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_answered_once(tmp_path: Path) -> None:
    outcome = fit_on_two(tmp_path, {"data.batch_size": 7})
    assert "`batch_size` 7 is the global batch and does not divide by 2" in outcome.complaint
    assert not (tmp_path / "runs").exists()


def test_a_rank_that_does_not_lead_leaves_the_folder_alone(tmp_path: Path) -> None:
    def fail() -> LightningModule:
        (tmp_path / "of the first").touch()  # meanwhile
        raise InputError("told by all ranks")

    data: Any = None
    for leads, left in ((False, ["of the first"]), (True, [])):
        trainer: Any = SimpleNamespace(is_global_zero=leads)
        (tmp_path / "of the first").unlink(missing_ok=True)
        with pytest.raises(InputError, match="told by all ranks"):
            run(trainer, fail, data, tmp_path, None, 0)
        assert [path.name for path in tmp_path.iterdir()] == left


@pytest.mark.slow
def test_torchrun_without_a_common_folder_is_answered_once(tmp_path: Path) -> None:
    outcome = fit_on_two(tmp_path, {}, torchrun=True)
    assert outcome.code == 1  # torchrun's own
    complaints = [line for line in outcome.err.splitlines() if line.startswith("lit-offrl: ")]
    assert len(complaints) == 1
    assert "name their common folder with `--run_dir`" in complaints[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_of_several_processes_on_a_machine_the_first_one_complains(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv(variable, rank)
        outcome = fit("--nonsense=8")
        assert outcome.code == 2
        assert len(outcome.err.splitlines()) == lines
