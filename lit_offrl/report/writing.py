"""Writing a report to a folder and to loggers."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger

from lit_offrl.report.content import Report
from lit_offrl.report.figures import drawings, figures
from lit_offrl.report.rendering import html, markdown, to_json, to_png


def write_report(report: Report, folder: str | Path, stem: str = "report") -> Path:
    """Write ``report.html``, ``report.md`` with ``report_files/*.png``, and ``report.json``.

    Each file is whole at any time: the previous one stays until the new one is on the disk.

    Args:
        report: What to say.
        folder: Where to; it is made if it is missing.
        stem: Name of the files.

    Returns:
        Path of the HTML file, which needs no other.

    Raises:
        OSError: If the folder cannot be written or the disk is full; previous files stay.
    """
    folder = Path(folder)
    drawn = drawings(report)
    images = {f"{stem}_files/{name}.png": drawing for name, drawing in drawn.items()}
    contents = {path: to_png(drawing.figure) for path, drawing in images.items()}
    contents[f"{stem}.md"] = markdown(report, images).encode()
    contents[f"{stem}.json"] = to_json(report).encode()
    contents[f"{stem}.html"] = html(report, drawn).encode()
    write_all({folder / path: content for path, content in contents.items()})
    return folder / f"{stem}.html"


def log_figures(report: Report, loggers: Iterable[Logger], step: int) -> None:
    """Show the report's figures in the loggers that can: TensorBoard.

    Args:
        report: What to show.
        loggers: Loggers of the trainer.
        step: Number of updates done.
    """
    drawn = figures(report)
    for logger in loggers:
        add_figure = getattr(getattr(logger, "experiment", None), "add_figure", None)
        if add_figure is not None:
            for name, figure in drawn.items():
                add_figure(f"report/{name}", figure, global_step=step, close=False)


def log_estimates(report: Report, loggers: Iterable[Logger], step: int) -> None:
    """Log the valid estimates and the lower bound as numbers.

    Args:
        report: What to log.
        loggers: Loggers of the trainer.
        step: Number of updates done.
    """
    numbers = {
        f"estimate/{one.name}": one.value for one in report.estimates if one.status == "valid"
    }
    numbers["estimate/lower_bound"] = report.lower_bound
    known = {name: value for name, value in numbers.items() if value is not None}
    for logger in loggers:
        logger.log_metrics(known, step)


def write_all(contents: dict[Path, bytes]) -> None:
    """Write all files under temporary names before the first one takes its place."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # some disks say only now that they are full
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for leftover in temporary.values():
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
