"""Flat transitions on disk: loaded by mapping, shared by processes, safe to delete at any time."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from lit_offrl.data.transitions import Transitions

_log = logging.getLogger(__name__)
_VERSION = 1
_MANIFEST = "manifest.json"


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


def cached(key: str, build: Callable[[], Transitions]) -> Transitions:
    """Map the transitions stored under ``key``; build and store them if there are none.

    Args:
        key: Hash of the content that ``build`` reads.
        build: Called when the cache has nothing sound under ``key``.

    Returns:
        Memory-mapped, read-only transitions; those that were built if the cache cannot be written.
    """
    folder = cache_dir() / f"{key}-v{_VERSION}"
    if (found := _read(folder)) is not None:
        return found
    with locked(key):
        if (found := _read(folder)) is not None:  # another process was faster
            return found
        built = build()
        try:
            _write(folder, built)
        except OSError as error:
            _log.warning(
                "Cannot write the data cache %s (%s): going on without it. Set LIT_OFFRL_CACHE to "
                "a folder that is writable and has room.",
                cache_dir(),
                error.strerror or error,
            )
            return built
        del built  # so that it does not lie in memory beside the mapped pages
        mapped = _read(folder)
    return build() if mapped is None else mapped


def _read(folder: Path) -> Transitions | None:
    """Map an entry, or return None where there is none or it is damaged."""
    try:
        manifest: dict[str, dict[str, Any]] = json.loads((folder / _MANIFEST).read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in manifest}
        if all(zlib.crc32(arrays[name].data) == manifest[name]["crc32"] for name in manifest):
            return Transitions.of(arrays)
        reason = "checksum differs"
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.is_dir():
            return None
        reason = str(error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        reason = str(error)
    _log.warning("The data cache entry %s is damaged (%s): reading the data anew.", folder, reason)
    return None


def _write(folder: Path, transitions: Transitions) -> None:
    """Store an entry: whole or not at all."""
    for leftover in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        manifest = {}
        for name, array in transitions.arrays().items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            manifest[name] = {"crc32": zlib.crc32(np.ascontiguousarray(array).data)}
        (temporary / _MANIFEST).write_text(json.dumps(manifest))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def hash_files(paths: list[Path], base: Path, extra: str = "") -> str:
    """Hash the contents of files and their paths relative to ``base``, and a text."""
    digest = hashlib.blake2b(extra.encode(), digest_size=16)
    for path in sorted(paths):
        digest.update(f"\0{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
