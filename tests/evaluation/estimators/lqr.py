"""A linear system with quadratic costs, whose values are known in closed form.

``s' = 0.9 s + 0.5 a + 0.1 ξ``, reward ``-(s² + 0.1 a²)``, γ = 0.95, start N(0, 1); the target
policy is ``a = -0.4 s + 0.3 ε`` and the log was recorded by ``a = -0.1 s + 0.6 ε``.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.scaling import Scaling

A, B, NOISE, ACTION_COST, DISCOUNT = 0.9, 0.5, 0.1, 0.1, 0.95
GAIN, STD = -0.4, 0.3
LOGGED_GAIN, LOGGED_STD = -0.1, 0.6
ACTION_BOUND = 4.0  # more than six standard deviations of the logged actions

P = (1 + ACTION_COST * GAIN**2) / (1 - DISCOUNT * (A + B * GAIN) ** 2)
C = (ACTION_COST * STD**2 + DISCOUNT * P * (B**2 * STD**2 + NOISE**2)) / (1 - DISCOUNT)
VALUE = -(P + C)


def v(obs: NDArray[np.float64]) -> NDArray[np.float64]:
    """V^π of states (n,)."""
    return np.asarray(-(P * obs**2 + C))


def record(steps: int, seed: int = 0, length: int = 50) -> Transitions:
    """Record episodes that are all cut after ``length`` steps, ``steps`` transitions in all."""
    rng = np.random.default_rng(seed)
    n = steps // length
    obs = np.zeros((n, length + 1))
    obs[:, 0] = rng.normal(size=n)
    action = np.zeros((n, length))
    for t in range(length):
        action[:, t] = LOGGED_GAIN * obs[:, t] + LOGGED_STD * rng.normal(size=n)
        obs[:, t + 1] = A * obs[:, t] + B * action[:, t] + NOISE * rng.normal(size=n)
    reward = -(obs[:, :-1] ** 2 + ACTION_COST * action**2)
    truncated = np.zeros((n, length), dtype=bool)
    truncated[:, -1] = True
    return Transitions(
        obs=obs[:, :-1].reshape(-1, 1).astype(np.float32),
        action=action.reshape(-1, 1).astype(np.float32),
        reward=reward.ravel().astype(np.float32),
        next_obs=obs[:, 1:].reshape(-1, 1).astype(np.float32),
        terminated=np.zeros(n * length, dtype=bool),
        truncated=truncated.ravel(),
        episode=np.repeat(np.arange(n), length),
    )


def scaling(transitions: Transitions) -> Scaling:
    """Standardized observations, and a reward transform that raw estimates must not see."""
    return Scaling(
        torch.tensor(transitions.obs.mean(0)),
        torch.tensor(transitions.obs.std(0)),
        torch.tensor([-ACTION_BOUND]),
        torch.tensor([ACTION_BOUND]),
        reward_scale=7.0,
        reward_shift=-3.0,
    )


class LinearPolicy(TargetPolicy):
    """``a = -0.4 s + 0.3 ε`` at normalized observations, in scaled actions."""

    name, deterministic = "linear", False

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling

    def _mean(self, obs: Tensor) -> Tensor:
        return GAIN * (obs * self.scaling.obs_std + self.scaling.obs_mean) / ACTION_BOUND

    def sample(self, obs: Tensor) -> Tensor:
        return self._mean(obs) + STD / ACTION_BOUND * torch.randn(len(obs), 1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        std = STD / ACTION_BOUND
        z = (action - self._mean(obs)) / std
        return (-0.5 * z.square() - math.log(std) - 0.5 * math.log(2 * math.pi)).sum(-1)
