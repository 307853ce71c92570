import errno
import os
from pathlib import Path

import pytest
import torch

from lit_offrl.checkpoint import latest_checkpoint, read_checkpoint
from lit_offrl.checkpoint_io import WholeCheckpointIO
from lit_offrl.errors import InputError
from lit_offrl.files import remove_leftovers
from tests.faults import Killed, file_size_limit, killed_at


def save(folder: Path, update: int, name: str = "last") -> None:
    content = {"global_step": update, "weights": torch.full((1000,), float(update))}
    WholeCheckpointIO().save_checkpoint(content, folder / f"{name}.ckpt")


def updates(folder: Path) -> dict[str, int]:
    """Names of all files, and the updates of checkpoints, which must be whole."""
    found = {}
    for path in folder.iterdir():
        checkpoint = read_checkpoint(path)
        assert torch.equal(
            checkpoint["weights"], torch.full((1000,), float(checkpoint["global_step"]))
        )
        found[path.stem] = checkpoint["global_step"]
    return found


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut short":
        del content[len(content) // 2 :]
    elif how == "a flipped bit":
        content[content.index(torch.ones(2).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def test_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    for update in (1, 2, 3):
        save(tmp_path / "new", update)
    assert updates(tmp_path / "new") == {"previous": 2, "last": 3}


def test_only_the_last_has_a_previous(tmp_path: Path) -> None:
    save(tmp_path, 1, "best")
    save(tmp_path, 2, "best")
    assert updates(tmp_path) == {"best": 2}


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_at_any_step_leaves_whole_checkpoints(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    last_seen, call = set(), 0
    while True:
        folder = tmp_path / str(call)
        save(folder, 1)
        save(folder, 2)
        with killed_at(call):
            try:
                save(folder, 3)
                break
            except Killed:
                pass
        remove_leftovers(folder)
        left = updates(folder)
        assert (left["previous"], left["last"]) in {(1, 2), (2, 2), (2, 3)}
        assert latest_checkpoint(folder) == folder / "last.ckpt"
        last_seen.add((left["previous"], left["last"]))

        save(folder, 4)
        assert updates(folder) == {"previous": left["last"], "last": 4}
        call += 1
    assert last_seen == {(1, 2), (2, 2), (2, 3)}
    assert updates(folder) == {"previous": 2, "last": 3}


def test_leftovers_of_a_killed_process_with_the_same_id_do_no_harm(tmp_path: Path) -> None:
    call, met = 0, False
    while True:
        folder = tmp_path / str(call)
        save(folder, 1)
        save(folder, 2)
        with killed_at(call):
            try:
                save(folder, 3)
                break
            except Killed:
                pass
        met |= any(folder.glob(".*"))
        last = read_checkpoint(folder / "last.ckpt")["global_step"]
        save(folder, 4)
        assert updates(folder) == {"previous": last, "last": 4}
        call += 1
    assert met


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_where_there_are_no_links_the_one_before_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    for update in (1, 2, 3):
        save(tmp_path, update)
    assert updates(tmp_path) == {"previous": 2, "last": 3}


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with killed_at(100) as calls:
        save(tmp_path, 2, "best")
    names = [name for name in calls if name in ("fsync", "replace")]
    assert names == ["fsync", "replace", "fsync"]  # the last one is of the folder


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_full_disk_leaves_the_old_checkpoints_and_nothing_else(tmp_path: Path, name: str) -> None:
    for update in (1, 2):
        save(tmp_path, update)
        save(tmp_path, update, "best")
    before = updates(tmp_path)
    with file_size_limit(2000), pytest.raises(OSError, match="File too large"):
        save(tmp_path, 3, name)
    assert updates(tmp_path) == before == {"previous": 1, "last": 2, "best": 2}


def test_a_disk_that_says_so_only_when_synced_is_full_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 3)
    assert updates(tmp_path) == {"previous": 1, "last": 2}


@pytest.mark.parametrize("how", ["cut short", "a flipped bit"])
def test_a_damaged_last_gives_way_to_the_one_before(tmp_path: Path, how: str) -> None:
    save(tmp_path, 2)
    save(tmp_path, 1)
    assert latest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    damage(tmp_path / "last.ckpt", how)
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert latest_checkpoint(tmp_path) == tmp_path / "previous.ckpt"
    damage(tmp_path / "previous.ckpt", "cut short")
    with pytest.raises(InputError, match=r"\(last.ckpt and previous.ckpt\): remove"):
        latest_checkpoint(tmp_path)


def test_without_a_last_the_one_before_is_the_latest(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "missing") is None
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "last.ckpt").unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "previous.ckpt"


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_in_the_place_of_a_checkpoint_is_refused(tmp_path: Path, before: bool) -> None:
    if before:
        save(tmp_path, 1)
        save(tmp_path, 2)
        (tmp_path / "last.ckpt").unlink()
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(InputError, match=r"last\.ckpt` is a folder: remove it"):
        latest_checkpoint(tmp_path)
