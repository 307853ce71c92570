import errno
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lit_offrl.data import Transitions, cache, load_dataset
from lit_offrl.data.columns import ColumnFile, NewColumn
from lit_offrl.data.minari_source import MinariSource
from tests.data.makers import data_file, episode, make_minari, small


def entries(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").iterdir() if path.is_dir())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the sets that were read from their own files."""
    seen: list[str] = []
    read = MinariSource.read_into

    def counted(self: MinariSource, new: NewColumn) -> None:
        seen.append(self.dataset_id)
        read(self, new)

    monkeypatch.setattr(MinariSource, "read_into", counted)
    return seen


def equal(one: Transitions, two: Transitions) -> None:
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_the_second_load_maps_the_cache(reads: list[str], tmp_path: Path) -> None:
    small()
    first, spec = load_dataset("tests/small-v0")
    second, again = load_dataset("tests/small-v0")
    assert len(reads) == 1
    assert isinstance(second.obs, np.memmap)
    assert not second.obs.flags.writeable
    assert spec == again
    equal(first, second)
    assert [path.name for path in entries(tmp_path)] == [f"{spec.content_hash}-v2"]


def test_another_content_under_the_same_name_is_read_anew(reads: list[str]) -> None:
    file = data_file(small())
    content = file.read_bytes()
    _, before = load_dataset("tests/small-v0")
    times = os.stat(file)
    changed = small((4, 7, 1, 5), "tests/other-v0")
    with h5py.File(data_file(changed), "a") as handle:
        handle["episode_0/rewards"][0] = 9.0
    file.write_bytes(data_file(changed).read_bytes())
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # what a copying tool may do
    assert len(content) == file.stat().st_size
    transitions, after = load_dataset("tests/small-v0")
    assert transitions.reward[0] == 9.0
    assert before.content_hash != after.content_hash
    assert len(reads) == 2


@pytest.mark.parametrize("name", ["obs.npy", "episode.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_entry_is_rebuilt(
    reads: list[str], tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    small()
    first, _ = load_dataset("tests/small-v0")
    first = first.select_episodes(np.arange(4))
    path = entries(tmp_path)[0] / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[-9 if name != "manifest.json" else 3] ^= 0x55
        path.write_bytes(content if damage == "flip" else content[:-5])
    second, _ = load_dataset("tests/small-v0")
    equal(first, second)
    assert len(reads) == 2
    assert "damaged" in caplog.text
    load_dataset("tests/small-v0")
    assert len(reads) == 2


def test_leftovers_of_a_killed_process_do_no_harm(reads: list[str], tmp_path: Path) -> None:
    small()
    _, spec = load_dataset("tests/small-v0")
    entry = entries(tmp_path)[0]
    entry.rename(entry.with_name(f".{entry.name}-killed"))
    (entry.with_name(f".{entry.name}-killed") / "manifest.json").unlink()
    load_dataset("tests/small-v0")
    assert [path.name for path in entries(tmp_path)] == [f"{spec.content_hash}-v2"]


def load_and_report(results: Any) -> None:
    transitions, _ = load_dataset("tests/small-v0")
    results.put(float(transitions.obs.sum()))


def test_processes_that_load_at_once_agree(tmp_path: Path) -> None:
    make_minari([episode(i, 50) for i in range(40)])
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=load_and_report, args=(results,)) for _ in range(3)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len(set(sums)) == 1
    assert len(entries(tmp_path)) == 1


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "file" / "cache"))
    transitions, _ = load_dataset("tests/small-v0")
    assert len(transitions) == 17
    assert "going on without it" in caplog.text


def test_a_read_only_cache_still_serves_what_it_holds(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small()
    load_dataset("tests/small-v0")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cache, "FileLock", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    load_dataset("tests/small-v0")
    assert len(reads) == 1
    small((3, 3), "tests/two-v0")
    assert len(load_dataset("tests/two-v0")[0]) == 6


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small()
    write = ColumnFile.__setitem__

    def full(self: ColumnFile, rows: slice, values: Any) -> None:
        if rows.start > 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, rows, values)

    monkeypatch.setattr(ColumnFile, "__setitem__", full)
    transitions, _ = load_dataset("tests/small-v0")
    assert len(transitions) == 17
    assert "No space left on device" in caplog.text
    assert entries(tmp_path) == []


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIT_OFFRL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "lit_offrl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "lit_offrl"
