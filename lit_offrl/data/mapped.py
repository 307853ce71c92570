"""A training split packed into a file that is mapped: on disk once, shared by all processes."""

import dataclasses
import hashlib
import json
import logging
import os
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.batch import Layout
from lit_offrl.data.cache import cache_dir, no_room, stored
from lit_offrl.data.columns import CannotWriteError, NewColumn
from lit_offrl.data.packing import pack_into
from lit_offrl.data.sampler import Matrix
from lit_offrl.data.transitions import GROUP, Transitions
from lit_offrl.scaling import Scaling

_log = logging.getLogger(__name__)
_VERSION = 2
"""To be raised whenever the same arguments give other numbers."""
RESIDENT = 1 << 30
"""Bytes of a matrix past which single rows are read: a mapping would become resident whole."""


def mapped_matrix(
    content_hash: str,
    transitions: Transitions,
    episodes: NDArray[np.int64],
    layout: Layout,
    scaling: Scaling,
    discount: float,
) -> NDArray[np.float32]:
    """Map the packed rows of some episodes, (N, W); pack them into the cache first if need be.

    Args:
        content_hash: What the transitions were read from.
        transitions: Raw data with whole episodes.
        episodes: Which of them to pack, in this order.
        layout: Columns of the matrix.
        scaling: What the networks are to see.
        discount: γ of "mc_return".

    Raises:
        InputError: If the cache cannot be written, or has no room.
    """
    rows = transitions.episode_rows(episodes)
    decides = {
        "content": content_hash,
        "layout": layout._asdict(),
        "scaling": scaling.to_dict(),
        "discount": discount if "mc_return" in layout.extras else None,
    }
    name = _name("packed", decides, episodes)

    def fill(new: NewColumn) -> None:
        _log.info(
            "Packing %d rows, %.2g GB, into %s.",
            len(rows),
            len(rows) * layout.width * 4 / 1e9,
            cache_dir() / name,
        )
        matrix = new("matrix", (len(rows), layout.width), np.float32)
        pack_into(matrix, transitions, rows, layout, scaling, discount)

    def matrix_of(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        return matrix

    try:
        return stored(name, matrix_of, fill)
    except CannotWriteError as error:
        raise no_room(error) from None


def mapped_episodes(
    content_hash: str, transitions: Transitions, episodes: NDArray[np.int64]
) -> Transitions:
    """Map what ``transitions.select_episodes(episodes)`` copies; see :func:`mapped_matrix`."""
    if np.array_equal(episodes, np.arange(transitions.n_episodes)):
        return transitions
    n = len(transitions.episode_rows(episodes))

    def fill(new: NewColumn) -> None:
        columns = {
            name: new(name, (n, *column.shape[1:]), column.dtype)
            for name, column in transitions.columns().items()
        }
        stop = n_episodes = 0
        for group in np.array_split(episodes, n // GROUP + 1):
            part = transitions.select_episodes(group)
            part = dataclasses.replace(part, episode=part.episode + n_episodes)
            start, stop, n_episodes = stop, stop + len(part), n_episodes + len(group)
            for name, column in part.columns().items():
                columns[name][start:stop] = column
            transitions.release_pages()

    try:
        name = _name("episodes", {"content": content_hash}, episodes)
        selected = stored(name, Transitions.of, fill)
    except CannotWriteError as error:
        raise no_room(error) from None
    rows = transitions.rows_of(episodes)
    return dataclasses.replace(selected, frames=tuple(f.take(rows) for f in transitions.frames))


def _name(kind: str, decides: dict[str, Any], episodes: NDArray[np.int64]) -> str:
    """Name an entry after all that decides its numbers, and nothing else."""
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=16)
    digest.update(episodes.astype("<i8").tobytes())
    return f"{kind}-{digest.hexdigest()}-v{_VERSION}"


class FileRows:
    """Rows of a mapped matrix, read from its file and thus from the system's page cache.

    Touching a row of a mapping maps all around it, up to 2 MB, so that soon the whole file counts
    as memory of the process. A read costs about a microsecond a row and leaves nothing.

    Args:
        matrix: The matrix as it was mapped, (N, W).
    """

    device = torch.device("cpu")

    def __init__(self, matrix: Any) -> None:
        self._length, self._width = map(int, matrix.shape)
        self._start, self._stride = matrix.offset, matrix.strides[0]
        self._file = open(matrix.filename, "rb", buffering=0)  # noqa: SIM115 - as long as this is

    def __len__(self) -> int:
        return self._length

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Read rows, (len(index), W)."""
        assert dim == 0
        descriptor, stride = self._file.fileno(), self._stride
        places = (index * stride + self._start).tolist()
        read = b"".join([os.pread(descriptor, stride, place) for place in places])
        return torch.frombuffer(bytearray(read), dtype=torch.float32).view(-1, self._width)


def drawn_from(matrix: Any) -> Matrix:
    """Give a mapped matrix (N, W) to a sampler: as a tensor, or row by row if it is large."""
    if matrix.nbytes > RESIDENT and hasattr(os, "pread"):
        return FileRows(matrix)
    return as_tensor(matrix)


def as_tensor(matrix: NDArray[np.float32]) -> Tensor:
    """View a mapped matrix as a tensor, which must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(matrix)
