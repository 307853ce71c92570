"""What the diagnostics share: when they are asked, and what becomes of their findings."""

from collections.abc import Mapping
from math import nan
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_offrl.data import OfflineDataModule
from lit_offrl.errors import InputError
from lit_offrl.evaluation.finding import SEVERITY, Finding, not_applicable
from lit_offrl.evaluation.raw_policy import eval_mode
from lit_offrl.report import Curve, Scatter


class Diagnostic(Callback):
    """Base class: a subclass writes :meth:`diagnose`.

    It is asked at the end of each validation, or of each epoch where none is validated. Its
    findings are logged, printed when a verdict changes, and kept in the checkpoint.

    Logged Metrics:
        - ``q/bounds`` for a finding ``q_bounds``, and so on: its value.
        - ``verdict/q_bounds``: 0 ok, 1 watch, 2 fail, -1 not applicable.

    Args:
        every_n_epochs: Epochs between two diagnoses; the last epoch is diagnosed in any case.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise InputError(f"`every_n_epochs` must be at least 1, not {every_n_epochs}.")
        self.every_n_epochs = every_n_epochs
        self.findings: dict[str, Finding] = {}
        """Latest finding under each name."""
        self.history: list[dict[str, float]] = []
        """Values of the findings, and ``update``, at each diagnosis."""

    def diagnose(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        """Ask the algorithm; called on every rank, without gradients, in evaluation mode."""
        raise NotImplementedError

    def curves(self) -> list[Curve]:
        """Return what a report should draw over training."""
        return []

    def history_curve(self, title: str, ylabel: str, labels: Mapping[str, str]) -> list[Curve]:
        """Draw values of findings over training; nothing where none of them was found.

        Args:
            title: What is shown.
            ylabel: Quantity and unit.
            labels: Names of findings, and what to call their values.
        """
        found = {
            name: text for name, text in labels.items() if any(name in p for p in self.history)
        }
        series = {t: [point.get(name, nan) for point in self.history] for name, t in found.items()}
        updates = [point["update"] for point in self.history]
        return [Curve(title, ylabel, updates, series)] if series else []

    def scatters(self) -> list[Scatter]:
        """Return pairs of numbers that a report should draw."""
        return []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Diagnose before anything decides on what is logged."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._diagnose_if_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Diagnose where no validation ran."""
        self._diagnose_if_due(trainer, pl_module)

    def _diagnose_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or is_last_epoch(trainer)
        done = bool(self.history) and self.history[-1]["update"] == trainer.global_step
        if due and not done:
            with torch.no_grad(), eval_mode(pl_module):
                self._record(trainer, pl_module, self.diagnose(trainer, pl_module))

    def _record(
        self, trainer: Trainer, pl_module: LightningModule, findings: list[Finding]
    ) -> None:
        gone = sorted(self.findings.keys() - {f.name for f in findings})
        findings = [*findings, *(not_applicable(n, "It was not judged this time.") for n in gone)]
        values = {f.name: f.value for f in findings if f.value is not None}
        self.history.append({"update": float(trainer.global_step), **values})
        for finding in findings:
            before = self.findings.get(finding.name)
            known = "not applicable" if before is None else before.verdict
            if finding.verdict != known and {finding.verdict, known} & {"watch", "fail"}:
                pl_module.print(f"update {trainer.global_step}: {finding}")
            self.findings[finding.name] = finding
        logged = {name.replace("_", "/", 1): value for name, value in values.items()}
        logged |= {f"verdict/{f.name}": float(SEVERITY[f.verdict]) for f in findings}
        logged["step"] = float(trainer.global_step)  # the loggers' x axis
        pl_module.log_dict(logged)

    def state_dict(self) -> dict[str, Any]:
        """Return findings and history, in plain types."""
        return {
            "findings": [finding.to_dict() for finding in self.findings.values()],
            "history": [dict(point) for point in self.history],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from earlier findings."""
        findings = [Finding.from_dict(values) for values in state_dict["findings"]]
        self.findings = {finding.name: finding for finding in findings}
        self.history = [dict(point) for point in state_dict["history"]]


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether training ends with this epoch."""
    return (
        trainer.should_stop
        or 0 <= trainer.max_steps <= trainer.global_step
        or trainer.current_epoch + 1 == trainer.max_epochs
    )


def discount_of(pl_module: LightningModule) -> float:
    """Return γ of a module.

    Raises:
        InputError: If it has no ``discount``.
    """
    discount = getattr(pl_module, "discount", None)
    if not isinstance(discount, float | int):
        raise InputError(f"{type(pl_module).__name__} has no `discount`: set one.")
    return float(discount)


def offline_data(trainer: Trainer, name: str) -> OfflineDataModule:
    """Return the run's data module.

    Raises:
        InputError: If the callback ``name`` was given none that it can work on.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, OfflineDataModule):
        raise InputError(f"{name} needs an OfflineDataModule: give `fit` one.")
    return data


def findings_of(trainer: Trainer, of_this_update: bool = False) -> dict[str, Finding]:
    """Collect the latest findings of all diagnostics of a run, under their names.

    Args:
        trainer: The run.
        of_this_update: Leave out those that were made at an earlier update.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found: dict[str, Finding] = {}
    for callback in (c for c in callbacks if isinstance(c, Diagnostic) and c.history):
        if not of_this_update or callback.history[-1]["update"] == trainer.global_step:
            found |= callback.findings
    return found
