"""Keep two checkpoints: the latest, and the best by evaluation or held-out loss."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class BestAndLast(ModelCheckpoint):
    """Lightning's ModelCheckpoint writing ``last.ckpt`` and ``best.ckpt`` after each epoch.

    Args:
        dirpath: Folder for the checkpoints.
        monitor: Logged number that makes a checkpoint the best; by default
            ``eval/return_mean`` where the policy is evaluated in its environment, else
            ``val/loss`` where episodes are held out, else the best is the last.
        mode: Whether ``max`` or ``min`` of it is best; by default max for ``eval/``, else min.
    """

    def __init__(
        self, dirpath: str | None = None, monitor: str | None = None, mode: str | None = None
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode or ("max" if (monitor or "").startswith("eval/") else "min"),
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self._choose = monitor is None
        self._evaluations: list[Any] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose what to monitor."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._evaluations = [c for c in callbacks if getattr(c, "evaluates_online", False)]
        if self._choose:
            data = getattr(trainer, "datamodule", None)
            held_out = len(getattr(data, "held_out_matrix", ())) > 0
            evaluated = bool(self._evaluations)
            self.monitor = "eval/return_mean" if evaluated else "val/loss" if held_out else None
            self.mode = "max" if evaluated else "min"
            self.kth_value = torch.tensor(-torch.inf if evaluated else torch.inf)
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``best.ckpt`` if it is, and ``last.ckpt`` always."""
        if self._is_measured(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        # ModelCheckpoint's own `save_last` copies the best
        trainer.save_checkpoint(Path(self.dirpath or trainer.default_root_dir) / "last.ckpt")

    def _is_measured(self, trainer: Trainer) -> bool:
        """Whether the monitored number is of this epoch: not all epochs are evaluated online."""
        if not (self.monitor or "").startswith("eval/"):
            return True
        updates = [c.history[-1][0] for c in self._evaluations if c.history]
        return trainer.global_step in updates
