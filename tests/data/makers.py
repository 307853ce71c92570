"""Small data sets for tests."""

import warnings
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space
from minari.data_collector import EpisodeBuffer

OBS = Box(-np.inf, np.inf, (3,), np.float64)
ACTION = Box(-2.0, 2.0, (2,), np.float32)


def stacked(space: Space[Any], n: int, seed: int) -> Any:
    """Draw ``n`` samples of a space, stacked as Minari holds them."""
    batched = batch_space(space, n)
    batched.seed(seed)
    return batched.sample()


def episode(
    index: int,
    steps: int,
    obs_space: Space[Any] = OBS,
    action_space: Space[Any] = ACTION,
    **changes: Any,
) -> EpisodeBuffer:
    """Make a random episode; even ones terminate, odd ones are truncated."""
    end = np.arange(steps) == steps - 1
    fields: dict[str, Any] = {
        "observations": stacked(obs_space, steps + 1, 2 * index),
        "actions": stacked(action_space, steps, 2 * index + 1),
        "rewards": np.random.default_rng(index).normal(size=steps),
        "terminations": end & (index % 2 == 0),
        "truncations": end & (index % 2 == 1),
    }
    return EpisodeBuffer(id=index, **(fields | changes))


def make_minari(
    episodes: list[EpisodeBuffer],
    dataset_id: str = "tests/small-v0",
    obs_space: Space[Any] = OBS,
    action_space: Space[Any] = ACTION,
    data_format: str = "hdf5",
    **metadata: Any,
) -> Any:
    """Store episodes as a Minari set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author, a description, ...
        return minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            observation_space=obs_space,
            action_space=action_space,
            data_format=data_format,
            **metadata,
        )


def small(
    lengths: tuple[int, ...] = (4, 7, 1, 5), dataset_id: str = "tests/small-v0", **kwargs: Any
) -> Any:
    """Store random episodes of the given lengths."""
    return make_minari([episode(i, n) for i, n in enumerate(lengths)], dataset_id, **kwargs)


def data_file(dataset: Any) -> Path:
    """Return the HDF5 file of a Minari set."""
    return Path(dataset.spec.data_path) / "main_data.hdf5"


def make_d4rl(path: Path, **columns: Any) -> str:
    """Write a D4RL file; names may hold a slash."""
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return str(path)
