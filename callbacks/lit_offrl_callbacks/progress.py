"""Progress in gradient updates, with the few numbers that matter."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN = {
    "eval/return_mean": "return",
    "eval/normalized_score": "score",
    "val/td_error": "held-out TD error",
    "val/nll": "held-out NLL",
    "val/action_mse": "held-out action MSE",
    "val/error_rate": "held-out action errors",
}


class UpdateProgress(ProgressBar):
    """A bar that counts updates, and one line per epoch that stays.

    Args:
        refresh_seconds: Least time between two redraws of the bar.
    """

    def __init__(self, refresh_seconds: float = 0.5) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self.console = Console(highlight=False, markup=False)
        self._bar: Progress | None = None
        self._shown_at = 0.0
        self._epoch_start = (0, 0.0)  # update number, time
        self._last_batch = 0.0
        self._validated = -1  # update number

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self.console.quiet = True

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown; `LightningModule.print` asks."""
        return not self.console.quiet

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line above the bar."""
        self.console.print(*args, soft_wrap=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar, where someone can see it."""
        self._epoch_start = (trainer.global_step, time.monotonic())
        if self.console.is_terminal and not self.console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} updates"),
                TextColumn("{task.fields[speed]:.0f}/s"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            total = trainer.max_steps if trainer.max_steps > 0 else None
            self._bar.add_task(
                type(pl_module).__name__, total=total, completed=trainer.global_step, speed=0.0
            )
            self._bar.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._epoch_start = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw now and then."""
        now = self._last_batch = time.monotonic()
        if self._bar is not None and now - self._shown_at > self.refresh_seconds:
            self._shown_at = now
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=trainer.global_step, speed=self._speed(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note down when: Lightning keeps numbers until there are new ones."""
        self._validated = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what the epoch brought."""
        metrics = trainer.callback_metrics
        if self._validated != trainer.global_step:
            metrics = {k: v for k, v in metrics.items() if not k.startswith("val/")}
        numbers = [
            f"{name} {metrics[key].item():.4g}" for key, name in SHOWN.items() if key in metrics
        ]
        speed = f"{self._speed(trainer):.0f} updates/s"
        line = " · ".join([f"update {trainer.global_step}", *numbers[:3], speed])
        self.console.print(line, soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self, trainer: Trainer) -> float:
        """Updates per second of this epoch's training, without evaluation."""
        update, start = self._epoch_start
        return (trainer.global_step - update) / max(self._last_batch - start, 1e-9)
