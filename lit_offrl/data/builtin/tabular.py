"""Finite MDPs whose values are known exactly, and the Gymnasium environment that plays them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Actions whose values differ by less count as tied, and the first one is taken: the rounding of the
# linear solver, which differs between machines, must not decide which policy is "optimal".
TIE = 1e-9


@dataclass(frozen=True)
class TabularMDP:
    """A finite MDP whose reward is paid on entering a state.

    Policies are arrays ``(S, A)`` of action probabilities. Two kinds of value are exact: the
    discounted value over an infinite horizon, which targets learn (a truncated episode bootstraps),
    and the return of an episode, which evaluation measures (it stops after ``horizon`` steps).

    Args:
        transition: P(s' | s, a), ``(S, A, S)``.
        entry_reward: The reward for arriving in each state, ``(S,)``.
        terminal: Where an episode ends, ``(S,)`` of bool.
        start: Distribution of the first state, ``(S,)``.
        horizon: Steps after which an episode is truncated.
    """

    transition: Array
    entry_reward: Array
    terminal: NDArray[np.bool_]
    start: Array
    horizon: int

    @property
    def n_states(self) -> int:
        """The number of states."""
        return len(self.transition)

    @property
    def n_actions(self) -> int:
        """The number of actions."""
        return len(self.transition[0])

    @cached_property
    def reward(self) -> Array:
        """Expected reward ``(S, A)``; 0 in terminal states."""
        expected: Array = self.transition @ self.entry_reward
        expected[self.terminal] = 0.0
        return expected

    def uniform_policy(self) -> Array:
        """Give the policy that takes every action equally often."""
        return np.full((self.n_states, self.n_actions), 1.0 / self.n_actions)

    def greedy_policy(self, q: Array) -> Array:
        """Give the policy that takes the best action of ``q`` (S, A), the first one of ties."""
        best = (q >= q.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
        policy: Array = np.eye(self.n_actions)[best]
        return policy

    def values(self, policy: Array, discount: float) -> Array:
        """Solve ``V = R^π + γ P^π V`` for V ``(S,)``; 0 in terminal states.

        With a discount of 1 every policy asked for must end its episodes with probability 1.
        """
        move, reward = self._follow(policy)
        return np.linalg.solve(np.eye(self.n_states) - discount * move, reward).astype(np.float64)

    def q_values(self, policy: Array, discount: float) -> Array:
        """Give ``Q^π`` (S, A) of the infinite horizon; 0 in terminal states."""
        future: Array = self.transition @ self.values(policy, discount)
        future[self.terminal] = 0.0
        return self.reward + discount * future

    def optimal_q_values(self, discount: float) -> Array:
        """Give ``Q*`` (S, A) by policy iteration from the uniform policy."""
        q = self.q_values(self.uniform_policy(), discount)
        policy = self.greedy_policy(q)
        while True:
            q = self.q_values(policy, discount)
            improved = self.greedy_policy(q)
            # Keep the old action where the new one is no better, or ties could alternate forever.
            kept = (q * policy).sum(axis=1) >= q.max(axis=1) - TIE
            improved[kept] = policy[kept]
            if np.array_equal(improved, policy):
                return q
            policy = improved

    def optimal_policy(self, discount: float) -> Array:
        """Give the deterministic policy that is greedy on ``Q*``."""
        return self.greedy_policy(self.optimal_q_values(discount))

    def expected_return(self, policy: Array, discount: float = 1.0) -> float:
        """Give the expected return of one episode, which ends after ``horizon`` steps at most."""
        move, reward = self._follow(policy)
        v = np.zeros(self.n_states)
        for _ in range(self.horizon):
            v = reward + discount * (move @ v)
        return float(self.start @ v)

    def _follow(self, policy: Array) -> tuple[Array, Array]:
        """Give ``P^π`` (S, S) without a way out of terminal states, and ``R^π`` (S,)."""
        move: Array = np.einsum("sa,sat->st", policy, self.transition)
        move[self.terminal] = 0.0
        return move, (policy * self.reward).sum(axis=1)


def draw(rng: np.random.Generator, cdf: Array) -> int:
    """Draw an index from cumulative probabilities.

    Unlike ``Generator.choice`` this takes exactly one double and no sum, so the same seed gives the
    same index with every version of numpy. The cap covers a last entry that rounds below 1.
    """
    return min(int(np.searchsorted(cdf, rng.random(), side="right")), len(cdf) - 1)


class TabularEnv(gym.Env[int, int]):
    """Play a `TabularMDP`: states are observations, and the time limit is left to Gymnasium.

    Args:
        mdp: What to play.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (Gymnasium's declaration)

    def __init__(self, mdp: TabularMDP) -> None:
        self.mdp = mdp
        self.render_mode = None
        self.observation_space = gym.spaces.Discrete(mdp.n_states)  # type: ignore[assignment]
        self.action_space = gym.spaces.Discrete(mdp.n_actions)  # type: ignore[assignment]
        self._start_cdf = np.cumsum(mdp.start)
        self._state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Start an episode in a state drawn from the start distribution."""
        super().reset(seed=seed, options=options)
        self._state = draw(self.np_random, self._start_cdf)
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move to a state drawn from the transition probabilities."""
        self._state = draw(self.np_random, np.cumsum(self.mdp.transition[self._state, int(action)]))
        reward = float(self.mdp.entry_reward[self._state])
        return self._state, reward, bool(self.mdp.terminal[self._state]), False, {}


def sampled(policy: Array) -> Callable[[Any, np.random.Generator], tuple[int, float]]:
    """Turn a policy (S, A) into a behavior: an action and the log-probability it had."""
    cdf = np.cumsum(policy, axis=1)

    def act(obs: Any, rng: np.random.Generator) -> tuple[int, float]:
        action = draw(rng, cdf[int(obs)])
        return action, float(np.log(policy[int(obs), action]))

    return act


def register(env_id: str, entry_point: str, horizon: int) -> None:
    """Register an environment with Gymnasium unless it is known already."""
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=entry_point, max_episode_steps=horizon)
