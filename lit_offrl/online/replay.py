"""The replay buffer of a fine-tuning run, of which a checkpoint holds what is new."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.batch import Layout
from lit_offrl.errors import InputError
from lit_offrl.files import write_whole


class ReplayBuffer:
    """Ring of the latest packed transitions, saved piece by piece.

    Rows are numbered from 0 over the whole run, and each is written once, into a file of its
    piece: a checkpoint costs what is new since the one before. Files are never removed, so all
    that was seen online stays on the disk.

    Args:
        capacity: Rows that are held.
        width: Columns W of a packed row, see :class:`lit_offrl.batch.Layout`.
        folder: Where the pieces go.
    """

    def __init__(self, capacity: int, width: int, folder: Path) -> None:
        if capacity < 1:
            raise InputError(f"`capacity` of the replay buffer must be positive, not {capacity}.")
        try:
            self.rows = torch.empty(capacity, width)  # (capacity, W); untouched pages cost nothing
        except RuntimeError:
            raise InputError(
                f"`capacity` {capacity} of the replay buffer does not fit into memory: lower it."
            ) from None
        self.folder = folder
        self.count = 0
        """Rows added so far."""
        self._saved = 0
        self._pieces: list[int] = []
        """First row of each file that the run has written."""

    def __len__(self) -> int:
        """Rows that are held."""
        return min(self.count, len(self.rows))

    def add(self, rows: Tensor) -> None:
        """Append packed rows (n, W), in place of the oldest where the ring is full."""
        start = max(0, len(rows) - len(self.rows))
        at = torch.arange(self.count + start, self.count + len(rows)) % len(self.rows)
        self.rows[at] = rows[start:]
        self.count += len(rows)

    def write(self, numbers: Sequence[int], layout: Layout, **fields: Tensor) -> None:
        """Fill in what is known only later, such as the return of an episode that has ended.

        Args:
            numbers: Numbers of the rows; those that the ring has dropped are passed over.
            layout: Columns of a row.
            **fields: What its extras get, (len(numbers), ...).
        """
        every = torch.tensor(numbers, dtype=torch.long)
        held = every >= self.count - len(self.rows)
        places = every[held] % len(self.rows)
        for name, values in fields.items():
            columns = layout.columns(name)
            width = columns.stop - columns.start
            self.rows[places, columns] = values[held].to(self.rows).view(len(places), width)

    def gather(self, places: Tensor) -> Tensor:
        """Take rows by their place among the held ones, (n,) in [0, len): (n, W)."""
        return self.rows.index_select(0, places)

    def save(self, settled: int) -> dict[str, Any]:
        """Write the rows that no file has yet, and return what :meth:`load` needs.

        Args:
            settled: Rows before this number never change any more; the others go into the state.

        Raises:
            OSError: If the disk is full. The pieces before are whole.
        """
        first = max(self._saved, self.count - len(self.rows))
        if settled > first:
            np.save(content := io.BytesIO(), self._numbered(first, settled).numpy())
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._piece(first), content.getbuffer())
            self._saved = settled
            self._pieces.append(first)
        rest = max(self._saved, self.count - len(self.rows))
        tail = self._numbered(rest, self.count)
        return {
            "count": self.count,
            "capacity": len(self.rows),
            "tail": tail,
            "pieces": list(self._pieces),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Read back the rows that a checkpoint knew; files of other times are passed over.

        Raises:
            InputError: If the settings are others, or a piece is missing or damaged.
        """
        tail: Tensor = state["tail"]
        shape = (state["capacity"], tail.shape[1])
        if shape != tuple(self.rows.shape):
            raise InputError(
                f"The checkpoint's replay buffer has {shape[0]} rows of {shape[1]} numbers, not "
                f"{len(self.rows)} of {self.rows.shape[1]}: resume with the options of the run."
            )
        settled = int(state["count"]) - len(tail)
        self.count = max(0, int(state["count"]) - len(self.rows))
        self._pieces = list(state["pieces"])
        for first in self._pieces:
            if first <= self.count and self._piece(first).is_file():
                rows = _read(self._piece(first))[self.count - first : settled - first]
                self.add(torch.from_numpy(rows))
        if self.count < settled:
            raise InputError(
                f"Rows from {self.count} on of the replay buffer are missing in {self.folder}: "
                "resume in the run's own folder."
            )
        self._saved = settled
        self.add(tail)

    def _piece(self, first: int) -> Path:
        return self.folder / f"rows-{first:012d}.npy"

    def _numbered(self, first: int, end: int) -> Tensor:
        """Rows by number, (end - first, W)."""
        return self.rows[torch.arange(first, end) % len(self.rows)]


def _read(piece: Path) -> NDArray[np.float32]:
    try:
        rows: NDArray[np.float32] = np.load(piece, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise InputError(
            f"{piece} is damaged: resume from a checkpoint before it, or start anew."
        ) from None
    return rows
