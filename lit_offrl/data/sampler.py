"""Which transitions an update sees: a function of (seed, update, rank) and nothing else."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils._pytree import tree_map

from lit_offrl.errors import InputError
from lit_offrl.rng import stream_seed

BATCH_STREAM = 0


def check_epochs(trainer: Trainer) -> None:
    """Refuse options that count calls of ``training_step``, each of which holds K updates.

    Raises:
        InputError: If the trainer ends epochs, repeats batches or validates by such counts.
    """
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise InputError(
            "`trainer.overfit_batches` would repeat nothing, as each update draws its own batch, "
            "and would validate on what is trained on: leave it out."
        )
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # it sets the others
        return
    for name in ("limit_train_batches", "val_check_interval"):
        value = getattr(trainer, name, None)  # none where validation goes by time
        if not (isinstance(value, float) and value == 1):
            raise InputError(
                f"`trainer.{name}` counts no updates: leave it out, and set "
                "`data.updates_per_epoch`, the updates between two validations."
            )


class BlockSource(Protocol):
    """Where the batches of some updates come from."""

    def block(self, first_update: int, k: int) -> Any:
        """Return the batches of ``k`` updates, or what becomes them on the way to the device."""


class Matrix(Protocol):
    """What batches are gathered from: a tensor (N, W), or what reads rows as it does."""

    @property
    def device(self) -> torch.device:
        """Where it lies."""

    def __len__(self) -> int: ...

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Gather rows, (len(index), W)."""


class UpdateSampler:
    """Draws the batches of any update from one packed matrix.

    All ranks draw the same global indices and each gathers its own slice, so that N devices see
    exactly what one would.

    Args:
        matrix: Packed transitions, (N, W), on any device.
        batch_size: Size B of the global batch.
        seed: The run's seed.
        rank: This process.
        world_size: Number of processes.
        weights: Probability of each row, (N,) in float64; None draws uniformly.
    """

    def __init__(
        self,
        matrix: Matrix,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
    ) -> None:
        if batch_size % world_size:
            raise InputError(
                f"`batch_size` {batch_size} is the global batch and does not divide by "
                f"{world_size} devices: choose a multiple of {world_size}."
            )
        self._matrix = matrix
        self._batch_size = batch_size
        self._seed = seed
        local = batch_size // world_size
        self._slice = slice(rank * local, (rank + 1) * local)
        self._cumulative = None if weights is None else weights.cumsum(0)
        self._generator = torch.Generator()

    def indices(self, update: int) -> Tensor:
        """Draw the global rows of an update with replacement, (B,)."""
        self._generator.manual_seed(stream_seed(self._seed, update, BATCH_STREAM))
        if self._cumulative is not None:
            total = self._cumulative[-1]
            at = torch.rand(self._batch_size, generator=self._generator, dtype=torch.float64)
            rows = torch.searchsorted(self._cumulative, at * total, right=True)
            return rows.clamp(max=len(self._matrix) - 1)  # the product may round up to the total
        return torch.randint(len(self._matrix), (self._batch_size,), generator=self._generator)

    def rows(self, first_update: int, k: int) -> Tensor:
        """This rank's rows of ``k`` updates, (k, B / world_size)."""
        updates = range(first_update, first_update + k)
        return torch.stack([self.indices(update)[self._slice] for update in updates])

    def block(self, first_update: int, k: int) -> Tensor:
        """Gather this rank's batches of ``k`` updates, (k, B / world_size, W)."""
        return self.gather(self.rows(first_update, k))

    def gather(self, rows: Tensor) -> Tensor:
        """Gather rows (k, b): (k, b, W)."""
        gathered = self._matrix.index_select(0, rows.flatten().to(self._matrix.device))
        return gathered.view(*rows.shape, gathered.shape[1])

    def drawn(self, update: int, stream: int, most: int, *shape: int) -> Tensor:
        """Draw this rank's share of integers from 0 to ``most``, (B / world_size, ...)."""
        self._generator.manual_seed(stream_seed(self._seed, update, stream))
        size = (self._batch_size, *shape)
        return torch.randint(most + 1, size, generator=self._generator)[self._slice]


class ReplicaSampler:
    """Draws the batches of several seeds, each as its own run would.

    Args:
        samplers: One per seed.
    """

    def __init__(self, samplers: Sequence[BlockSource]) -> None:
        self._samplers = samplers

    def block(self, first_update: int, k: int) -> Any:
        """Gather the batches of ``k`` updates, each field (k, S, B, ...)."""
        blocks = [sampler.block(first_update, k) for sampler in self._samplers]
        return tree_map(lambda *fields: torch.stack(fields, dim=1), *blocks)


class UpdateBlocks:
    """Iterable over one epoch's blocks of K stacked batches, starting where the trainer stands.

    An epoch ends at the next multiple of ``updates_per_epoch``, and no update goes past
    ``trainer.max_steps``; blocks are cut there. It has no length, since a resumed epoch is shorter.

    Args:
        sampler: Where batches come from.
        trainer: Tells the number of updates done, ``global_step``.
        updates_per_step: K.
        updates_per_epoch: Updates in a whole epoch.
    """

    def __init__(
        self,
        sampler: BlockSource,
        trainer: Trainer,
        updates_per_step: int,
        updates_per_epoch: int,
    ) -> None:
        self._sampler = sampler
        self._trainer = trainer
        self._updates_per_step = updates_per_step
        self._updates_per_epoch = updates_per_epoch

    def __iter__(self) -> Iterator[Any]:
        first = self._trainer.global_step
        end = (first // self._updates_per_epoch + 1) * self._updates_per_epoch
        if self._trainer.max_steps >= 0:
            end = min(end, self._trainer.max_steps)
        for update in range(first, end, self._updates_per_step):
            yield self._sampler.block(update, min(self._updates_per_step, end - update))


class SequentialBatches:
    """Iterable over the rows of a packed matrix in order, as stacks (1, B, W) of one batch.

    Args:
        matrix: Packed transitions, (N, W).
        batch_size: B; the last batch may be smaller.
    """

    def __init__(self, matrix: Tensor, batch_size: int) -> None:
        self._batches = [matrix[i : i + batch_size] for i in range(0, len(matrix), batch_size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.unsqueeze(0) for batch in self._batches)
