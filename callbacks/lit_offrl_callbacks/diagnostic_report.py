"""The report of a run, also of one that was interrupted."""

import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_offrl.errors import RunInterrupted
from lit_offrl.evaluation.finding import SEVERITY
from lit_offrl.report import Curve, Report, log_figures, write_report
from lit_offrl.report.training import training_report
from lit_offrl_callbacks.diagnostic import Diagnostic, findings_of
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation

_log = logging.getLogger(__name__)


class DiagnosticReport(Callback):
    """Writes ``report.html``, ``report.md`` and ``report.json`` when training ends.

    It gathers the findings and curves of all diagnostics of the run. TensorBoard gets the figures.

    Args:
        dirpath: Folder of the report; the trainer's root folder if null.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.path: Path | None = None
        """Where the report lies, once it is written."""
        self.sentence = ""
        """What it says, in one line."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        self._write(trainer, pl_module, interrupted=False)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what is known when the run is told to stop."""
        if isinstance(exception, RunInterrupted):
            self._write(trainer, pl_module, interrupted=True)

    def _write(self, trainer: Trainer, pl_module: LightningModule, interrupted: bool) -> None:
        if not trainer.is_global_zero:
            return
        report = self.report(trainer, pl_module, interrupted)
        self.sentence = f"{report.conclusion.upper()}: {report.headline} {report.why}"
        try:
            self.path = write_report(report, self.dirpath or trainer.default_root_dir)
            log_figures(report, trainer.loggers, trainer.global_step)
        except OSError as error:  # the run itself is whole
            _log.warning("The report could not be written (%s).", error)

    def report(
        self, trainer: Trainer, pl_module: LightningModule, interrupted: bool = False
    ) -> Report:
        """Gather what the callbacks of a run know."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        diagnostics = [c for c in callbacks if isinstance(c, Diagnostic)]
        data: Any = getattr(trainer, "datamodule", None)
        dataset = data.spec.dataset_id if hasattr(data, "spec") else "unknown data"
        return training_report(
            f"{type(pl_module).__name__} on {dataset}",
            sorted(findings_of(trainer).values(), key=lambda f: -SEVERITY[f.verdict]),
            [*_returns(callbacks, data), *(curve for d in diagnostics for curve in d.curves())],
            [scatter for d in diagnostics for scatter in d.scatters()],
            _ledger(trainer, pl_module, callbacks, data),
            str(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"),
            interrupted,
        )


def _returns(callbacks: list[Callback], data: Any) -> list[Curve]:
    """Returns in the environment over training."""
    played = [c for c in callbacks if isinstance(c, OnlineEvaluation) and c.history]
    logged = float(data.train_returns.mean()) if hasattr(data, "train_returns") else None
    return [
        Curve(
            "Return in the environment",
            "mean undiscounted return (raw reward)",
            [float(update) for update, _ in callback.history],
            {"policy": [mean for _, mean in callback.history]},
            hlines={} if logged is None else {"mean of the log": logged},
        )
        for callback in played
    ]


def _ledger(
    trainer: Trainer, pl_module: LightningModule, callbacks: list[Callback], data: Any
) -> dict[str, str | int | float]:
    """What the run was made from, and what it spent."""
    ledger: dict[str, str | int | float] = {
        "algorithm": type(pl_module).__name__,
        "gradient updates": trainer.global_step,
        "online episodes spent": sum(getattr(c, "episodes_spent", 0) for c in callbacks),
    }
    if hasattr(data, "spec"):
        ledger |= {
            "data set": data.spec.dataset_id,
            "content hash": data.spec.content_hash,
            "training episodes": len(data.train_returns),
            "held-out episodes": data.held_out_transitions.n_episodes,
            "split seed": data.split_seed,
            "seed": data.seed,
        }
    packages = {name: version(name) for name in ("lit_offrl", "torch", "lightning")}
    return ledger | packages | {"python": platform.python_version()}
