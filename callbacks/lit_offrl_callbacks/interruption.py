"""Leave a checkpoint behind when the run is told to stop."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_offrl.errors import RunInterrupted

Handler = Callable[[int, FrameType | None], Any] | int | None


class Interruption(Callback):
    """On SIGINT or SIGTERM, finish the updates in flight, save ``last.ckpt`` and stop.

    Stopping between updates is what lets the run resume bit for bit. A second signal stops at
    once, without a checkpoint.

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
        """Save and stop if a signal came, on any rank."""
        if trainer.strategy.reduce_boolean_decision(self._received > 0, all=False):
            path = self.dirpath / "last.ckpt"
            trainer.save_checkpoint(path)
            raise RunInterrupted(self._received or signal.SIGTERM, trainer.global_step, path)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
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
