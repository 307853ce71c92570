"""What makes an array fit to learn from, whatever file it came from."""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, IndexError, KeyError, OverflowError)
"""What h5py, pyarrow and json raise on files that are damaged."""
LARGEST = 1e15
"""Beyond this, squares of returns and of activations overflow float32."""
_WORDS = {
    "S": "text",
    "U": "text",
    "O": "text, lists or other objects",
    "V": "records",
    "c": "complex numbers",
}
_SMALL = 1 << 24
"""Numbers that are read without a look at how many are stored."""
_DENSEST = 1100
"""Deflate, the densest filter that h5py brings along, packs at most 1032 bytes into one."""


def one_line(error: Exception) -> str:
    """Squeeze a message into one line."""
    return " ".join(str(error).split()) or type(error).__name__


def refuse_non_numbers(array: Any) -> None:
    """Refuse what does not hold real numbers.

    Args:
        array: A NumPy array or an HDF5 data set.

    Raises:
        ValueError: With the reason.
    """
    if (kind := array.dtype.kind) not in "biuf":
        raise ValueError(f"{_WORDS.get(kind, array.dtype)} in place of real numbers")


def refuse_other_flags(flags: NDArray[np.float64]) -> None:
    """Refuse flags (n,) that are neither 0 nor 1.

    Raises:
        ValueError: With the first one.
    """
    if (wrong := (flags != 0) & (flags != 1)).any():
        step = int(wrong.argmax())
        raise ValueError(f"{flags[step]:g} at step {step} is neither 0 nor 1")


def first_unsound(values: NDArray[Any]) -> tuple[int, str] | None:
    """Find the first row that training would not survive.

    Args:
        values: One row per step, (n, ...).

    Returns:
        The row and what it holds; None if all are sound.
    """
    # NaN and inf survive max and min, which need no array of flags
    if not values.size or (values.max() <= LARGEST and values.min() >= -LARGEST):
        return None
    rows = values.reshape(len(values), -1)
    row = int((~(np.abs(rows) <= LARGEST)).any(1).argmax())
    if not np.isfinite(rows[row]).all():
        return row, "NaN or inf"
    return row, f"{rows[row][np.abs(rows[row]).argmax()]:g}, too large to train on (> {LARGEST:g}),"


def stored_array(node: Any) -> Any:
    """Return an HDF5 node if it is an array with an axis of steps that its file can hold.

    Args:
        node: A member of an HDF5 file.

    Raises:
        ValueError: If it is not, as where a damaged shape would take all memory to read.
    """
    if not isinstance(node, h5py.Dataset):
        raise ValueError("it is a group, not an array")
    if not node.shape:  # None where HDF5 stores that there is nothing
        raise ValueError("it is a single value, where each step needs its own")
    if node.size > _SMALL and node.nbytes > _DENSEST * node.id.get_storage_size():
        raise ValueError(f"it claims {node.nbytes:,} bytes, which are not in the file")
    return node
