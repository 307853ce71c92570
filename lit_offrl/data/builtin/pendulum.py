"""Pendulum-v1 swung up by energy shaping, mixed with controllers that do the opposite or nothing.

Åström and Furuta (2000), "Swinging up a pendulum by energy control",
https://doi.org/10.1016/S0005-1098(99)00140-5.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import minari
import numpy as np

from lit_offrl.data.builtin.recording import Act, Behavior, Card, mean_return, record

DATASET_ID = "lit_offrl/pendulum/mixed-v0"
DESCRIPTION = (
    "Pendulum-v1, equal shares of four behaviors: an energy-shaping swing-up with a PD controller "
    "near the top and a little noise, the same with its torque negated, uniformly random torques, "
    "and constant full torque to one side or the other. Imitating the average fails."
)

GRAVITY_OVER_INERTIA = 15.0  # 3 g / (2 l) of Pendulum-v1
MAX_TORQUE = 2.0
NOISE = 0.3
CATCH_ANGLE = 0.35  # radians from the top within which the PD controller takes over


def swing_up(obs: Any) -> float:
    """Give the torque that swings the pendulum up and holds it there."""
    cos, sin, speed = (float(x) for x in obs)
    if cos > math.cos(CATCH_ANGLE):
        return -(20.0 * math.atan2(sin, cos) + 5.0 * speed)
    if abs(speed) < 1e-3:  # energy shaping has no torque for a pendulum at rest
        return MAX_TORQUE
    excess = 0.5 * speed**2 + GRAVITY_OVER_INERTIA * (cos - 1.0)  # energy above rest at the top
    return -excess * speed


def controller(sign: float = 1.0, noise: float = 0.0) -> Act:
    """Make a behavior of the swing-up, or of its opposite, with Gaussian noise."""

    def act(obs: Any, rng: np.random.Generator) -> tuple[Any, None]:
        return _torque(sign * swing_up(obs) + noise * rng.standard_normal()), None

    return act


def constant(torque: float) -> Act:
    """Make the behavior that always applies the same torque."""
    return lambda obs, rng: (_torque(torque), None)


def random(obs: Any, rng: np.random.Generator) -> tuple[Any, None]:
    """Act uniformly at random."""
    return _torque(rng.uniform(-MAX_TORQUE, MAX_TORQUE)), None


def make(scale: float = 1.0) -> minari.MinariDataset:
    """Write ``lit_offrl/pendulum/mixed-v0``: 200 episodes of 200 steps.

    Args:
        scale: The share of the episodes to play.
    """
    env = gym.make("Pendulum-v1")
    behaviors = [
        Behavior("swing-up", controller(noise=NOISE), 50, seed=0),
        Behavior("negated", controller(-1.0, NOISE), 50, seed=100_000),
        Behavior("random", random, 50, seed=200_000),
        Behavior("constant left", constant(MAX_TORQUE), 25, seed=300_000),
        Behavior("constant right", constant(-MAX_TORQUE), 25, seed=400_000),
    ]
    card = Card(
        DATASET_ID,
        DESCRIPTION,
        __name__,
        ref_min_score=mean_return(env, random, scale),
        ref_max_score=mean_return(env, controller(), scale),
    )
    return record(env, behaviors, card, scale)


def _torque(value: float) -> Any:
    return np.clip([value], -MAX_TORQUE, MAX_TORQUE).astype(np.float32)  # (1,)
