"""What a Minari set says of itself: its metadata, without its episodes."""

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import Space
from minari.serialization import deserialize_space

from lit_offrl.data.cache import hash_files
from lit_offrl.data.soundness import UNREADABLE, one_line
from lit_offrl.data.spaces import refuse_unreadable
from lit_offrl.errors import InputError


class MinariMetadata:
    """Metadata of one Minari set on disk.

    Args:
        dataset_id: The set's full id.
        path: Its ``data`` folder.

    Raises:
        InputError: If they are missing or damaged, or leave open what the episodes hold.
    """

    def __init__(self, dataset_id: str, path: Path) -> None:
        self.name = f"Data set `{dataset_id}`"
        """What messages call the set."""
        self.path = path
        try:
            if not (metadata := path / "metadata.json").is_file():
                raise FileNotFoundError(f"{metadata.name} is not there, or not a file")
            self._stored: dict[str, Any] = json.loads(metadata.read_text())
            self.episodes = int(self._stored["total_episodes"])
            self.format = str(self._stored["data_format"])
        except UNREADABLE as error:
            raise self.damaged(error) from None
        if self.episodes < 1:
            raise InputError(f"{self.name} has no episodes: record some first.")
        self.obs_space = self._space("observation_space")
        self.action_space = self._space("action_space")
        try:
            refuse_unreadable(self.obs_space, self.action_space)
        except ValueError as error:
            raise InputError(f"{self.name}: {error}.") from None
        self.jpeg = bool(self._stored.get("jpeg_encoding", True))
        self.scores = {key: self._score(key) for key in ("ref_min_score", "ref_max_score")}
        """Reference scores of the set, if it has any."""

    @property
    def env_spec(self) -> str | None:
        """The environment as Minari stores it: the one to evaluate in, else the recorded one."""
        spec: str | None = self._stored.get("eval_env_spec") or self._stored.get("env_spec")
        return spec

    def damaged(self, error: Exception) -> InputError:
        """Say that the set cannot be read, why, and what to do."""
        if isinstance(error, PermissionError):
            return InputError(
                f"{self.name} cannot be read ({one_line(error)}): make its files readable."
            )
        return InputError(
            f"{self.name} in {self.path} is damaged ({one_line(error)}): delete that folder and "
            "get or make the set again."
        )

    def _score(self, key: str) -> float | None:
        """Return a reference score of the metadata, if there is one."""
        if (score := self._stored.get(key)) is None:
            return None
        try:
            if not math.isfinite(number := float(score)):
                raise ValueError(score)
        except (ValueError, TypeError):
            raise InputError(
                f"{self.name}: `{key}` in its metadata is {score!r}, not a number: correct it, or "
                "take it out."
            ) from None
        return number

    def _space(self, kind: str) -> Space[Any]:
        """Return a space from the metadata, else from the registered environment."""
        try:
            if kind in self._stored:
                space: Space[Any] = deserialize_space(self._stored[kind])
                return space
            spec = json.loads(self._stored["env_spec"])
            if ":" in spec["id"]:  # "module:id" would import a module that the set names
                raise ValueError(f"environment {spec['id']}")
            env = gym.make(spec["id"], **spec.get("kwargs", {}))
            env.close()
            return env.observation_space if kind == "observation_space" else env.action_space
        except Exception as error:  # environments fail in ways of their own
            raise InputError(
                f"{self.name}: its {kind.replace('_', ' ')} is not known ({one_line(error)}): "
                f"store `{kind}` in its metadata, or install its environment."
            ) from None

    def content_hash(self) -> str:
        """Hash the stored data and what decides how they are read, whatever their place and id."""
        keys = ("observation_space", "action_space", "data_format", "jpeg_encoding")
        reading = {key: self._stored.get(key) for key in keys}
        try:
            files = [path for path in self.path.rglob("*") if path.is_file()]
            files.remove(self.path / "metadata.json")
            return hash_files(files, self.path, json.dumps(reading, sort_keys=True))
        except OSError as error:
            raise self.damaged(error) from None
