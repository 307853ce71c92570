"""Flat transitions on disk: loaded by mapping, shared by processes, safe to delete at any time."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock

from lit_offrl.data.columns import CannotWriteError, NewColumn, read_columns, write_columns
from lit_offrl.data.transitions import Transitions
from lit_offrl.errors import InputError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_VERSION = 2


def cache_dir() -> Path:
    """Return the cache folder: $LIT_OFFRL_CACHE, else lit_offrl in $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("LIT_OFFRL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_offrl"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time do ``name``; without a writable cache folder, don't lock."""
    lock = None
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache_dir() / f"{name.replace('/', '-')}.lock")
        lock.acquire()
    except (OSError, NotImplementedError):  # read-only, or a file system without locks
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


class Source(Protocol):
    """Where transitions come from."""

    def read(self) -> Transitions:
        """Read them into memory."""

    def read_into(self, new: NewColumn) -> object:
        """Read them into columns that ``new`` makes, with little of them in memory at a time."""


def cached(key: str, source: Source, needed: bool = False) -> Transitions:
    """Map the transitions stored under ``key``; read and store them if there are none.

    Args:
        key: Hash of the content of ``source``.
        source: Read when the cache has nothing sound under ``key``.
        needed: Whether to fail, rather than to go on in memory, if the cache cannot be written.

    Returns:
        Memory-mapped, read-only transitions; those in memory if the cache cannot be written.
    """
    try:
        return stored(f"{key}-v{_VERSION}", Transitions.of, source.read_into)
    except CannotWriteError as error:
        if needed:
            raise no_room(error) from None
        _log.warning(
            "Cannot write the data cache %s (%s): going on without it. Set LIT_OFFRL_CACHE to "
            "a folder that is writable and has room.",
            error.folder,
            error.reason,
        )
    return source.read()


def stored(name: str, make: Callable[..., _T], fill: Callable[[NewColumn], object]) -> _T:
    """Map an entry of the cache; write it first if there is none that is sound.

    Args:
        name: Its name, which tells everything that decides its content.
        make: Called with its columns by name.
        fill: Makes and fills the columns.

    Raises:
        CannotWriteError: If the entry must be written and cannot be.
    """
    folder = cache_dir() / name
    if (found := read_columns(folder, make)) is not None:
        return found
    with locked(name):
        if (found := read_columns(folder, make)) is not None:  # another process was faster
            return found
        write_columns(folder, fill)
        found = read_columns(folder, make)
    if found is None:
        raise CannotWriteError(folder.parent, 0, f"{name} cannot be read back")
    return found


def no_room(error: CannotWriteError) -> InputError:
    """Say what ``data.storage`` mapped lacks."""
    room = f"needs {error.n_bytes / 1e9:.2g} GB in" if error.n_bytes else "must write to"
    return InputError(
        f"`data.storage` mapped {room} {error.folder} ({error.reason}): make room there, or set "
        "LIT_OFFRL_CACHE to a folder that is writable and has room."
    )


def hash_files(paths: list[Path], base: Path, extra: str = "") -> str:
    """Hash the contents of files and their paths relative to ``base``, and a text."""
    digest = hashlib.blake2b(extra.encode(), digest_size=16)
    for path in sorted(paths):
        digest.update(f"\0{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
