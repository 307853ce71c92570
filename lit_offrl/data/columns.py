"""Named columns in a folder on disk: written block by block, whole or not at all, and mapped."""

import contextlib
import json
import logging
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_MANIFEST = "manifest.json"
_BUFFER = 1 << 20
LARGE = 1 << 28
"""Bytes of a file from which on its size and time stand in for its checksum, if unchanged."""


class CannotWriteError(Exception):
    """A folder cannot be written, or has no room.

    Args:
        folder: The folder.
        n_bytes: Room that is needed, as far as it is known.
        reason: What the system says.
    """

    def __init__(self, folder: Path, n_bytes: int, reason: str) -> None:
        super().__init__(reason)
        self.folder, self.n_bytes, self.reason = folder, n_bytes, reason


class Column(Protocol):
    """What takes a column's rows, block after block from the first: an array or a file."""

    def __setitem__(self, rows: slice, values: NDArray[Any], /) -> None: ...


NewColumn = Callable[[str, tuple[int, ...], DTypeLike], Column]
"""Makes a column from its name, its shape (N, ...), N -1 if it is not known, and its type."""


class GrowingColumn:
    """A column in memory whose length is not known beforehand.

    Args:
        shape: Shape of a row.
        dtype: Type of its numbers.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._rows = np.empty((0, *shape), dtype)
        self._length = 0

    def __setitem__(self, rows: slice, values: NDArray[Any], /) -> None:
        assert rows.start == self._length, "rows must come in order"
        if rows.stop > len(self._rows):  # without a copy, where the system can move pages
            grown = (max(rows.stop, int(1.25 * len(self._rows))), *self._rows.shape[1:])
            self._rows.resize(grown, refcheck=False)
        self._rows[rows] = values
        self._length = rows.stop

    def done(self) -> NDArray[Any]:
        """The rows that were given."""
        return self._rows[: self._length]


class ColumnFile:
    """An `.npy` file that takes rows in order.

    It is written to, not mapped: where a disk is full, writing to a mapping kills the process.

    Args:
        path: The file.
        shape: Shape of the whole column, (N, ...); N is -1 if it is not known.
        dtype: Type of its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._crc32 = self._rows = 0
        self._file = path.open("wb", buffering=_BUFFER)
        self._write_header(max(shape[0], 0))

    def _write_header(self, rows: int) -> None:
        """Write a header, which is of one length for any number of rows."""
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (rows, *self._shape[1:])}
        np.lib.format.write_array_header_1_0(self._file, header)

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole column, as far as it is known."""
        rows = max(self._shape[0], self._rows)
        return self._dtype.itemsize * rows * int(np.prod(self._shape[1:], dtype=np.int64))

    def __setitem__(self, rows: slice, values: NDArray[Any], /) -> None:
        most = self._shape[0] if self._shape[0] >= 0 else self._rows + len(values)
        start, stop, _ = rows.indices(most)
        assert (start, stop - start) == (self._rows, len(values)), "rows must come in order"
        block = np.ascontiguousarray(values, self._dtype)
        self._crc32 = zlib.crc32(block.data, self._crc32)
        self._file.write(block.data)
        self._rows = stop

    def finish(self) -> dict[str, Any]:
        """Close the file; return what the manifest says of it."""
        if self._shape[0] < 0:
            self._file.seek(0)
            self._write_header(self._rows)
        else:
            assert self._rows == self._shape[0], f"{self._path} lacks rows"
        self._file.flush()
        if self.n_bytes < LARGE:
            self._file.close()
            return {"crc32": self._crc32}
        # a stamp vouches for the content only once that is on the disk
        os.fsync(self._file.fileno())
        self._file.close()
        return {"crc32": self._crc32, "stamp": _stamp(self._path)}

    def abandon(self) -> None:
        """Close the file, whatever has become of it."""
        with contextlib.suppress(OSError):  # what is buffered may find the disk full again
            self._file.close()


def _stamp(path: Path) -> list[int]:
    """Size and time of the last change, which a write into the file changes."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def write_columns(folder: Path, fill: Callable[[NewColumn], object]) -> None:
    """Store an entry: whole or not at all.

    Args:
        folder: Where it shall lie; what lies there is replaced.
        fill: Makes the columns and fills them. It raises no OSError but of the columns.

    Raises:
        CannotWriteError: If it cannot be written. Nothing of the attempt is left.
    """
    files: dict[str, ColumnFile] = {}
    temporary = None
    n_bytes = 0

    def new(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> ColumnFile:
        assert temporary is not None
        files[name] = ColumnFile(temporary / f"{name}.npy", shape, dtype)
        return files[name]

    try:
        for leftover in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        fill(new)
        manifest = {name: file.finish() for name, file in files.items()}
        (temporary / _MANIFEST).write_text(json.dumps(manifest))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        n_bytes = sum(file.n_bytes for file in files.values())
        reason = error.strerror or str(error)
        raise CannotWriteError(folder.parent, n_bytes, reason) from None
    finally:
        for file in files.values():
            file.abandon()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def read_columns(folder: Path, make: Callable[..., _T]) -> _T | None:
    """Map an entry, or return None where there is none or it is damaged.

    Args:
        folder: Where it lies.
        make: Called with the mapped, read-only columns by name.
    """
    try:
        manifest: dict[str, dict[str, Any]] = json.loads((folder / _MANIFEST).read_text())
        paths = {name: folder / f"{name}.npy" for name in manifest}
        arrays = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
        if all(_is_sound(paths[name], arrays[name], manifest[name]) for name in manifest):
            return make(**arrays)
        reason = "checksum differs"
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.is_dir():
            return None
        reason = str(error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        reason = str(error)
    _log.warning("The data cache entry %s is damaged (%s): reading the data anew.", folder, reason)
    return None


def _is_sound(path: Path, array: Any, known: dict[str, Any]) -> bool:
    """Whether a file holds what was written: by its stamp if it has one, else by its checksum."""
    if "stamp" in known and known["stamp"] == _stamp(path):
        return True
    crc32 = 0
    with path.open("rb") as file:  # through a mapping, all of it would become resident
        file.seek(array.offset)
        while block := file.read(_BUFFER):
            crc32 = zlib.crc32(block, crc32)
    return crc32 == int(known["crc32"])


def release_pages(array: Any) -> None:
    """Let go of what was read of a mapped, read-only array; it stays in the page cache."""
    if isinstance(array, np.memmap) and array.mode == "r" and isinstance(array.base, mmap.mmap):
        with contextlib.suppress(AttributeError):  # a system without madvise
            array.base.madvise(mmap.MADV_DONTNEED)
