"""CartPole-v1 balanced by a linear controller, mixed with controllers that tip the pole over."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import minari
import numpy as np

from lit_offrl.data.builtin.recording import Act, Behavior, Card, mean_return, record

DATASET_ID = "lit_offrl/cartpole/mixed-v0"
DESCRIPTION = (
    "CartPole-v1: 20 episodes of a linear controller that balances the pole, and many short ones "
    "of its opposite, of constant pushes to either side and of random pushes; about a third of the "
    "steps come from the good controller. Imitating the average fails. "
    "infos['behavior_log_prob'] is the log-probability of the action under the behavior that "
    "played the episode."
)


def balance(obs: Any) -> int:
    """Push the cart to the side to which the pole falls, and slowly back to the middle."""
    position, velocity, angle, speed = (float(x) for x in obs)
    return int(0.1 * position + 0.3 * velocity + 3.0 * angle + speed > 0)


def controller(negate: bool = False, epsilon: float = 0.0) -> Act:
    """Make a behavior that takes the controller's action but with probability epsilon any."""

    def act(obs: Any, rng: np.random.Generator) -> tuple[int, float]:
        wanted = balance(obs) ^ negate
        action = int(rng.random() < 0.5) if rng.random() < epsilon else wanted
        return action, float(np.log(epsilon / 2 + (1 - epsilon) * (action == wanted)))

    return act


def constant(action: int) -> Act:
    """Make the behavior that always pushes to the same side."""
    return lambda obs, rng: (action, 0.0)


def random(obs: Any, rng: np.random.Generator) -> tuple[int, float]:
    """Push to either side with equal probability."""
    return int(rng.random() < 0.5), float(np.log(0.5))


def make(scale: float = 1.0) -> minari.MinariDataset:
    """Write ``lit_offrl/cartpole/mixed-v0``: 1,820 episodes, about 34,500 steps.

    Args:
        scale: The share of the episodes to play.
    """
    env = gym.make("CartPole-v1")
    behaviors = [
        Behavior("balance", controller(epsilon=0.2), 20, seed=0),
        Behavior("negated", controller(negate=True, epsilon=0.5), 1000, seed=100_000),
        Behavior("constant left", constant(0), 200, seed=200_000),
        Behavior("constant right", constant(1), 200, seed=300_000),
        Behavior("random", random, 400, seed=400_000),
    ]
    card = Card(
        DATASET_ID,
        DESCRIPTION,
        __name__,
        ref_min_score=mean_return(env, random, scale),
        ref_max_score=mean_return(env, controller(), scale),
    )
    return record(env, behaviors, card, scale)
