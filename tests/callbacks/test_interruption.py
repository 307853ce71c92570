import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from lit_offrl.errors import RunInterrupted
from lit_offrl_callbacks.interruption import Interruption
from tests.callbacks.training import data_module, fit


class At(Callback):
    """Does something before the batch of an update, in the middle of that batch's epoch."""

    def __init__(self, update: int, what: Any) -> None:
        self.update, self.what = update, what

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.update:
            self.what()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_updates_in_flight_with_a_checkpoint(
    tmp_path: Path, signum: signal.Signals
) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    kill = At(14, lambda: os.kill(os.getpid(), signum))
    with pytest.raises(RunInterrupted) as caught:
        fit(data_module(), kill, Interruption(str(tmp_path)))
    stop = caught.value
    assert (stop.signum, stop.update, stop.checkpoint) == (signum, 18, tmp_path / "last.ckpt")
    assert str(stop) == f"{signum.name} after update 18"
    assert torch.load(stop.checkpoint, weights_only=True)["global_step"] == 18
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_without_a_signal_nothing_is_written_and_handlers_come_back(tmp_path: Path) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    trainer = fit(data_module(), Interruption(str(tmp_path)))
    assert trainer.global_step == 25
    assert not list(tmp_path.iterdir())
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_handlers_come_back_after_an_error(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def fail() -> None:
        assert signal.getsignal(signal.SIGINT) != handler
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(data_module(), At(4, fail), Interruption(str(tmp_path)))
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_run_off_the_main_thread_trains_without_it(tmp_path: Path) -> None:
    """Python lets only the main thread take signals."""
    steps: list[int] = []

    def train() -> None:
        steps.append(fit(data_module(), Interruption(str(tmp_path))).global_step)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert steps == [25]
