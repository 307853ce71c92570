"""A training split packed into a file that is mapped: on disk once, shared by all processes."""

import hashlib
import json
import logging
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.batch import Layout
from lit_offrl.data.cache import cache_dir, no_room, stored
from lit_offrl.data.columns import CannotWriteError, NewColumn
from lit_offrl.data.packing import pack_into
from lit_offrl.data.transitions import Transitions
from lit_offrl.scaling import Scaling

_log = logging.getLogger(__name__)
_VERSION = 1
"""To be raised whenever the same arguments give other numbers."""


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
    name = _name(content_hash, episodes, layout, scaling, discount)

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


def _name(
    content_hash: str,
    episodes: NDArray[np.int64],
    layout: Layout,
    scaling: Scaling,
    discount: float,
) -> str:
    """Name the entry after all that decides its numbers, and nothing else."""
    decides = {
        "content": content_hash,
        "layout": layout._asdict(),
        "scaling": scaling.to_dict(),
        "discount": discount if "mc_return" in layout.extras else None,
    }
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=16)
    digest.update(episodes.astype("<i8").tobytes())
    return f"packed-{digest.hexdigest()}-v{_VERSION}"


def as_tensor(matrix: NDArray[np.float32]) -> Tensor:
    """View a mapped matrix as a tensor, which must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(matrix)
