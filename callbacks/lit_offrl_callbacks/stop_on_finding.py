"""End a run when a diagnostic fails, and go back to the last checkpoint that was sound."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lit_offrl.errors import InputError
from lit_offrl_callbacks.diagnostic import Diagnostic, findings_of
from lit_offrl_callbacks.rewinding import rewind


class StopOnFinding(Checkpoint):
    """Stops the run at the end of an epoch in which one of the named findings fails.

    After every diagnosis that finds nothing amiss it writes ``sound.ckpt``. With ``rewind`` the
    run ends with that checkpoint as ``last.ckpt`` and with its weights; every draw is a function of
    seed and update, so going on from it with the same settings would fail again. Lightning calls a
    Checkpoint after all other callbacks, so this one sees the findings of its epoch.

    Args:
        findings: Names of findings, such as ``q_bounds``.
        action: ``stop`` keeps the last weights, ``rewind`` goes back to those of ``sound.ckpt``.
        dirpath: Folder of the checkpoints; by default ``checkpoints`` in the trainer's root folder.
    """

    def __init__(
        self,
        findings: Sequence[str] = ("q_bounds", "q_nan"),
        action: Literal["stop", "rewind"] = "rewind",
        dirpath: str | None = None,
    ) -> None:
        if not findings:
            raise InputError("Name at least one finding for StopOnFinding, such as `q_bounds`.")
        if action not in ("stop", "rewind"):
            raise InputError(f"`action` of StopOnFinding is stop or rewind, not {action}.")
        self.names = tuple(findings)
        self.action = action
        self.dirpath = dirpath
        self.sound_update: int | None = None
        """Update of the last sound checkpoint."""
        self.failed: str | None = None
        """Name of the finding that ended the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that something is diagnosed."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, Diagnostic) for callback in callbacks):
            raise InputError("StopOnFinding needs a diagnostic, such as QValueSanity: add one.")
        self._folder = Path(self.dirpath or Path(trainer.default_root_dir) / "checkpoints")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, or remember that all was well."""
        found = findings_of(trainer, of_this_update=True)
        verdicts = {name: found[name].verdict for name in self.names if name in found}
        failed = [name for name, verdict in verdicts.items() if verdict == "fail"]
        if failed:
            self.failed = failed[0]
            trainer.should_stop = True
        elif any(verdict != "not applicable" for verdict in verdicts.values()):
            self.sound_update = trainer.global_step
            trainer.save_checkpoint(self._folder / "sound.ckpt")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why the run ended, and rewind."""
        if self.failed is None:
            return
        text = f"Stopped at update {trainer.global_step}: {findings_of(trainer)[self.failed]}"
        if self.action == "stop" or self.sound_update is None:
            end = "" if self.action == "stop" else " No earlier checkpoint was sound."
            pl_module.print(text + end)
            return
        rewind(trainer, pl_module, self._folder / "sound.ckpt")
        pl_module.print(f"{text} last.ckpt is now that of update {self.sound_update}.")

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoint was sound."""
        return {"sound_update": self.sound_update}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from it."""
        self.sound_update = state_dict["sound_update"]
