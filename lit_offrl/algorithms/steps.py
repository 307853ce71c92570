"""One number counts gradient updates, and it is the x axis of every log."""

from collections.abc import Mapping

from lightning import LightningModule, Trainer

from lit_offrl.errors import InputError
from lit_offrl.ranges import within


def check_steps(trainer: Trainer) -> None:
    """Refuse a run that can do no update, and losses that are to be logged every -1 updates."""
    within("[0, inf)", **{"trainer.log_every_n_steps": trainer.log_every_n_steps})  # type: ignore[attr-defined]
    for name in ("max_steps", "max_epochs"):
        if getattr(trainer, name) == 0:
            raise InputError(f"With `trainer.{name}` 0 nothing is trained: raise it.")


def is_logged(trainer: Trainer, update: int) -> bool:
    """Whether losses are logged after so many updates; never with ``log_every_n_steps`` 0."""
    period: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return period > 0 and update % period == 0


def count_update(trainer: Trainer) -> None:
    """Advance ``trainer.global_step`` by one, which raw optimizers leave alone."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


def log_update(module: LightningModule, scalars: Mapping[str, float], update: int) -> None:
    """Write numbers at this update.

    Straight to the loggers: `self.log` costs more than many an update, counts calls of
    `training_step`, and writes stale numbers again at calls that log nothing.
    """
    for logger in module.loggers:
        logger.log_metrics(dict(scalars), step=update)
        logger.save()
