"""Logs of known behaviors."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.evaluation.behavior.models import TanhMixture
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.policies import Gaussian, TanhGaussian
from tests.evaluation.fakes import spec_of


def log(obs: NDArray[Any], action: NDArray[Any], episode_length: int, **more: Any) -> Transitions:
    """Make transitions of independent observations, cut into episodes of one length."""
    n = len(obs)
    end = np.arange(n) % episode_length == episode_length - 1
    end[-1] = True
    obs = obs.astype(np.float32)
    return Transitions(
        obs=obs,
        action=action,
        reward=np.zeros(n, np.float32),
        next_obs=np.roll(obs, -1, 0),
        terminated=np.zeros(n, bool),
        truncated=end,
        episode=np.arange(n) // episode_length,
        **more,
    )


def box_spec(obs_dim: int, action_dim: int, high: float = 1.0) -> DatasetSpec:
    return spec_of(
        gym.spaces.Box(-np.inf, np.inf, (obs_dim,)), gym.spaces.Box(-high, high, (action_dim,))
    )


def discrete_spec(obs_dim: int, n_actions: int) -> DatasetSpec:
    return spec_of(gym.spaces.Box(-np.inf, np.inf, (obs_dim,)), gym.spaces.Discrete(n_actions))


def table_spec(n_states: int, n_actions: int) -> DatasetSpec:
    return spec_of(gym.spaces.Discrete(n_states), gym.spaces.Discrete(n_actions))


def gaussian_log(
    n: int, seed: int = 0, action_dim: int = 2, episode_length: int = 20
) -> Transitions:
    """``a = tanh(s_1 / 2 + 0.3 ε)`` in the first dimension, ``-s_1 / 2`` in the second, ..."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(n, 2))
    sign = (-1.0) ** np.arange(action_dim)
    z = obs[:, :1] * sign / 2 + 0.3 * rng.normal(size=(n, action_dim))
    return log(obs, np.tanh(z).astype(np.float32), episode_length)


def discrete_probs(obs: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of (2 s_1, 0, -2 s_1), (N, 3)."""
    logits = 2 * obs[:, :1] * np.array([1.0, 0.0, -1.0])
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exp / exp.sum(1, keepdims=True))


def discrete_log(n: int, seed: int = 0, episode_length: int = 20) -> Transitions:
    """Actions of :func:`discrete_probs`, with their log-probabilities."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(n, 2)).astype(np.float32)
    probs = discrete_probs(obs)
    action = (rng.random((n, 1)) > probs.cumsum(1)).sum(1).clip(max=2)
    logged = np.log(probs[np.arange(n), action]).astype(np.float32)
    return log(obs, action.astype(np.int64), episode_length, behavior_log_prob=logged)


class Fixed(TargetPolicy):
    """A policy given by a function: probabilities (B, A) if discrete, else actions."""

    name, deterministic = "fixed", True

    def __init__(self, answer: Any, discrete: bool) -> None:
        self.answer, self.discrete = answer, discrete

    def sample(self, obs: Tensor) -> Tensor:
        answer: Tensor = self.answer(obs)
        return torch.multinomial(answer, 1).squeeze(-1) if self.discrete else answer

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        raise NotImplementedError

    def probs(self, obs: Tensor) -> Tensor:
        if not self.discrete:
            return super().probs(obs)
        answer: Tensor = self.answer(obs)
        return answer


def component_model(log_weight: Tensor, mean: Tensor, log_std: Tensor) -> BehaviorPolicy:
    """A behavior model that answers with given components (K, B, A) at any observation."""
    policy = BehaviorPolicy("mixture", 1, mean.shape[-1])
    mixture = TanhMixture(log_weight, TanhGaussian(Gaussian(mean, log_std)))
    policy.policy = lambda obs: mixture  # type: ignore[method-assign]
    return policy
