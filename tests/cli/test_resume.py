"""Runs that are stopped, and go on as if they had not been."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from tests.cli.running import Fit, metrics, read, same_training, tiny

MAIN = "from lit_offrl.cli import main; main()"
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
    assert process.returncode == 128 + signum
    says, command = err.splitlines()
    update = int(says.removeprefix("Interrupted after update ").partition(".")[0])
    assert read("run")["global_step"] == update > 1000
    assert command.endswith("--run_dir run --ckpt_path last")

    options["trainer.max_steps"] = update + 10
    assert fit("--ckpt_path", "last", model="BC", **options).code == 0
    assert fit(model="BC", **{**options, "run_dir": "whole"}).code == 0
    assert same_training(read("whole"), read("run"))
