"""What remains of metrics.csv, whenever the process dies."""

import csv
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from lit_offrl.cli.logs import KeepLogs, MetricsLogger
from lit_offrl.errors import InputError
from tests.faults import Killed, killed_at


def log(logger: CSVLogger, step: int, **values: float) -> None:
    logger.log_metrics(dict(values), step)
    logger.save()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_a_new_metric_adds_its_column_to_earlier_rows(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, name="", version="")
    log(logger, 1, b=1.0)
    log(logger, 2, b=2.0)
    log(logger, 3, a=3.0)
    assert rows(tmp_path) == [
        {"b": "1.0", "step": "1"},
        {"b": "2.0", "step": "2"},
        {"a": "3.0", "step": "3"},
    ]
    assert (tmp_path / "metrics.csv").read_text().startswith("a,b,step\n")


def test_a_kill_while_a_column_is_added_loses_no_row(tmp_path: Path) -> None:
    call = 0
    while True:
        logger = MetricsLogger(tmp_path / str(call), name="", version="")
        log(logger, 1, b=1.0)
        log(logger, 2, b=2.0)
        with killed_at(call):
            try:
                log(logger, 3, a=3.0)
                break
            except Killed:
                pass
        kept = rows(tmp_path / str(call))
        assert kept[:2] == [{"b": "1.0", "step": "1"}, {"b": "2.0", "step": "2"}]
        call += 1
    assert call >= 4
    assert len(rows(tmp_path / str(call))) == 3


def test_a_kill_while_a_run_goes_on_loses_no_row_of_before(tmp_path: Path) -> None:
    call = 0
    while True:
        folder = tmp_path / str(call)
        first = MetricsLogger(folder, name="", version="")
        for step in (1, 2, 3):
            log(first, step, a=float(step))
        with killed_at(call):
            try:
                KeepLogs(2)._cut(MetricsLogger(folder, name="", version=""))
                break
            except Killed:
                pass
        assert rows(folder)[:2] == [{"a": "1.0", "step": "1"}, {"a": "2.0", "step": "2"}]
        call += 1
    assert call >= 4
    assert len(rows(folder)) == 2


def test_a_run_that_goes_on_in_the_same_place_keeps_what_the_checkpoint_knew(
    tmp_path: Path,
) -> None:
    """Lightning's own logger too, and a run that starts anew keeps nothing."""
    for kind in (MetricsLogger, CSVLogger):
        for update, kept in ((20, ["10", "20"]), (-1, [])):
            log(logger := kind(tmp_path, name="", version=""), 10, a=1.0)
            log(logger, 20, b=1.0)
            log(logger, 21, c=1.0)
            logger = kind(tmp_path, name="", version="")
            KeepLogs(update)._cut(logger)
            log(logger, 30, c=2.0)
            assert [row["step"] for row in rows(tmp_path)] == [*kept, "30"]
            (tmp_path / "metrics.csv").unlink()


@pytest.mark.parametrize(
    "junk", [b"a,b\n1,2\n", b"step\nx\n", b"a,step\n1\n", b"step,a\n1,2,3\n", b"step\n\xff\n"]
)
def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(junk)
    with pytest.raises(InputError, match=r"metrics\.csv is no log of a run, with whole numbers in"):
        KeepLogs(1)._cut(MetricsLogger(tmp_path, name="", version=""))
    assert (tmp_path / "metrics.csv").read_bytes() == junk
