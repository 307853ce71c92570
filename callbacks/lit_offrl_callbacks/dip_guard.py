"""Stop a fine-tuning run that returns too little to be borne."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import Callback, LightningModule, Trainer

from lit_offrl.checkpoint import read_checkpoint
from lit_offrl.errors import InputError
from lit_offrl.online.datamodule import FineTuneDataModule
from lit_offrl_callbacks.rewinding import rewind


class DipGuard(Callback):
    """Ends the run when the mean return of the latest collected episodes falls below a floor.

    It looks at the episodes that are collected anyway, as they end, and spends none of its own.

    Args:
        floor: Least mean return, undiscounted, in raw reward.
        action: ``stop`` keeps the present policy; ``rollback`` goes back to the last checkpoint
            at which the mean was not below the floor, at first the offline policy.
        window: Episodes that the mean is taken of; fewer are not judged.
        dirpath: Folder of the checkpoints; ``checkpoints`` in the trainer's root folder if null.
    """

    def __init__(
        self,
        floor: float,
        action: Literal["stop", "rollback"] = "rollback",
        window: int = 10,
        dirpath: str | None = None,
    ) -> None:
        if window < 1:
            raise InputError(f"`window` of DipGuard must be at least 1, not {window}.")
        if action not in ("stop", "rollback"):
            raise InputError(f"`action` of DipGuard is `stop` or `rollback`, not `{action}`.")
        self.floor, self.action, self.window, self.dirpath = floor, action, window, dirpath
        self.fallen_to: float | None = None
        """Mean return that ended the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the episodes."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, FineTuneDataModule):
            raise InputError("DipGuard needs a FineTuneDataModule: give `fit` one.")
        self._data = data
        folder = Path(self.dirpath or Path(trainer.default_root_dir) / "checkpoints")
        self._safe = folder / "safe.ckpt"

    def _mean(self) -> float | None:
        random_steps = self._data.collecting.random_steps
        played = [e for e in self._data.episodes.finished if e.step > random_steps]
        latest = played[-self.window :]
        if len(latest) < self.window:
            return None
        return float(np.mean([episode.total for episode in latest]))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the offline policy, which is what a first fall goes back to."""
        if self.action == "rollback" and not self._is_safe(trainer.global_step):
            trainer.save_checkpoint(self._safe)

    def _is_safe(self, update: int) -> bool:
        """Whether there is a checkpoint of this run's past to go back to."""
        if update == 0 or not self._safe.is_file():
            return False
        return int(read_checkpoint(self._safe)["global_step"]) <= update

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the latest episodes."""
        mean = self._mean()
        if mean is not None and mean < self.floor:
            self.fallen_to = mean
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a checkpoint that is not below the floor."""
        if self.action == "rollback" and self.fallen_to is None and self._mean() is not None:
            trainer.save_checkpoint(self._safe)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why the run ended, and roll back."""
        if self.fallen_to is None:
            return
        text = (
            f"Stopped at environment step {self._data.env_steps:,}: the last {self.window} "
            f"episodes returned {self.fallen_to:.1f} on average, below the floor {self.floor:g}."
        )
        if self.action == "rollback":
            rewind(trainer, pl_module, self._safe)
            text += " last.ckpt is now the policy from before."
        pl_module.print(text)
