"""Files that are whole at every moment, whenever the process is killed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview, keep_as: Path | None = None) -> None:
    """Put a file in place once all of it is on the disk; if that fails, the old one stays.

    Args:
        path: The file.
        content: What it shall hold.
        keep_as: Name for the file that was there before.

    Raises:
        OSError: If the disk is full or fails. Nothing of the attempt is left.
    """
    with _temporary(path) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            _sync(file.fileno())
        if keep_as is not None and path.is_file():
            copy_whole(path, keep_as)
        os.replace(temporary, path)
    _sync_folder(path.parent)


def copy_whole(source: Path, target: Path) -> None:
    """Make ``target`` a second name of ``source``'s content, or a copy where there are no links.

    Args:
        source: A file that is only ever replaced, never written into.
        target: Name of the copy; a file of that name is replaced.

    Raises:
        OSError: If the disk is full or fails. Nothing of the attempt is left.
    """
    with _temporary(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
            with temporary.open("rb+") as file:
                _sync(file.fileno())
        os.replace(temporary, target)
    _sync_folder(target.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Name a file beside ``path``, of which nothing is left afterwards."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # in a container the killed process had the same id
    try:
        yield temporary
    finally:  # also after success: replacing a file by another link to it leaves both names
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(descriptor: int) -> None:
    """Wait until the disk has it; some say only now that they are full."""
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a change of names last through a power failure, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)
