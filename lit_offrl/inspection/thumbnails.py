"""Images as a few numbers, so that measures of observations work on them."""

import math
from dataclasses import replace

import numpy as np
from gymnasium import spaces
from minari.serialization import serialize_space
from numpy.typing import NDArray

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.data.frames import Frames
from lit_offrl.encoders import sides
from lit_offrl.evaluation.finding import Finding

SIDE = 8
"""Rows and columns of a thumbnail."""


def with_thumbnails(transitions: Transitions, spec: DatasetSpec) -> tuple[Transitions, DatasetSpec]:
    """Put in the place of each frame its means over 8 by 8 fields, where they ever change."""
    if not transitions.frames:
        return transitions, spec
    obs, next_obs = [transitions.obs], [transitions.next_obs]
    for frames in transitions.frames:
        means = _thumbnails(frames)  # (F, 64)
        changing = np.ptp(means, axis=0) > 0
        changing[0] |= not changing.any()  # something must be left to measure
        means = means[:, changing]
        obs.append(means[frames.index].reshape(len(transitions), -1))
        next_obs.append(means[frames.next_index].reshape(len(transitions), -1))
    small = replace(
        transitions,
        obs=np.concatenate(obs, 1),
        next_obs=np.concatenate(next_obs, 1),
        frames=(),
    )
    space = serialize_space(spaces.Box(-np.inf, np.inf, small.obs.shape[1:]))
    return small, replace(spec, obs_dim=small.obs.shape[1], obs_space=space)


def frames_finding(transitions: Transitions, spec: DatasetSpec) -> Finding:
    """How much the images take, and what the other measures see of them."""
    stored = sum(frames.nbytes for frames in transitions.frames) / len(transitions)
    whole = 2 * sum(math.prod(shape) for _, *shape in spec.images)
    count = sum(len(frames.frames) for frames in transitions.frames)
    return Finding(
        "frames",
        "ok",
        f"{count:,} frames are stored once each: {stored:,.0f} bytes per transition, where "
        f"observations and next observations would take {whole:,}. All other measures see "
        f"{SIDE} by {SIDE} thumbnails of them.",
        value=stored,
        unit="bytes",
    )


def _thumbnails(frames: Frames) -> NDArray[np.float32]:
    """Means over fields of each frame, over its channels too, (F, 64)."""
    shape = frames.image[1:]
    found = sides(shape)
    assert found is not None  # it is an image
    rows, columns = (shape[axis] for axis in found)
    pixels = frames.frames.reshape(len(frames.frames), rows, columns, -1)
    small = np.zeros((len(pixels), SIDE, SIDE), np.float32)
    for i, band in enumerate(np.array_split(np.arange(rows), SIDE)):
        for j, field in enumerate(np.array_split(np.arange(columns), SIDE)):
            part = pixels[:, band[0] : band[-1] + 1, field[0] : field[-1] + 1]
            small[:, i, j] = part.mean((1, 2, 3), dtype=np.float32)
    return small.reshape(len(small), -1)
