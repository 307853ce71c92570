"""Logs of a run that may be killed at any moment, and goes on later."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lit_offrl.errors import InputError
from lit_offrl.files import write_whole


class MetricsLogger(CSVLogger):
    """Lightning's CSVLogger, but no moment leaves ``metrics.csv`` without rows it had."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the file."""
        if self._experiment is None:
            self._experiment = _MetricsFile(self.log_dir)
        return self._experiment


class _MetricsFile(ExperimentWriter):
    """Rewrites the file as a whole when a new metric comes, and leaves an earlier one in place."""

    def _check_log_dir_exists(self) -> None:
        pass

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        _write_rows(path, fieldnames, _read_rows(path)[1])


class KeepLogs(Callback):
    """Goes on with a run's logs after ``update``, as if what came later had never been logged.

    Args:
        update: Update of the checkpoint from which the run goes on; -1 if it starts anew.
    """

    def __init__(self, update: int) -> None:
        self.update = update

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the logs, now that the checkpoint was accepted."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, CSVLogger):
                self._cut(logger)
            elif isinstance(logger, TensorBoardLogger):
                # what SummaryWriter(purge_step=...) writes: readers drop events before from there
                start = Event(session_log=SessionLog(status=SessionLog.START))
                logger.experiment.file_writer.add_event(start, self.update + 1)

    def _cut(self, logger: CSVLogger) -> None:
        path = Path(logger.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        try:
            names, rows = _read_rows(path)
            rows = [row for row in rows if int(row["step"]) <= self.update]
        except (KeyError, TypeError, ValueError, csv.Error):
            raise InputError(
                f"{path} is no log of a run, with whole numbers in `step`: remove it to go on."
            ) from None
        writer: Any = logger.experiment  # Lightning's own removes the file
        if rows:
            _write_rows(path, names, rows)
            writer.metrics_keys = list(names)
        else:
            path.unlink(missing_ok=True)


def _read_rows(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Names of the columns, and the rows, without one that was cut short by a kill."""
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        lines = (line for line in file if line.endswith("\n"))
        reader = csv.DictReader(lines, restkey="step")  # of a row too long, which is no number
        return reader.fieldnames or [], list(reader)


def _write_rows(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Replace the file."""
    writer = csv.DictWriter(text := io.StringIO(newline=""), fieldnames=names)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
