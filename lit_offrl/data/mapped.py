"""A training split packed into a file that is mapped: on disk once, shared by all processes."""

import dataclasses
import hashlib
import json
import logging
import mmap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.batch import Layout
from lit_offrl.data.cache import cache_dir, no_room, stored
from lit_offrl.data.columns import CannotWriteError, NewColumn, release_pages
from lit_offrl.data.packing import pack_into
from lit_offrl.data.sampler import BlockSource
from lit_offrl.data.transitions import GROUP, Transitions
from lit_offrl.scaling import Scaling

_log = logging.getLogger(__name__)
_VERSION = 1
"""To be raised whenever the same arguments give other numbers."""
RESIDENT = 1 << 30
"""Bytes of a mapped matrix that stay resident, about; the rest is in the page cache alone."""


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
        return stored(_name("episodes", {"content": content_hash}, episodes), Transitions, fill)
    except CannotWriteError as error:
        raise no_room(error) from None


def _name(kind: str, decides: dict[str, Any], episodes: NDArray[np.int64]) -> str:
    """Name an entry after all that decides its numbers, and nothing else."""
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=16)
    digest.update(episodes.astype("<i8").tobytes())
    return f"{kind}-{digest.hexdigest()}-v{_VERSION}"


class ReleasingSampler:
    """Draws from a mapped matrix and now and then lets go of the pages that were read.

    A page that is wanted again comes from the system's page cache, as long as it is there.

    Args:
        sampler: Draws the batches.
        matrix: What it draws from, (N, W).
    """

    def __init__(self, sampler: BlockSource, matrix: NDArray[np.float32]) -> None:
        self._sampler, self._matrix = sampler, matrix
        self._before = _resident()

    def block(self, first_update: int, k: int) -> Tensor:
        """Gather the batches of ``k`` updates."""
        block = self._sampler.block(first_update, k)
        if self._matrix.nbytes > RESIDENT and _resident() - self._before > RESIDENT:
            release_pages(self._matrix)
            self._before = _resident()
        return block


def _resident() -> int:
    """Bytes of files that are mapped and resident here; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def as_tensor(matrix: NDArray[np.float32]) -> Tensor:
    """View a mapped matrix as a tensor, which must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(matrix)
