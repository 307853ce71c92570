"""Leave a checkpoint behind when the run is told to stop."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lit_offrl.errors import RunInterrupted

Handler = Callable[[int, FrameType | None], Any] | int | None


class Interruption(Checkpoint):
    """On SIGINT or SIGTERM, finish the updates in flight, save ``last.ckpt`` and stop.

    Stopping between updates is what lets the run resume bit for bit. A second signal stops at
    once, without a checkpoint. Lightning calls a Checkpoint after all other callbacks: place this
    one last, so that it saves what they learned in the epoch.

    Args:
        dirpath: Folder for the checkpoint.
    """

    def __init__(self, dirpath: str) -> None:
        self.dirpath = Path(dirpath)
        self._received = 0
        self._previous: dict[int, Handler] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, after Lightning did."""
        self._received = 0
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone
        self._previous = {
            signum: signal.signal(signum, self._remember)
            for signum in (signal.SIGINT, signal.SIGTERM)
        }

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = signum

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop if a signal came."""
        # an epoch whose updates are done ends first: Lightning resumes it without validation
        if not trainer.is_last_batch:
            self._stop_if_told(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if a signal came while the epoch ended, unless the run is done anyway."""
        if not 0 <= trainer.max_steps <= trainer.global_step:
            self._stop_if_told(trainer)

    def _stop_if_told(self, trainer: Trainer) -> None:
        """Save and stop if a signal came, on any rank."""
        if trainer.strategy.reduce_boolean_decision(self._received > 0, all=False):
            path = self.dirpath / "last.ckpt"
            trainer.save_checkpoint(path)
            raise RunInterrupted(self._received or signal.SIGTERM, trainer.global_step, path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back, before Lightning does."""
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._release()

    def _release(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
