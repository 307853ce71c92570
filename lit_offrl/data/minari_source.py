"""Minari sets as flat transitions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from numpy.typing import DTypeLike, NDArray

from lit_offrl.data.columns import Column, GrowingColumn, NewColumn
from lit_offrl.data.frames import FrameBuilder
from lit_offrl.data.minari_fields import LOG_PROB, EpisodeFields
from lit_offrl.data.minari_metadata import MinariMetadata
from lit_offrl.data.minari_storage import open_reader
from lit_offrl.data.soundness import UNREADABLE
from lit_offrl.data.spaces import image_parts
from lit_offrl.data.spec import DatasetSpec, make_spec
from lit_offrl.data.transitions import IMAGES, Transitions
from lit_offrl.errors import InputError


class MinariSource:
    """One Minari set on disk.

    Args:
        dataset_id: The set's full id.
        data_path: Its ``data`` folder.

    Raises:
        InputError: If its metadata are missing or damaged.
    """

    def __init__(self, dataset_id: str, data_path: Path) -> None:
        self.dataset_id = dataset_id
        self._metadata = MinariMetadata(dataset_id, data_path)

    def content_hash(self) -> str:
        """Hash the stored data and what decides how they are read, whatever their place and id."""
        return self._metadata.content_hash()

    def spec(self, content_hash: str, transitions: Transitions) -> DatasetSpec:
        """Describe the set."""
        metadata = self._metadata
        return make_spec(
            self.dataset_id,
            content_hash,
            metadata.obs_space,
            metadata.action_space,
            transitions,
            env_spec=metadata.env_spec,
            **metadata.scores,
        )

    def read(self) -> Transitions:
        """Read all episodes into arrays that are made once, in their final size."""
        flat: dict[str, NDArray[Any] | GrowingColumn] = {}

        def new(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Column:
            flat[name] = (
                np.empty(shape, dtype) if shape[0] >= 0 else GrowingColumn(shape[1:], dtype)
            )
            return flat[name]

        self.read_into(new)
        columns = {k: v.done() if isinstance(v, GrowingColumn) else v for k, v in flat.items()}
        return Transitions.of(**columns)

    def read_into(self, new: NewColumn) -> None:
        """Read episode by episode into columns that ``new`` makes."""
        metadata = self._metadata
        try:
            reader = open_reader(metadata.path, metadata.format, metadata.jpeg)
        except InputError:
            raise
        except UNREADABLE as error:
            raise metadata.damaged(error) from None
        with reader:
            fields = EpisodeFields(reader, metadata)
            steps = [fields.steps(episode) for episode in range(metadata.episodes)]
            if reader.has(metadata.episodes):
                raise InputError(
                    f"{metadata.name}: episode {metadata.episodes} is stored, but the metadata "
                    f"count {metadata.episodes} episodes: correct `total_episodes` in "
                    "metadata.json, or get or make the set again."
                )
            flat = self._allocate(sum(steps), fields.has_log_prob(0), new)
            images = image_parts(metadata.obs_space)
            rows = sum(steps)
            frames = [FrameBuilder(im, f"{IMAGES}{i}", rows, new) for i, im in enumerate(images)]
            stop = 0
            for episode, n in enumerate(steps):
                start, stop = stop, stop + n
                _fill(fields, episode, flat, frames, slice(start, stop))

    def _allocate(self, n: int, log_prob: bool, new: NewColumn) -> dict[str, Column]:
        """Make the columns of n rows, but for images."""
        obs_space, action_space = self._metadata.obs_space, self._metadata.action_space
        obs_dim = flatdim(obs_space)
        pixels = sum(math.prod(shape) for _, *shape in image_parts(obs_space))
        box = isinstance(action_space, spaces.Box)
        flat = {
            "obs": new("obs", (n, obs_dim - pixels), np.float32),
            "action": new("action", (n, flatdim(action_space)), np.float32)
            if box
            else new("action", (n,), np.int64),
            "reward": new("reward", (n,), np.float32),
            "next_obs": new("next_obs", (n, obs_dim - pixels), np.float32),
            "terminated": new("terminated", (n,), np.bool_),
            "truncated": new("truncated", (n,), np.bool_),
            "episode": new("episode", (n,), np.int64),
        }
        if log_prob:
            flat["behavior_log_prob"] = new("behavior_log_prob", (n,), np.float32)
        return flat


def _fill(
    fields: EpisodeFields,
    episode: int,
    flat: dict[str, Column],
    frames: list[FrameBuilder],
    rows: slice,
) -> None:
    """Write one episode's rows (in place)."""
    n = rows.stop - rows.start
    obs, *images = fields.read(episode, "observations", n)
    flat["obs"][rows], flat["next_obs"][rows] = obs[:-1], obs[1:]
    for builder, seen in zip(frames, images, strict=True):
        builder.add(rows, seen)
    (flat["action"][rows],) = fields.read(episode, "actions", n)
    (flat["reward"][rows],) = fields.read(episode, "rewards", n)
    (ends,) = fields.read(episode, "terminations", n)
    terminated = ends != 0
    if terminated[:-1].any():
        raise InputError(
            f"{fields.name}, episode {episode}, field `terminations`: the episode ends "
            f"at step {terminated.argmax()}, but {n} steps are stored: align its fields, or "
            "split it."
        )
    flat["terminated"][rows] = terminated
    (cut,) = fields.read(episode, "truncations", n)
    truncated = cut != 0
    truncated[-1] |= not terminated[-1]  # the log may end before the episode does
    flat["truncated"][rows] = truncated
    if "behavior_log_prob" in flat:
        (flat["behavior_log_prob"][rows],) = fields.read(episode, LOG_PROB, n)
    elif fields.has_log_prob(episode):
        raise fields.missing(0, LOG_PROB)
    flat["episode"][rows] = np.full(n, episode)
