"""Breakout from pixels: a controller that reads where the ball is, mixed with random play."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np

from lit_offrl.data.builtin.recording import Act, Behavior, Card, mean_return, record
from lit_offrl.errors import InputError

DATASET_ID = "lit_offrl/breakout/mixed-v0"
DESCRIPTION = (
    "One life of Breakout from 84 by 84 gray pixels, 4 frames stacked, 4 frames a step, at most "
    "1,000 steps: episodes of a controller that follows the ball with 10 and with 40 % random "
    "actions, and of random play. infos['behavior_log_prob'] is the action's log-probability."
)
NOOP, FIRE, RIGHT, LEFT = range(4)
BALL_X, BALL_Y, PADDLE_X = 99, 101, 72
"""Where the console's memory holds them."""
MIDDLE = 8
"""From the paddle's left end to its middle."""


def make_env() -> gym.Env[Any, Any]:
    """Make the game as agents see it since Mnih et al. (2015), without sticky actions."""
    missing = [name for name in ("ale_py", "cv2") if find_spec(name) is None]
    if missing:
        raise InputError(
            f'{DATASET_ID} needs {" and ".join(missing)}: run `pip install "lit_offrl[atari]"`.'
        )
    import ale_py

    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    env = gym.make(
        "ALE/Breakout-v5",
        frameskip=1,
        repeat_action_probability=0.0,
        max_num_frames_per_episode=4000,
    )
    env = gym.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True)
    return gym.wrappers.FrameStackObservation(env, 4)


def controller(env: gym.Env[Any, Any], epsilon: float) -> Act:
    """Make a behavior that follows the ball but with probability epsilon takes any action.

    Args:
        env: The game, whose memory it reads.
        epsilon: That probability.
    """

    def act(obs: Any, rng: np.random.Generator) -> tuple[int, float]:
        ram = env.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
        distance = int(ram[BALL_X]) - int(ram[PADDLE_X]) - MIDDLE
        wanted = NOOP if abs(distance) <= 4 else RIGHT if distance > 0 else LEFT
        if ram[BALL_Y] == 0:  # no ball is in play
            wanted = FIRE
        action = int(rng.integers(4)) if rng.random() < epsilon else wanted
        return action, float(np.log(epsilon / 4 + (1 - epsilon) * (action == wanted)))

    return act


def make(scale: float = 1.0) -> minari.MinariDataset:
    """Write ``lit_offrl/breakout/mixed-v0``: 120 episodes, about 15,000 steps.

    Args:
        scale: The share of the episodes to play.
    """
    env = make_env()
    behaviors = [
        Behavior("follow, 10 % random", controller(env, 0.1), 40, seed=0),
        Behavior("follow, 40 % random", controller(env, 0.4), 40, seed=100_000),
        Behavior("random", controller(env, 1.0), 40, seed=200_000),
    ]
    card = Card(
        DATASET_ID,
        DESCRIPTION,
        __name__,
        ref_min_score=mean_return(env, controller(env, 1.0), scale),
        ref_max_score=mean_return(env, controller(env, 0.0), scale / 2),
        requirements=("lit_offrl[atari]",),
    )
    dataset = record(env, behaviors, card, scale)
    compress(Path(dataset.storage.data_path) / "main_data.hdf5")
    return dataset


def compress(path: Path) -> None:
    """Write an HDF5 file anew with its arrays compressed: frames take a fiftieth of their size."""
    small = path.with_suffix(".small")
    with h5py.File(path) as source, h5py.File(small, "w") as target:
        target.attrs.update(source.attrs)

        def copy(name: str, node: Any) -> None:
            if not isinstance(node, h5py.Dataset):
                target.require_group(name).attrs.update(node.attrs)
                return
            options = {"compression": "gzip", "compression_opts": 1} if node.ndim > 1 else {}
            target.create_dataset(name, data=node[()], **options).attrs.update(node.attrs)

        source.visititems(copy)
    os.replace(small, path)
