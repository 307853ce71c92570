"""Seeded episodes of a policy in vectorized environments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from lit_offrl.data import DatasetSpec
from lit_offrl.data.spaces import leaves
from lit_offrl.errors import InputError
from lit_offrl.evaluation.environment import make_env, refuse_not_finite, watched
from lit_offrl.rng import seeded

MAX_ENVS = 16
MAX_STEPS = 100_000
"""Longest episode: some environments have neither a time limit nor an end."""


@dataclass(frozen=True)
class Rollouts:
    """What came of some episodes, in raw reward.

    Args:
        rewards: Rewards of each episode, step by step: n arrays of its length.
    """

    rewards: list[NDArray[np.float64]]

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode, (n,)."""
        return np.array([rewards.sum() for rewards in self.rewards])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of steps of each episode, (n,)."""
        return np.array([len(rewards) for rewards in self.rewards])

    def discounted(self, discount: float, reward_shift: float = 0.0) -> NDArray[np.float64]:
        """Return ``Σ_t γ^t (r_t + shift)`` of each episode, (n,): what a critic estimates.

        Args:
            discount: γ.
            reward_shift: Added to each reward, as the reward transform of the critic does.
        """
        return np.array(
            [(r + reward_shift) @ discount ** np.arange(len(r)) for r in self.rewards], np.float64
        )

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns; 0 for a single episode."""
        return float(self.returns.std(ddof=1)) if len(self.returns) > 1 else 0.0


def evaluate(
    policy: Callable[[Any], Any],
    spec: DatasetSpec,
    episodes: int = 10,
    seed: int = 0,
    num_envs: int | None = None,
    env_id: str | None = None,
    timeout: float = 0.0,
) -> Rollouts:
    """Play episodes in the environment of a data set.

    Args:
        policy: Maps a batch of raw observations, as a vector environment gives them, to raw
            actions: a :class:`RawPolicy`, a loaded checkpoint or any function.
        spec: The data set.
        episodes: How many episodes.
        seed: Episode i starts from ``env.reset(seed=seed + i)``.
        num_envs: Environments that are stepped side by side; changes speed, and results by no more
            than the rounding of larger batches.
        env_id: Environment to play in instead of the recorded one.
        timeout: Seconds after which a step counts as hanging; 0 waits for ever.

    Raises:
        EnvironmentFailed: If an environment raises, hangs, or gives numbers that are not finite.
    """
    if episodes < 1:
        raise InputError(f"`episodes` must be at least 1, not {episodes}.")
    return play(policy, spec, range(seed, seed + episodes), num_envs, env_id, timeout)


def play(
    policy: Callable[[Any], Any],
    spec: DatasetSpec,
    seeds: Sequence[int],
    num_envs: int | None = None,
    env_id: str | None = None,
    timeout: float = 0.0,
) -> Rollouts:
    """Play one episode per seed; see :func:`evaluate` for the other arguments.

    A policy that draws at random sees torch's generator seeded with the first seed, and the
    caller's generator is left as it was.
    """
    if num_envs is not None and num_envs < 1:
        raise InputError(f"`num_envs` must be at least 1, not {num_envs}.")
    envs = SyncVectorEnv(
        [lambda: _Player(make_env(spec, env_id), timeout)] * min(len(seeds), num_envs or MAX_ENVS),
        copy=False,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    try:
        with seeded(seeds[0]):
            return _play(policy, envs, seeds)
    finally:
        envs.close()


def _play(policy: Callable[[Any], Any], envs: SyncVectorEnv, seeds: Sequence[int]) -> Rollouts:
    n = len(seeds)
    rewards: list[list[float]] = [[] for _ in range(n)]
    episode = np.arange(envs.num_envs)  # which one each environment plays; none from n on
    started = envs.num_envs
    obs, _ = envs.reset(seed=list(seeds[:started]))
    while (playing := episode < n).any():
        obs, reward, terminated, truncated, _ = envs.step(policy(obs))
        for i in np.flatnonzero(playing):
            rewards[episode[i]].append(float(reward[i]))
        if len(rewards[episode[playing][0]]) > MAX_STEPS:
            raise InputError(
                f"An episode has not ended after {MAX_STEPS} steps: register the environment with "
                "`max_episode_steps`."
            )
        if (ended := terminated | truncated).any():
            episode[ended] = started + np.arange(ended.sum())
            started += int(ended.sum())
            obs, _ = envs.reset(
                seed=[seeds[e] if e < n else None for e in episode.tolist()],
                options={"reset_mask": ended},
            )
    return Rollouts([np.array(steps) for steps in rewards])


class _Player(gym.Wrapper[Any, Any, Any, Any]):
    """Plays one episode per ``reset(seed=...)``, and rests after ``reset(seed=None)``.

    Gymnasium steps all environments of a vector together: without a rest, the ones that are done
    would play on until the longest episode ends.
    """

    def __init__(self, env: gym.Env[Any, Any], timeout: float) -> None:
        super().__init__(env)
        self._timeout = timeout

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode, or rest."""
        self._resting = seed is None
        if seed is not None:
            self._steps = 0
            with watched(self.env, 0, self._timeout):
                self._obs, _ = self.env.reset(seed=seed)
                _refuse_not_finite(self._obs)
        return self._obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step unless resting. Infos are dropped: collecting them costs more than many a step."""
        if self._resting:
            return self._obs, 0.0, False, False, {}
        with watched(self.env, self._steps, self._timeout):
            self._obs, reward, terminated, truncated, _ = self.env.step(action)
            _refuse_not_finite(self._obs, float(reward))
        self._steps += 1
        return self._obs, float(reward), terminated, truncated, {}


def _refuse_not_finite(obs: Any, reward: float = 0.0) -> None:
    refuse_not_finite(reward)
    for leaf in leaves(obs):
        refuse_not_finite(leaf)


def normalized_score(spec: DatasetSpec, mean_return: float) -> float | None:
    """Minari-normalized score: 0 at the data set's ``ref_min_score``, 100 at ``ref_max_score``.

    It is not a D4RL score, whose reference returns are others. None where the set has no reference
    scores.
    """
    low, high = spec.ref_min_score, spec.ref_max_score
    if low is None or high is None or low == high:
        return None
    return 100 * (mean_return - low) / (high - low)
