"""Evaluation that all compared libraries go through: same environments, same seeds."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

FIRST_SEED = 10_000


def episode_returns(
    env_id: str,
    env_kwargs: dict[str, Any],
    act: Callable[[NDArray[np.float32]], NDArray[Any]],
    episodes: int,
) -> list[float]:
    """Play episodes side by side; episode i starts from ``reset(seed=10_000 + i)``.

    Args:
        env_id: Gymnasium id.
        env_kwargs: Its arguments.
        act: Maps raw observations (B, O) to raw actions (B, ...).
        episodes: Number of episodes.

    Returns:
        The undiscounted return of each.
    """
    envs = [gym.make(env_id, **env_kwargs) for _ in range(episodes)]
    obs = [env.reset(seed=FIRST_SEED + i)[0] for i, env in enumerate(envs)]
    totals = [0.0] * episodes
    running = list(range(episodes))
    while running:
        actions = act(np.stack([obs[i] for i in running]).astype(np.float32))
        still = []
        for i, action in zip(running, actions, strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            totals[i] += float(reward)
            if not (terminated or truncated):
                still.append(i)
        running = still
    for env in envs:
        env.close()
    return totals
