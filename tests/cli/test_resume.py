"""Runs that are stopped, and go on as if they had not been."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lit_offrl.files import write_whole
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from tests.cli.killing import differences
from tests.cli.running import Fit, metrics, read, same_training, tiny

MAIN = "from lit_offrl.cli import main; main()"
WATCHED = {"data.dataset_id": "pendulum/mixed", "diagnostics": "true", "gap.episodes": 2}
WATCHED |= {"evaluation.episodes": 2, "evaluation.every_n_epochs": 2, "trainer.max_steps": 50}
WRITER = "lit_offrl.checkpoint_io.write_whole"
SENDER = "tests.cli.signals.SendSignal"


def stop_at(update: int, **options: Any) -> list[str]:
    init_args = ", ".join(f"{k}: {v}" for k, v in {"update": update, **options}.items())
    sender = f"{{class_path: {SENDER}, init_args: {{{init_args}}}}}"
    return ["--trainer.callbacks", f"[{sender}]"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("model", ["IQL", "CQL"])
def test_a_stopped_run_goes_on_bit_for_bit_whatever_updates_per_step(
    fit: Fit, model: str, signum: signal.Signals
) -> None:
    assert fit(model=model, run_dir="whole").code == 0

    handler = signal.getsignal(signum)
    stop = stop_at(12, signum=int(signum))
    stopped = fit(*stop, model=model, run_dir="run", data__updates_per_step=3)
    assert stopped.code == 128 + signum
    assert signal.getsignal(signum) == handler
    says, command = stopped.err.splitlines()
    assert says == "Interrupted after update 16. Resume with:"
    assert shlex.split(command)[-4:] == ["--run_dir", "run", "--ckpt_path", "last"]
    assert read("run")["global_step"] == 16

    resumed = fit("--ckpt_path", "last", model=model, run_dir="run", data__updates_per_step=5)
    assert (resumed.code, resumed.err) == (0, "")
    assert same_training(read("whole"), read("run"))
    assert metrics("whole") == metrics("run")


def test_the_printed_command_resumes(fit: Fit) -> None:
    assert fit(run_dir="whole").code == 0
    stopped = fit(*stop_at(12), data__updates_per_step=3)
    command = shlex.split(stopped.err.splitlines()[1])
    assert command[:2] == ["lit-offrl", "fit"]
    sender = command.index("--trainer.callbacks")
    del command[sender : sender + 2]
    assert fit(*command[2:], only_arguments=True).code == 0
    assert same_training(read("whole"), read("runs/tests-box-v0/iql/seed-0"))


@pytest.mark.parametrize("update", [2, 8])
def test_a_run_stopped_in_the_last_updates_of_an_epoch_validates_first(
    fit: Fit, update: int
) -> None:
    options = {"data.dataset_id": "pendulum/mixed", "data.updates_per_step": 2}
    options |= {"evaluation.episodes": 1, "evaluation.every_n_epochs": 2}
    assert fit(run_dir="whole", trainer__max_steps=40, **options).code == 0
    stop = stop_at(update)
    assert fit(*stop, run_dir="run", trainer__max_steps=40, **options).code == 130
    assert read("run")["global_step"] == update + 2
    last = fit("--ckpt_path", "last", run_dir="run", trainer__max_steps=40, **options)
    assert last.code == 0
    assert same_training(read("whole"), read("run"))
    assert metrics("whole") == metrics("run")
    for name in ("last", "best"):
        history = OnlineEvaluation.__qualname__
        states = [read(folder, name)["callbacks"][history] for folder in ("whole", "run")]
        assert states[0] == states[1]


def test_a_run_goes_on_from_the_checkpoint_at_an_epochs_end(fit: Fit) -> None:
    options = {"model.cosine_schedule": False}
    assert fit(run_dir="whole", trainer__max_steps=30, **options).code == 0
    assert fit(run_dir="run", trainer__max_steps=10, **options).code == 0
    assert fit("--ckpt_path=last", run_dir="run", trainer__max_steps=30, **options).code == 0
    assert same_training(read("whole"), read("run"))
    assert metrics("whole") == metrics("run")
    assert read("whole")["epoch"] == read("run")["epoch"]


def test_a_signal_in_the_last_updates_lets_the_run_finish(fit: Fit) -> None:
    outcome = fit(*stop_at(18), run_dir="run")
    assert (outcome.code, outcome.err) == (0, "")
    assert read("run")["global_step"] == 20


def test_a_second_signal_stops_at_once(fit: Fit) -> None:
    stopped = fit(*stop_at(12, times=2), run_dir="run")
    assert stopped.code == 130
    (line,) = stopped.err.splitlines()
    assert "nothing was saved since the last checkpoint" in line
    assert read("run")["global_step"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_from_outside_leaves_a_checkpoint(fit: Fit, signum: signal.Signals) -> None:
    options = {"trainer.max_steps": 1_000_000, "run_dir": "run", "data.updates_per_epoch": 1000}
    options["compile"] = "false"  # as the short run that goes on
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "fit", *tiny("BC", options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not Path("run/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    says, command = err.splitlines()
    update = int(says.removeprefix("Interrupted after update ").partition(".")[0])
    assert read("run")["global_step"] == update > 1000
    assert command.endswith("--run_dir run --ckpt_path last")

    options["trainer.max_steps"] = update + 10
    assert fit("--ckpt_path", "last", model="BC", **options).code == 0
    assert fit(model="BC", **{**options, "run_dir": "whole"}).code == 0
    assert same_training(read("whole"), read("run"))


class Killed(BaseException):
    """Stands for SIGKILL."""


def kill_after_checkpoint(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Die as soon as the ``number``-th ``last.ckpt`` is in place."""
    written: list[str] = []

    def die(path: Path, content: memoryview, keep_as: Path | None = None) -> None:
        write_whole(path, content, keep_as)
        written.append(path.name)
        if written.count("last.ckpt") == number:
            time.sleep(1.01)  # TensorBoard orders a process's files by the second they began in
            raise Killed

    monkeypatch.setattr(WRITER, die)


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [0, 0.25])
def test_a_run_killed_right_after_its_checkpoints_misses_nothing(
    fit: Fit, held_out: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**WATCHED, "data.held_out": held_out}
    assert fit(run_dir="whole", **options).code == 0
    for kill, resume in enumerate([[], ["--ckpt_path", "last"]]):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after_checkpoint(patch, 2 + kill)
            fit(*resume, run_dir="run", **options)
    assert read("run")["global_step"] == 40
    assert fit("--ckpt_path", "last", run_dir="run", **options).code == 0
    assert differences(Path("whole"), Path("run")) == []


@pytest.mark.slow
def test_a_run_killed_after_its_last_checkpoint_still_writes_its_report(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(run_dir="whole", **WATCHED)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after_checkpoint(patch, 5)
        fit(run_dir="run", **WATCHED)
    assert not Path("run/report.html").exists()
    resumed = fit("--ckpt_path", "last", run_dir="run", **WATCHED)
    sentence, report = resumed.out.splitlines()[-2:]
    assert sentence in whole.out.splitlines()
    assert report == "Report: run/report.html"
    assert differences(Path("whole"), Path("run")) == []


def test_epochs_are_counted_once_however_often_a_run_is_killed(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"trainer.max_steps": -1, "trainer.max_epochs": 5, "model.cosine_schedule": "false"}
    assert fit(run_dir="whole", **options).code == 0
    for kill, resume in enumerate([[], ["--ckpt_path", "last"]]):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after_checkpoint(patch, 2 + kill)
            fit(*resume, run_dir="run", **options)
    assert fit("--ckpt_path", "last", run_dir="run", **options).code == 0
    assert read("run")["global_step"] == 50
    assert differences(Path("whole"), Path("run")) == []


def test_what_was_logged_after_the_checkpoint_is_logged_once(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(run_dir="whole").code == 0

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "kill", die)
        fit(*stop_at(16), run_dir="run")
    assert [row["step"] for row in metrics("run")][-1] == 15
    with Path("run/csv/metrics.csv").open("a") as file:
        file.write("0.25,1")  # a row that was cut short
    assert read("run")["global_step"] == 10
    assert fit("--ckpt_path", "last", run_dir="run").code == 0
    assert differences(Path("whole"), Path("run")) == []


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    fit: Fit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(run_dir="whole").code == 0

    def die(*_: object) -> None:
        raise Killed

    caplog.set_level(logging.WARNING, "lit_offrl")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(WRITER, die)
        fit(run_dir="run")
    leftovers = {"csv/metrics.csv": "loss/q,step\r\n1.5,5\r\n", "checkpoints/.last.ckpt.1.tmp": ""}
    for name, text in leftovers.items():
        path = Path("run") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    caplog.clear()
    assert fit("--ckpt_path", "last", run_dir="run").code == 0
    assert caplog.messages == [
        "There is no checkpoint in run/checkpoints: starting from the first update."
    ]
    assert differences(Path("whole"), Path("run")) == []


def test_a_named_checkpoint_must_be_there(fit: Fit) -> None:
    complaint = fit("--ckpt_path", "run/checkpoints/last.ckpt", run_dir="run").complaint
    assert "`run/checkpoints/last.ckpt` is not there" in complaint


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    fit: Fit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"trainer.max_steps": 40, "data.updates_per_step": 2}
    assert fit(run_dir="whole", **options).code == 0
    assert fit(*stop_at(32), run_dir="run", **options).code == 130
    assert (read("run", "previous")["global_step"], read("run")["global_step"]) == (30, 34)
    last = Path("run/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:2000])
    caplog.set_level(logging.WARNING, "lit_offrl")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after_checkpoint(patch, 1)
        fit("--ckpt_path", "last", run_dir="run", **options)
    assert (read("run", "previous")["global_step"], read("run")["global_step"]) == (30, 30)
    assert fit("--ckpt_path", "last", run_dir="run", **options).code == 0
    assert caplog.messages == [f"{last} is missing or damaged: going on from previous.ckpt."]
    assert differences(Path("whole"), Path("run")) == []


def test_a_full_disk_leaves_the_checkpoints_before(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def full(path: Path, content: memoryview, keep_as: Path | None = None) -> None:
        written.append(path.name)
        if written.count("last.ckpt") == 2:
            raise OSError("No space left on device")
        write_whole(path, content, keep_as)

    with monkeypatch.context() as patch:
        patch.setattr(WRITER, full)
        outcome = fit(run_dir="run")
    assert outcome.code == 1
    assert outcome.err == (
        "lit-offrl: No space left on device. Checkpoints written before are whole.\n"
    )
    assert read("run")["global_step"] == 10
    assert fit(run_dir="whole").code == fit("--ckpt_path", "last", run_dir="run").code == 0
    assert differences(Path("whole"), Path("run")) == []
