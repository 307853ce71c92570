"""Image observations of a data set: each frame is stored once, whatever stacks it is part of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.encoders import Image, sides

GROWTH = 1.25
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

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """What :func:`frames_of` finds under a name."""
        return {
            f"{name}_image": np.array(self.image),
            f"{name}_frames": self.frames,
            f"{name}_index": self.index,
            f"{name}_next_index": self.next_index,
        }


def frames_of(name: str, arrays: dict[str, NDArray[Any]]) -> Frames:
    """Undo :meth:`Frames.arrays`; the arrays are taken out (in place)."""
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
    """Collects :class:`Frames`, episode by episode.

    Args:
        image: Where the image lies in a flattened observation.
        steps: Number of transitions of each episode.
    """

    def __init__(self, image: Image, steps: list[int]) -> None:
        self._image = image
        self._stacked = n_stacked(image[1:])
        rows = sum(steps)
        pixels = math.prod(image[1:]) // self._stacked
        self._frames = np.empty((rows + 2 * len(steps), pixels), np.uint8)
        self._count = 0
        self._index, self._next = np.empty((2, rows, self._stacked), np.int32)

    def add(self, rows: slice, images: NDArray[np.uint8]) -> None:
        """Take an episode's T + 1 images, (T + 1, ...), as those of its T rows."""
        stacks = images.reshape(len(images), -1, self._stacked).swapaxes(1, 2)
        if not stacks_last(self._image[1:]):
            stacks = images.reshape(len(images), self._stacked, -1)
        index = np.empty(stacks.shape[:2], np.int32)  # (T + 1, S)
        for t, stack in enumerate(stacks):
            known = index[t - 1, 1:] if t and np.array_equal(stack[:-1], stacks[t - 1, 1:]) else ()
            index[t, : len(known)] = known
            for slot in range(len(known), self._stacked):
                same = slot > len(known) and np.array_equal(stack[slot], stack[slot - 1])
                index[t, slot] = index[t, slot - 1] if same else self._store(stack[slot])
        self._index[rows], self._next[rows] = index[:-1], index[1:]

    def _store(self, frame: NDArray[np.uint8]) -> int:
        if self._count == len(self._frames):
            grown = int(GROWTH * len(self._frames)) + 1
            self._frames.resize((grown, self._frames.shape[1]), refcheck=False)
        self._frames[self._count] = frame
        self._count += 1
        return self._count - 1

    def done(self) -> Frames:
        """Return what was collected."""
        return Frames(self._image, self._frames[: self._count], self._index, self._next)
