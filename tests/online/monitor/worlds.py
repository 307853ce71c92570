"""Logs and deployment episodes of worlds that can be changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.data.builtin.cartpole import balance, controller
from lit_offrl.policies import Categorical
from lit_offrl.scaling import Scaling
from tests.algorithms import chain5
from tests.algorithms.chain5 import N_STATES, Array
from tests.evaluation.fakes import identity_scaling, spec_of

Act = Callable[[Any, np.random.Generator], tuple[Any, float | None]]
Make = Callable[[], Transitions]
STEPS = 60


class Table(OfflineAlgorithm):
    """A policy and the values of a table of states, as an algorithm."""

    def __init__(self, table: Array, q: Array, discount: float) -> None:
        super().__init__()
        self.discount = discount
        self.table = torch.nn.Parameter(torch.from_numpy(table))
        self.q = torch.from_numpy(q)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def policy(self, obs: Tensor) -> Categorical:
        return Categorical(self.table[obs.argmax(-1)].log())

    def act(self, obs: Tensor) -> Tensor:
        return self.table[obs.argmax(-1)].argmax(-1)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.q[obs.argmax(-1), action].unsqueeze(0)


class Balancer(OfflineAlgorithm):
    """CartPole's linear controller; it has no critic."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.scaling = scaling
        self.discount = 0.9
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def act(self, obs: Tensor) -> Tensor:
        raw = obs * self.scaling.obs_std + self.scaling.obs_mean
        return torch.tensor([balance(row) for row in raw.numpy()])


def chain_spec() -> DatasetSpec:
    return spec_of(gym.spaces.Discrete(N_STATES), gym.spaces.Discrete(2))


def chain_policy(right: float = 0.9) -> Table:
    """Goes right with a probability, and knows its exact values."""
    table = chain5.constant_policy(right)
    q = chain5.action_values(chain5.policy_value(table))
    return Table(table, q, chain5.DISCOUNT)


def chain(episodes: int, seed: int, right: float, slip: float = 0.1) -> Transitions:
    """Episodes of Chain-5, played to their end."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []
    for number in range(episodes):
        state = int(rng.choice(N_STATES, p=chain5.START))
        while state < N_STATES:
            action = int(rng.random() < right)
            move = action ^ int(rng.random() < slip)
            after = state + 1 if move else max(state - 1, 0)
            rows.append((state, action, after, number))
            state = after
    state_, action_, after_, number_ = np.array(rows).T
    ended = after_ == N_STATES
    one_hot = np.eye(N_STATES, dtype=np.float32)
    return Transitions(
        obs=one_hot[state_],
        action=action_,
        reward=np.where(ended, 0.9, -0.1).astype(np.float32),
        next_obs=one_hot[np.where(ended, 0, after_)],
        terminated=ended,
        truncated=np.zeros_like(ended),
        episode=number_,
    )


def cartpole_spec() -> DatasetSpec:
    env = gym.make("CartPole-v1")
    return spec_of(env.observation_space, env.action_space)


def cartpole(
    episodes: int,
    seed: int,
    act: Act | None = None,
    offset: float = 0.0,
    place: float = 0.0,
    **changes: float,
) -> Transitions:
    """Episodes of CartPole of at most 60 steps.

    Args:
        episodes: Number of them.
        seed: Of the first episode.
        act: Who plays; the controller by default.
        offset: What a faulty sensor adds to the pole's angle, also for the controller.
        place: What another adds to the cart's place, which no force depends on.
        changes: Attributes of the environment: ``force_mag``, ``gravity``.
    """
    env = gym.make("CartPole-v1", max_episode_steps=STEPS)
    assert isinstance(env.unwrapped, CartPoleEnv)
    for name, value in changes.items():
        setattr(env.unwrapped, name, value)
    act = act or controller()
    wrong = np.array([place, 0, offset, 0], np.float32)
    columns: list[tuple[Any, ...]] = []
    for number in range(episodes):
        rng = np.random.default_rng([seed + number, 1])
        obs, done = env.reset(seed=seed + number)[0] + wrong, False
        while not done:
            action, _ = act(obs, rng)
            after, reward, terminated, truncated, _ = env.step(action)
            after = after + wrong
            columns.append((obs, action, reward, after, terminated, truncated, number))
            obs, done = after, terminated or truncated
    obs_, action_, reward_, after_, terminated_, truncated_, number_ = zip(*columns, strict=True)
    return Transitions(
        np.stack(obs_),
        np.array(action_),
        np.array(reward_, np.float32),
        np.stack(after_),
        np.array(terminated_, np.bool_),
        np.array(truncated_, np.bool_),
        np.array(number_),
    )


def episodes_of(transitions: Transitions) -> list[Transitions]:
    return [transitions.select_episodes(np.array([i])) for i in range(transitions.n_episodes)]


def scaled(transitions: Transitions, factor: float) -> Transitions:
    """The same with other rewards."""
    return replace(transitions, reward=np.float32(factor) * transitions.reward)


def standard(transitions: Transitions, spec: DatasetSpec) -> Scaling:
    """Scaling by the statistics of a log."""
    plain = identity_scaling(spec)
    mean, std = transitions.obs.mean(0), transitions.obs.std(0) + 1e-3
    return replace(plain, obs_mean=torch.from_numpy(mean), obs_std=torch.from_numpy(std))
