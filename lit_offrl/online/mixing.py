"""Batches of a log and of what was collected since, in shares that change with time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_offrl.errors import InputError
from lit_offrl.online.replay import ReplayBuffer
from lit_offrl.rng import stream_seed

BATCH_STREAM = 0
CANDIDATES = 4
"""Logged rows that are drawn for each one that is kept, where they are weighted."""
RowWeight = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Mixing:
    """Share of the log in a batch.

    Args:
        offline_fraction: Share at first; 0.5 is RLPD's symmetric batch. ``union`` draws all rows
            alike, logged and collected, so that the few rows of the first steps are not learned by
            heart.
        final_fraction: Share after ``anneal_steps``; null keeps the first.
        anneal_steps: Environment steps over which the share moves along a line.
    """

    offline_fraction: float | Literal["union"] = "union"
    final_fraction: float | None = None
    anneal_steps: int = 100_000

    def __post_init__(self) -> None:
        for share in (self.offline_fraction, self.final_fraction):
            if not (share is None or share == "union" or 0 <= share <= 1):
                raise InputError(f"A share of logged rows must lie in [0, 1], not {share}.")
        if self.offline_fraction == "union" and self.final_fraction is not None:
            raise InputError("`final_fraction` needs an `offline_fraction` to start from.")
        if self.anneal_steps < 1:
            raise InputError(f"`anneal_steps` must be positive, not {self.anneal_steps}.")

    def fraction(self, step: int) -> float | None:
        """Share of logged rows at an environment step; None if it is their share of all rows.

        >>> Mixing(0.5, 0.0, 100).fraction(50)
        0.25
        """
        if self.offline_fraction == "union":
            return None
        if self.final_fraction is None:
            return self.offline_fraction
        progress = min(step / self.anneal_steps, 1.0)
        return self.offline_fraction + progress * (self.final_fraction - self.offline_fraction)


class MixedSampler:
    """Draws the batches of any update from a log and a buffer: a function of (seed, update).

    The log's rows come first in the batch. Without collected rows all are the log's.

    Args:
        log: Packed transitions of the log, (N, W).
        buffer: What was collected.
        batch_size: B.
        seed: The run's seed.
        row_weight: Weight in [0, 1] of packed logged rows (n, W), (n,): rows are then kept in
            proportion to it, from 4 candidates for each. None weights all the same.
    """

    def __init__(
        self,
        log: Tensor,
        buffer: ReplayBuffer,
        batch_size: int,
        seed: int,
        row_weight: RowWeight | None = None,
    ) -> None:
        self._log, self._buffer = log, buffer
        self._batch_size, self._seed = batch_size, seed
        self._row_weight = row_weight
        self._generator = torch.Generator()

    def batch(self, update: int, fraction: float | None) -> Tensor:
        """Gather the batch of an update, (B, W).

        Args:
            update: Its number.
            fraction: Share of logged rows; None draws all rows alike.
        """
        self._generator.manual_seed(stream_seed(self._seed, update, BATCH_STREAM))
        if fraction is None:
            of_all = self._places(len(self._log) + len(self._buffer), self._batch_size)
            logged = int((of_all < len(self._log)).sum())
        else:
            logged = round(fraction * self._batch_size) if len(self._buffer) else self._batch_size
        parts = []
        if logged:
            parts.append(self._logged(logged))
        if logged < self._batch_size:
            places = self._places(len(self._buffer), self._batch_size - logged)
            parts.append(self._buffer.gather(places))
        return torch.cat(parts)

    def _logged(self, n: int) -> Tensor:
        if self._row_weight is None:
            return self._log.index_select(0, self._places(len(self._log), n))
        rows = self._log.index_select(0, self._places(len(self._log), CANDIDATES * n))
        weight = self._row_weight(rows).clamp(min=1e-12)  # (4n,)
        kept = torch.multinomial(weight, n, replacement=True, generator=self._generator)
        return rows.index_select(0, kept)

    def _places(self, n: int, count: int) -> Tensor:
        return torch.randint(n, (count,), generator=self._generator)
