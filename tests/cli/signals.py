"""A callback that stops a run from inside."""

import os
from typing import Any

from lightning import Callback, LightningModule, Trainer


class SendSignal(Callback):
    """Sends this process a signal once enough updates are done.

    Args:
        update: Number of updates.
        signum: Which signal.
        times: How often.
    """

    def __init__(self, update: int, signum: int = 2, times: int = 1) -> None:
        self.update, self.signum, self.times = update, signum, times

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Send it."""
        while self.times and trainer.global_step >= self.update:
            self.times -= 1
            os.kill(os.getpid(), self.signum)
