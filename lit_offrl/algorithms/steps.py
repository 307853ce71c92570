"""One number counts gradient updates, and it is the x axis of every log."""

from collections.abc import Mapping

from lightning import LightningModule, Trainer


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
