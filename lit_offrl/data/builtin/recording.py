"""Play scripted behaviors in an environment and keep the episodes as a Minari data set."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

# From an observation and the episode's generator: the action, and the log-probability it was
# drawn with, or None where it has no density (a scripted controller, noise that is clipped).
Act = Callable[[Any, np.random.Generator], "tuple[Any, float | None]"]


@dataclass(frozen=True)
class Behavior:
    """One of the policies that a data set mixes.

    Args:
        name: Kept with each episode, as the episode metadata ``behavior``.
        act: The policy.
        episodes: How many episodes it plays in the full set.
        seed: The first of its episodes' seeds; behaviors keep 100,000 apart.
    """

    name: str
    act: Act
    episodes: int
    seed: int


@dataclass(frozen=True)
class Card:
    """What a data set says about itself.

    Args:
        dataset_id: Minari's id.
        description: What the data are, for readers.
        module: The recipe, as a module path.
        ref_min_score: Mean return of the random policy.
        ref_max_score: Mean return of the good controller or of the optimal policy.
        requirements: What pip has to install for the environment.
    """

    dataset_id: str
    description: str
    module: str
    ref_min_score: float
    ref_max_score: float
    requirements: tuple[str, ...] = ("lit_offrl",)


def play(env: gym.Env[Any, Any], act: Act, seed: int) -> EpisodeBuffer:
    """Play one episode; environment and behavior draw from streams of the same seed."""
    rng = np.random.default_rng([seed, 1])
    obs, _ = env.reset(seed=seed)
    observations, actions = [deepcopy(obs)], []  # environments may write into what they return
    rewards: list[float] = []
    terminations: list[bool] = []
    truncations: list[bool] = []
    log_probs: list[float | None] = []
    done = False
    while not done:
        action, log_prob = act(obs, rng)
        actions.append(deepcopy(action))
        obs, reward, terminated, truncated, _ = env.step(action)
        observations.append(deepcopy(obs))
        rewards.append(float(reward))
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
        log_probs.append(log_prob)
        done = terminations[-1] or truncations[-1]
    # Minari keeps T + 1 infos, one per observation: the last one has no action.
    infos = {"behavior_log_prob": [*log_probs, 0.0]} if None not in log_probs else None
    return EpisodeBuffer(
        seed=seed,
        observations=_by_part(env.observation_space, observations),
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        infos=infos,
    )


def _by_part(space: gym.Space[Any], values: list[Any]) -> Any:
    """Turn a list of nested observations into nested lists, as Minari wants them."""
    if isinstance(space, spaces.Dict):
        return {key: _by_part(part, [v[key] for v in values]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_by_part(part, [v[i] for v in values]) for i, part in enumerate(space))
    return values


def mean_return(env: gym.Env[Any, Any], act: Act, scale: float) -> float:
    """Measure a policy's mean return over 100 episodes, on seeds that no data set uses.

    Args:
        env: Where to play.
        act: The policy.
        scale: The share of the episodes to play, as in `record`.
    """
    episodes = max(1, round(100 * scale))
    returns = [sum(play(env, act, 9_000_000 + i).rewards) for i in range(episodes)]
    return round(float(np.mean(returns)), 3)


def record(
    env: gym.Env[Any, Any], behaviors: list[Behavior], card: Card, scale: float
) -> minari.MinariDataset:
    """Play all behaviors and write the set below ``MINARI_DATASETS_PATH``.

    Args:
        env: Where to play; its spec goes into the set.
        behaviors: Who plays.
        card: The set's metadata.
        scale: The share of each behavior's episodes to play; less than 1 for a small trial set.
            An episode is the same whatever the scale.
    """
    counts = [max(1, round(behavior.episodes * scale)) for behavior in behaviors]
    names = [b.name for b, count in zip(behaviors, counts, strict=True) for _ in range(count)]
    episodes = [
        play(env, behavior.act, behavior.seed + i)
        for behavior, count in zip(behaviors, counts, strict=True)
        for i in range(count)
    ]
    dataset = minari.create_dataset_from_buffers(
        card.dataset_id,
        buffer=episodes,
        env=env,
        eval_env=env.spec,
        algorithm_name=" + ".join(behavior.name for behavior in behaviors),
        author="lit_offrl",
        author_email=set(),  # left out, Minari warns
        code_permalink=card.module,
        ref_min_score=card.ref_min_score,
        ref_max_score=card.ref_max_score,
        description=card.description,
        data_format="hdf5",
        requirements=list(card.requirements),
    )
    dataset.storage.update_episode_metadata({"behavior": name} for name in names)
    return dataset
