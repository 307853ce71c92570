import errno
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_offrl.report import figures, log_estimates, log_figures, write_report
from tests.report.examples import empty_report, failing_report, passing_report


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_report_is_written_as_html_markdown_and_json(tmp_path: Path) -> None:
    path = write_report(failing_report(), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    names = set(files_of(path.parent))
    images = {f"report_files/{name}.png" for name in figures(failing_report())}
    assert names == {"report.html", "report.md", "report.json", *images}
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", path.with_suffix(".md").read_text("utf-8"))
    assert set(linked) == images
    assert all((path.parent / image).read_bytes().startswith(b"\x89PNG") for image in images)
    written = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert written == failing_report().to_dict()


def test_the_same_report_is_the_same_file(tmp_path: Path) -> None:
    first = files_of(write_report(passing_report(), tmp_path / "a").parent)
    assert files_of(write_report(passing_report(), tmp_path / "b").parent) == first


def test_reports_of_other_names_stand_beside_each_other(tmp_path: Path) -> None:
    write_report(empty_report(), tmp_path, "first")
    before = files_of(tmp_path)
    write_report(passing_report(), tmp_path, "second")
    assert before.items() <= files_of(tmp_path).items()
    assert "second_files/estimates.png" in files_of(tmp_path)


def test_a_report_can_be_read_by_those_who_may_read_the_folder(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        path = write_report(empty_report(), tmp_path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_report_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    write_report(passing_report(), tmp_path)
    before = files_of(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left"):
        write_report(replace(passing_report(), title="another"), tmp_path)
    assert files_of(tmp_path) == before


def test_no_file_takes_its_place_before_all_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(passing_report(), tmp_path)
    before, synced = files_of(tmp_path), []
    fsync = os.fsync

    def full_at_the_last(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == len(before):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_last)
    with pytest.raises(OSError, match="No space left"):
        write_report(replace(passing_report(), title="another"), tmp_path)
    assert files_of(tmp_path) == before


def test_each_file_is_whole_when_the_disk_fails_between_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(passing_report(), title="another")
    after = files_of(write_report(changed, tmp_path / "after").parent)
    write_report(passing_report(), tmp_path / "report")
    before, replaced = files_of(tmp_path / "report"), []
    move = os.replace

    def fail_at_the_third(source: Path, target: Path) -> None:
        replaced.append(target)
        if len(replaced) == 3:
            raise OSError(errno.EIO, "Input/output error")
        move(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_third)
    with pytest.raises(OSError, match="Input/output"):
        write_report(changed, tmp_path / "report")
    left = files_of(tmp_path / "report")
    assert left.keys() == before.keys()
    assert all(content in (before[name], after[name]) for name, content in left.items())
    assert left["report.html"] == before["report.html"]  # the verdict is the last to change


def test_a_folder_that_is_a_file_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError):
        write_report(empty_report(), tmp_path / "file")
    assert files_of(tmp_path) == {"file": b"kept"}


def test_tensorboard_gets_the_figures_and_the_estimates(tmp_path: Path) -> None:
    tensorboard = TensorBoardLogger(tmp_path / "tensorboard")
    loggers = [CSVLogger(tmp_path), tensorboard]
    log_figures(passing_report(), loggers, step=7)
    log_estimates(failing_report(), loggers, step=7)
    tensorboard.experiment.flush()
    events = EventAccumulator(tensorboard.log_dir)
    events.Reload()
    assert events.Tags()["images"] == [f"report/{name}" for name in figures(passing_report())]
    assert [event.step for event in events.Images("report/estimates")] == [7]
    logged = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    logged.pop("epoch", None)
    assert logged == pytest.approx(
        {
            "estimate/FQE": 262.4,
            "estimate/model": 248.9,
            "estimate/WDR": 255.1,
            "estimate/lower_bound": 219.8,
        }
    )


def test_nothing_is_logged_of_an_empty_report(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    log_figures(empty_report(), [logger], step=0)
    log_estimates(empty_report(), [logger], step=0)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert events.Tags()["images"] == [] and "estimate/lower_bound" not in events.Tags()["scalars"]
