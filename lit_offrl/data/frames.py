"""Image observations of a data set: each frame is stored once, whatever stacks it is part of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data.columns import NewColumn
from lit_offrl.encoders import Image, sides

Array = TypeVar("Array", NDArray[Any], Tensor)


@dataclass(frozen=True)
class Frames:
    """One image of the observations of N transitions.

    Args:
        image: Where it lies in a flattened observation.
        frames: All frames, (F, P).
        index: Frames that make up the image of each observation, (N, S).
        next_index: The same of each next observation, (N, S).
    """

    image: Image
    frames: NDArray[np.uint8]
    index: NDArray[np.int32]
    next_index: NDArray[np.int32]

    def take(self, rows: NDArray[np.int64]) -> "Frames":
        """Pick transitions; frames are shared."""
        return replace(self, index=self.index[rows], next_index=self.next_index[rows])

    def images(self, index: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Put images together from frames (n, S): flattened, (n, S P)."""
        stacks = self.frames[index]  # (n, S, P)
        if stacks_last(self.image[1:]):
            stacks = stacks.swapaxes(1, 2)
        return stacks.reshape(len(index), -1)

    @property
    def nbytes(self) -> int:
        """Bytes of frames and indices."""
        return self.frames.nbytes + self.index.nbytes + self.next_index.nbytes


def frames_of(name: str, arrays: dict[str, NDArray[Any]]) -> Frames:
    """Take what :class:`FrameBuilder` stored under a name out of columns (in place)."""
    image = tuple(arrays.pop(f"{name}_image").tolist())
    parts = {part: arrays.pop(f"{name}_{part}") for part in ("frames", "index", "next_index")}
    return Frames(image, **parts)


def n_stacked(shape: tuple[int, ...]) -> int:
    """Frames S in an image of a shape: its channels, each of which may be a frame.

    >>> n_stacked((4, 84, 84)), n_stacked((84, 84, 3)), n_stacked((4, 84, 84, 3)), n_stacked((9, 9))
    (4, 3, 4, 1)
    """
    if len(shape) == 2:
        return 1
    return shape[-1] if stacks_last(shape) else shape[0]


def stacks_last(shape: tuple[int, ...]) -> bool:
    """Whether the frames of an image lie on its last axis, (H, W, S)."""
    return len(shape) == 3 and sides(shape) == (0, 1)


def assemble(
    numbers: NDArray[np.float32], frames: Sequence[Frames], images: Sequence[NDArray[np.uint8]]
) -> NDArray[Any]:
    """Flattened observations (n, O) of numbers (n, V) and images (n, P): bytes if V is 0."""
    parts: list[NDArray[Any]] = interleaved(numbers, frames, list[NDArray[Any]](images))
    return np.concatenate(parts, -1)


def interleaved(numbers: Array, frames: Sequence[Frames], images: Sequence[Array]) -> list[Array]:
    """Parts of flattened observations in order.

    Args:
        numbers: All columns that are no pixels, (..., V).
        frames: Where the images lie.
        images: The images, (..., P) each.
    """
    parts = []
    at = end = 0
    for own, image in zip(frames, images, strict=True):
        gap = own.image[0] - end
        parts += [numbers[..., at : at + gap], image]
        at, end = at + gap, own.image[0] + image.shape[-1]
    parts.append(numbers[..., at:])
    return [part for part in parts if part.shape[-1]]


class FrameBuilder:
    """Stores :class:`Frames`, episode by episode.

    Args:
        image: Where the image lies in a flattened observation.
        name: How its columns are called.
        rows: Number of transitions N.
        new: Makes the columns.
    """

    def __init__(self, image: Image, name: str, rows: int, new: NewColumn) -> None:
        self._image = image
        self._stacked = n_stacked(image[1:])
        self._count = 0
        pixels = math.prod(image[1:]) // self._stacked
        self._frames = new(f"{name}_frames", (-1, pixels), np.uint8)
        self._index = new(f"{name}_index", (rows, self._stacked), np.int32)
        self._next = new(f"{name}_next_index", (rows, self._stacked), np.int32)
        new(f"{name}_image", (len(image),), np.int64)[0 : len(image)] = np.array(image)

    def add(self, rows: slice, images: NDArray[np.uint8]) -> None:
        """Take an episode's T + 1 images, (T + 1, ...), as those of its T rows."""
        stacks = images.reshape(len(images), -1, self._stacked).swapaxes(1, 2)
        if not stacks_last(self._image[1:]):
            stacks = images.reshape(len(images), self._stacked, -1)
        index = np.empty(stacks.shape[:2], np.int32)  # (T + 1, S)
        found: list[NDArray[np.uint8]] = []
        for t, stack in enumerate(stacks):
            known = index[t - 1, 1:] if t and np.array_equal(stack[:-1], stacks[t - 1, 1:]) else ()
            index[t, : len(known)] = known
            for slot in range(len(known), self._stacked):
                if slot == len(known) or not np.array_equal(stack[slot], stack[slot - 1]):
                    found.append(stack[slot])
                index[t, slot] = self._count + len(found) - 1
        self._frames[self._count : self._count + len(found)] = np.stack(found)
        self._count += len(found)
        self._index[rows], self._next[rows] = index[:-1], index[1:]
