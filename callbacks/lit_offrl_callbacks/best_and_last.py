"""Keep two checkpoints: the latest, and the best by evaluation or held-out loss."""

from pathlib import Path

import torch
from lightning import LightningModule, Trainer
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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose what to monitor."""
        if self._choose:
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            evaluated = any(getattr(c, "evaluates_online", False) for c in callbacks)
            data = getattr(trainer, "datamodule", None)
            held_out = len(getattr(data, "held_out_matrix", ())) > 0
            self.monitor = "eval/return_mean" if evaluated else "val/loss" if held_out else None
            self.mode = "max" if evaluated else "min"
            self.kth_value = torch.tensor(-torch.inf if evaluated else torch.inf)
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``best.ckpt`` if it is, and ``last.ckpt`` always."""
        super().on_train_epoch_end(trainer, pl_module)
        # ModelCheckpoint's own `save_last` copies the best
        trainer.save_checkpoint(Path(self.dirpath or trainer.default_root_dir) / "last.ckpt")
