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
        _log_epoch(trainer)
        self.write_last(trainer, pl_module)

    def write_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``last.ckpt``, from which a run goes on: the last thing that an epoch does."""
        # ModelCheckpoint's own `save_last` copies the best
        trainer.save_checkpoint(Path(self.dirpath or trainer.default_root_dir) / "last.ckpt")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let an epoch-end checkpoint say that its epoch is yet to end.

        Lightning ends the epoch anew when it resumes, and counts it and its last step twice: a
        second resume would begin a wrong epoch, and ``max_epochs`` come one epoch early.
        """
        loop = checkpoint["loops"]["fit_loop"]
        total, current = (loop["epoch_progress"][name] for name in ("total", "current"))
        if total["processed"] > total["completed"]:
            total["processed"] -= 1
            current["processed"] -= 1
            loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, also where the folder and its ``best.ckpt`` have moved."""
        best = Path(self.dirpath or "") / "best.ckpt"
        if best.is_file():
            scores = {str(best): score for score in state_dict["best_k_models"].values()}
            state_dict = {**state_dict, "dirpath": self.dirpath, "best_k_models": scores}
            names = "best_model_path", "kth_best_model_path"
            state_dict |= {name: str(best) for name in names if state_dict[name]}
            self.current_score = state_dict["current_score"]  # which Lightning leaves out
        super().load_state_dict(state_dict)

    def _is_measured(self, trainer: Trainer) -> bool:
        """Whether the monitored number is of this epoch: not all epochs are evaluated online."""
        if not (self.monitor or "").startswith("eval/"):
            return True
        updates = [c.history[-1][0] for c in self._evaluations if c.history]
        return trainer.global_step in updates


def _log_epoch(trainer: Trainer) -> None:
    """Log what this epoch's end has to log, which Lightning does after its callbacks.

    A run that is killed in between would go on from a checkpoint of this epoch without these rows.
    Leans on internals of Lightning, which then finds nothing left to log.
    """
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
    connector.on_epoch_end()
    loop._batches_that_stepped -= 1  # as Lightning does around this call
    connector.update_train_epoch_metrics()
    loop._batches_that_stepped += 1
