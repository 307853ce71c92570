"""Minari sets as flat transitions."""

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from gymnasium.spaces.utils import flatdim
from minari.serialization import deserialize_space
from numpy.typing import DTypeLike, NDArray

from lit_offrl.data.cache import hash_files
from lit_offrl.data.columns import Column, GrowingColumn, NewColumn
from lit_offrl.data.frames import FrameBuilder
from lit_offrl.data.minari_storage import EpisodeReader, open_reader
from lit_offrl.data.soundness import (
    UNREADABLE,
    first_unsound,
    one_line,
    refuse_non_numbers,
    refuse_other_flags,
)
from lit_offrl.data.spaces import flatten_actions, image_parts, leaves, split_observations
from lit_offrl.data.spec import DatasetSpec, make_spec
from lit_offrl.data.transitions import IMAGES, Transitions
from lit_offrl.errors import InputError

LOG_PROB = "infos/behavior_log_prob"
MAX_STEPS = 1 << 40


class MinariSource:
    """One Minari set on disk.

    Args:
        dataset_id: The set's full id.
        data_path: Its ``data`` folder.
    """

    def __init__(self, dataset_id: str, data_path: Path) -> None:
        self.dataset_id = dataset_id
        self._name = f"Data set `{dataset_id}`"
        self._path = data_path
        try:
            if not (metadata := data_path / "metadata.json").is_file():
                raise FileNotFoundError(f"{metadata.name} is not there, or not a file")
            self._metadata: dict[str, Any] = json.loads(metadata.read_text())
            self._episodes = int(self._metadata["total_episodes"])
            self._format = str(self._metadata["data_format"])
        except UNREADABLE as error:
            raise self._damaged(error) from None
        if self._episodes < 1:
            raise InputError(f"{self._name} has no episodes: record some first.")
        self._obs_space = self._space("observation_space")
        self._action_space = self._space("action_space")
        self._jpeg = bool(self._metadata.get("jpeg_encoding", True))
        self._scores = {key: self._score(key) for key in ("ref_min_score", "ref_max_score")}

    def _damaged(self, error: Exception) -> InputError:
        if isinstance(error, PermissionError):
            return InputError(
                f"{self._name} cannot be read ({one_line(error)}): make its files readable."
            )
        return InputError(
            f"{self._name} in {self._path} is damaged ({one_line(error)}): delete that folder and "
            "get or make the set again."
        )

    def _score(self, key: str) -> float | None:
        """Return a reference score of the metadata, if there is one."""
        if (score := self._metadata.get(key)) is None:
            return None
        try:
            if not math.isfinite(number := float(score)):
                raise ValueError(score)
        except (ValueError, TypeError):
            raise InputError(
                f"{self._name}: `{key}` in its metadata is {score!r}, not a number: correct it, or "
                "take it out."
            ) from None
        return number

    def _space(self, kind: str) -> Space[Any]:
        """Return a space from the metadata, else from the registered environment."""
        try:
            if kind in self._metadata:
                space: Space[Any] = deserialize_space(self._metadata[kind])
                return space
            spec = json.loads(self._metadata["env_spec"])
            if ":" in spec["id"]:  # "module:id" would import a module that the set names
                raise ValueError(f"environment {spec['id']}")
            env = gym.make(spec["id"], **spec.get("kwargs", {}))
            env.close()
            return env.observation_space if kind == "observation_space" else env.action_space
        except Exception as error:  # environments fail in ways of their own
            raise InputError(
                f"{self._name}: its {kind.replace('_', ' ')} is not known ({one_line(error)}): "
                f"store `{kind}` in its metadata, or install its environment."
            ) from None

    def content_hash(self) -> str:
        """Hash the stored data and what decides how they are read, whatever their place and id."""
        keys = ("observation_space", "action_space", "data_format", "jpeg_encoding")
        reading = {key: self._metadata.get(key) for key in keys}
        try:
            files = [path for path in self._path.rglob("*") if path.is_file()]
            files.remove(self._path / "metadata.json")
            return hash_files(files, self._path, json.dumps(reading, sort_keys=True))
        except OSError as error:
            raise self._damaged(error) from None

    def spec(self, content_hash: str, transitions: Transitions) -> DatasetSpec:
        """Describe the set."""
        return make_spec(
            self.dataset_id,
            content_hash,
            self._obs_space,
            self._action_space,
            transitions,
            env_spec=self._metadata.get("eval_env_spec") or self._metadata.get("env_spec"),
            **self._scores,
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
        try:
            reader = open_reader(self._path, self._format, self._jpeg)
        except InputError:
            raise
        except UNREADABLE as error:
            raise self._damaged(error) from None
        with reader:
            steps = [self._steps(reader, episode) for episode in range(self._episodes)]
            if reader.has(self._episodes):
                raise InputError(
                    f"{self._name}: episode {self._episodes} is stored, but the metadata count "
                    f"{self._episodes} episodes: correct `total_episodes` in metadata.json, or get "
                    "or make the set again."
                )
            flat = self._allocate(reader, steps, new)
            images = image_parts(self._obs_space)
            rows = sum(steps)
            frames = [FrameBuilder(im, f"{IMAGES}{i}", rows, new) for i, im in enumerate(images)]
            stop = 0
            for episode, n in enumerate(steps):
                start, stop = stop, stop + n
                self._fill(reader, episode, flat, frames, slice(start, stop))

    def _steps(self, reader: EpisodeReader, episode: int) -> int:
        try:
            if not reader.has(episode):
                raise InputError(
                    f"{self._name}: episode {episode} is missing, but the metadata count "
                    f"{self._episodes} episodes: get or make the set again."
                )
            steps = reader.n_steps(episode)
            if steps > MAX_STEPS:
                raise ValueError(f"{steps:,} steps cannot be")
        except InputError:
            raise
        except KeyError as error:
            raise self._missing(episode, error.args[0]) from None
        except UNREADABLE as error:
            raise self._unreadable(episode, "rewards", error) from None
        if steps < 1:
            raise InputError(f"{self._name}, episode {episode} is empty: store the set without it.")
        return steps

    def _allocate(
        self, reader: EpisodeReader, steps: list[int], new: NewColumn
    ) -> dict[str, Column]:
        n = sum(steps)
        try:
            obs_dim = flatdim(self._obs_space)
        except (NotImplementedError, ValueError):
            raise InputError(
                f"{self._name}: observations of space {self._obs_space} cannot be flattened: only "
                "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them can."
            ) from None
        pixels = sum(math.prod(shape) for _, *shape in image_parts(self._obs_space))
        box = isinstance(self._action_space, spaces.Box)
        if not box and not isinstance(self._action_space, spaces.Discrete | spaces.MultiDiscrete):
            raise InputError(
                f"{self._name}: actions of space {self._action_space} are not supported: only Box, "
                "Discrete and MultiDiscrete are."
            )
        flat = {
            "obs": new("obs", (n, obs_dim - pixels), np.float32),
            "action": new("action", (n, flatdim(self._action_space)), np.float32)
            if box
            else new("action", (n,), np.int64),
            "reward": new("reward", (n,), np.float32),
            "next_obs": new("next_obs", (n, obs_dim - pixels), np.float32),
            "terminated": new("terminated", (n,), np.bool_),
            "truncated": new("truncated", (n,), np.bool_),
            "episode": new("episode", (n,), np.int64),
        }
        if self._has_log_prob(reader, 0):
            flat["behavior_log_prob"] = new("behavior_log_prob", (n,), np.float32)
        return flat

    def _has_log_prob(self, reader: EpisodeReader, episode: int) -> bool:
        try:
            reader.read(episode, LOG_PROB)
        except KeyError:
            return False
        except UNREADABLE as error:
            raise self._unreadable(episode, LOG_PROB, error) from None
        return True

    def _fill(
        self,
        reader: EpisodeReader,
        episode: int,
        flat: dict[str, Column],
        frames: list[FrameBuilder],
        rows: slice,
    ) -> None:
        """Write one episode's rows (in place)."""
        n = rows.stop - rows.start
        obs, *images = self._field(reader, episode, "observations", self._obs_space, n)
        flat["obs"][rows], flat["next_obs"][rows] = obs[:-1], obs[1:]
        for builder, seen in zip(frames, images, strict=True):
            builder.add(rows, seen)
        (flat["action"][rows],) = self._field(reader, episode, "actions", self._action_space, n)
        (flat["reward"][rows],) = self._field(reader, episode, "rewards", None, n)
        (ends,) = self._field(reader, episode, "terminations", None, n)
        terminated = ends != 0
        if terminated[:-1].any():
            raise InputError(
                f"{self._name}, episode {episode}, field `terminations`: the episode ends "
                f"at step {terminated.argmax()}, but {n} steps are stored: align its fields, or "
                "split it."
            )
        flat["terminated"][rows] = terminated
        (flat["truncated"][rows],) = self._field(reader, episode, "truncations", None, n)
        if "behavior_log_prob" in flat:
            (flat["behavior_log_prob"][rows],) = self._field(reader, episode, LOG_PROB, None, n)
        elif self._has_log_prob(reader, episode):
            raise self._missing(0, LOG_PROB)
        flat["episode"][rows] = np.full(n, episode)

    def _field(
        self,
        reader: EpisodeReader,
        episode: int,
        field: str,
        space: Space[Any] | None,
        n: int,
    ) -> list[NDArray[Any]]:
        """Read, check and flatten one field: n + 1 rows of observations, n of all others.

        Images of observations follow their numbers.
        """
        try:
            values = reader.read(episode, field, space)
        except KeyError as error:
            raise self._missing(episode, field, str(error.args[0])) from None
        except UNREADABLE as error:
            raise self._unreadable(episode, field, error) from None
        where = f"{self._name}, episode {episode}, field `{field}`"
        is_obs = field == "observations"
        lengths = {len(leaf) for leaf in leaves(values)}
        wanted = n + 1 if is_obs else n + reader.padding
        # infos may come with or without a last row, which belongs to no action
        if lengths != {wanted} and not (field == LOG_PROB and lengths == {n + 1}):
            raise InputError(
                f"{where}: {' or '.join(map(str, sorted(lengths)))} rows, but {n} steps need "
                f"{wanted}: leave out the episode, or record it anew."
            )
        try:
            flat, *images = self._flat(field, values, n)
        except UNREADABLE as error:
            raise InputError(
                f"{where}: {one_line(error)}: correct or leave out the episode."
            ) from None
        if (found := first_unsound(flat)) is not None:
            step, what = found
            raise InputError(f"{where}: {what} at step {step}: correct or leave out the episode.")
        return [flat, *images]

    def _flat(self, field: str, values: Any, n: int) -> list[NDArray[Any]]:
        """Flatten what was read for ``n`` steps; ValueError with the reason if it does not fit."""
        if field == "observations":
            numbers, images = split_observations(self._obs_space, values)
            return [numbers, *images]
        if field == "actions":
            return [flatten_actions(self._action_space, values[:n])]
        refuse_non_numbers(values)
        if values[:n].size != n:
            raise ValueError(f"shape {values.shape}, where each step has one number")
        column: NDArray[np.float64] = values[:n].astype(np.float64).reshape(n)
        if field in ("terminations", "truncations"):
            refuse_other_flags(column)
        with np.errstate(over="ignore"):  # what overflows is found as inf
            return [column.astype(np.float32)]

    def _missing(self, episode: int, field: str, part: str | None = None) -> InputError:
        inner = f" (`{part}`)" if part not in (None, *field.split("/")) else ""
        needed = "observations, actions, rewards, terminations and truncations of each episode"
        advice = f"offline RL needs {needed}"
        if field == LOG_PROB:
            advice = "others have it, so store it in each episode, or in none"
        return InputError(
            f"{self._name}, episode {episode}: field `{field}`{inner} is missing: {advice}."
        )

    def _unreadable(self, episode: int, field: str, error: Exception) -> InputError:
        return InputError(
            f"{self._name}, episode {episode}: field `{field}` cannot be read "
            f"({one_line(error)}): the files in {self._path} are damaged; get or make them again."
        )
