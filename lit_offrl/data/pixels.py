"""Batches of observations with images: bytes until they reach the device."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lit_offrl.batch import Batch, Layout
from lit_offrl.data.frames import Frames, interleaved
from lit_offrl.data.sampler import UpdateSampler
from lit_offrl.encoders import shifted

SHIFT_STREAM = 5


class PixelBlock(NamedTuple):
    """Batches on their way to the device.

    Args:
        packed: All columns that are no images, (K, B, W).
        obs: Each image of the observations, (K, B, P) in bytes.
        next_obs: The same of the next observations.
        offsets: By how much images of both are shifted, (K, B, 2, 2), if they are.
    """

    packed: Tensor
    obs: list[Tensor]
    next_obs: list[Tensor]
    offsets: Tensor | None = None


class PixelSampler:
    """Draws the batches of any update from packed columns and images.

    Args:
        sampler: Draws rows of the packed columns.
        frames: Images of the same rows.
        shift: Largest random shift in pixels; 0 for none.
    """

    def __init__(self, sampler: UpdateSampler, frames: tuple[Frames, ...], shift: int) -> None:
        self._sampler, self._frames, self._shift = sampler, frames, shift

    def block(self, first_update: int, k: int) -> PixelBlock:
        """Gather this rank's batches of ``k`` updates."""
        rows = self._sampler.rows(first_update, k)
        block = pixel_block(self._sampler.gather(rows), rows, self._frames)
        if self._shift == 0:
            return block
        draws = [
            self._sampler.drawn(update, SHIFT_STREAM, 2 * self._shift, 2, 2)
            for update in range(first_update, first_update + k)
        ]
        return block._replace(offsets=torch.stack(draws))


class SequentialPixels:
    """Iterable over all rows in order, as stacks of one batch.

    Args:
        matrix: Packed columns, (N, W).
        frames: Images of the same rows.
        batch_size: B; the last batch may be smaller.
    """

    def __init__(self, matrix: Tensor, frames: tuple[Frames, ...], batch_size: int) -> None:
        self._matrix, self._frames = matrix, frames
        self._rows = torch.split(torch.arange(len(matrix)), batch_size)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[PixelBlock]:
        for rows in self._rows:
            yield pixel_block(self._matrix[rows][None], rows[None], self._frames)


def pixel_block(packed: Tensor, rows: Tensor, frames: tuple[Frames, ...]) -> PixelBlock:
    """Put the images of rows (K, B) beside their packed columns (K, B, W)."""
    own = [f.take(rows.flatten().numpy()) for f in frames]
    obs, next_obs = (
        [torch.from_numpy(images).view(*rows.shape, -1) for images in both]
        for both in ([f.images(f.index) for f in own], [f.images(f.next_index) for f in own])
    )
    return PixelBlock(packed, obs, next_obs)


def assembled(block: PixelBlock, layout: Layout, frames: tuple[Frames, ...], shift: int) -> Batch:
    """Make a batch of a block, its images shifted.

    Args:
        block: What arrived on the device.
        layout: Of its packed columns.
        frames: Where the images lie.
        shift: Largest random shift in pixels.
    """
    batch = layout.unpack(block.packed)
    obs = torch.cat(interleaved(batch.obs, frames, block.obs), -1)
    next_obs = torch.cat(interleaved(batch.next_obs, frames, block.next_obs), -1)
    if block.offsets is not None:
        for rows, by in zip((obs, next_obs), block.offsets.unbind(-2), strict=True):
            for own in frames:
                shifted(rows.flatten(0, -2), own.image, by.flatten(0, -2), shift)
    return batch._replace(obs=obs, next_obs=next_obs)
