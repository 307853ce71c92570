"""Environments that a run collects from, and goes on with after it was killed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from minari.serialization import deserialize_space
from numpy.typing import NDArray

from lit_offrl.data import DatasetSpec
from lit_offrl.data.spaces import flatten_observations
from lit_offrl.errors import InputError
from lit_offrl.evaluation.environment import make_env, refuse_not_finite, watched
from lit_offrl.evaluation.raw_policy import stack_one
from lit_offrl.rng import stream_seed

EPISODE_STREAM = 3


@dataclass(frozen=True)
class Step:
    """What one step of all environments brought, in raw units.

    Args:
        obs: Flattened observations before the step, (E, O).
        reward: Rewards, (E,).
        next_obs: Flattened observations after it, also where an episode ended, (E, O).
        terminated: Whether the episode ended for good, (E,).
        truncated: Whether a time limit ended it, (E,).
    """

    obs: NDArray[np.float32]
    reward: NDArray[np.float64]
    next_obs: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


@dataclass
class _Episode:
    """One that is being played: its number, its seed's source, and all actions so far."""

    number: int
    actions: list[Any] = field(default_factory=list)


class Environments:
    """Steps environments side by side, each of which starts its next episode where one ends.

    Episode k of a run starts from a seed that is a function of (run seed, k). To go on after a
    kill, the actions of unfinished episodes are played anew.

    Args:
        spec: Data set whose spaces they must have.
        env_id: Environment; the recorded one if None.
        count: Number of environments E.
        seed: The run's seed.
        timeout: Seconds after which a step counts as hanging, 0 to wait for ever. Works in the main
            thread of a Unix process, on an environment that gives Python the control back.
    """

    def __init__(
        self, spec: DatasetSpec, env_id: str | None, count: int, seed: int, timeout: float = 60.0
    ) -> None:
        self.seed, self._timeout = seed, timeout
        self._envs = [make_env(spec, env_id) for _ in range(count)]
        self._space: Space[Any] = deserialize_space(spec.obs_space)
        self._episodes: list[_Episode] = []
        self.started = 0
        """Episodes started so far."""
        self.obs = np.zeros((count, spec.obs_dim), np.float32)
        """Flattened observations that are to be acted on, (E, O)."""

    def __len__(self) -> int:
        return len(self._envs)

    def start(self) -> None:
        """Begin the first episodes."""
        for i in range(len(self)):
            self._episodes.append(_Episode(0))
            self._reset(i)

    def step(self, actions: Any) -> Step:
        """Step all environments, and reset those whose episode ended.

        Args:
            actions: Raw actions stacked on axis 0.

        Raises:
            EnvironmentFailed: If one raises, hangs, or gives numbers that are not finite; nothing
                of this step counts then.
        """
        before = self.obs.copy()
        played = [self._step(i, action) for i, action in enumerate(actions)]
        after = np.stack([obs for obs, *_ in played])
        reward, terminated, truncated = (np.array(x) for x in list(zip(*played, strict=True))[1:])
        self.obs = after.copy()
        for episode, action in zip(self._episodes, actions, strict=True):
            episode.actions.append(np.array(action))
        for i in np.flatnonzero(terminated | truncated).tolist():
            self._reset(i)
        return Step(before, reward, after, terminated, truncated)

    def _step(self, i: int, action: Any) -> tuple[NDArray[np.float32], float, bool, bool]:
        done = len(self._episodes[i].actions)
        with watched(self._envs[i], done, self._timeout):
            obs, reward, terminated, truncated, _ = self._envs[i].step(action)
            flat = self._flatten(obs)
            refuse_not_finite(float(reward))
        return flat, float(reward), bool(terminated), bool(truncated)

    def _reset(self, i: int) -> None:
        self._episodes[i] = _Episode(self.started)
        self.started += 1
        self._begin(i)

    def _begin(self, i: int) -> None:
        episode_seed = stream_seed(self.seed, self._episodes[i].number, EPISODE_STREAM)
        with watched(self._envs[i], 0, self._timeout):
            obs, _ = self._envs[i].reset(seed=episode_seed % (1 << 31))
            self.obs[i] = self._flatten(obs)

    def _flatten(self, obs: Any) -> NDArray[np.float32]:
        flat: NDArray[np.float32] = flatten_observations(self._space, stack_one(obs))[0]
        refuse_not_finite(flat)
        return flat

    def abandon(self) -> None:
        """Give the running episodes up; :meth:`restart` begins the ones that follow."""
        for i in range(len(self._episodes)):
            self._episodes[i] = _Episode(self.started)
            self.started += 1

    def restart(self) -> None:
        """Begin the present episodes anew."""
        for i in range(len(self._episodes)):
            self._episodes[i].actions = []
            self._begin(i)

    def state_dict(self) -> dict[str, Any]:
        """Which episodes are being played, and how they came to where they are."""
        episodes = [
            {"number": e.number, "actions": torch.as_tensor(np.array(e.actions))}
            for e in self._episodes
        ]
        return {"started": self.started, "episodes": episodes, "obs": torch.tensor(self.obs)}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Play the unfinished episodes anew; return whether they came out the same.

        Raises:
            EnvironmentFailed: If an environment fails on the way.
            InputError: If the run had another number of environments.
        """
        if (saved := len(state["episodes"])) != len(self):
            raise InputError(
                f"The run steps {saved} environments side by side, not {len(self)}: resume with "
                f"`--num_envs {saved}`."
            )
        self.started = int(state["started"])
        kind = self._envs[0].action_space
        self._episodes = [_Episode(int(e["number"])) for e in state["episodes"]]
        for i, episode in enumerate(state["episodes"]):
            self._begin(i)
            for action in episode["actions"].numpy().astype(kind.dtype):
                self.obs[i] = self._step(i, action)[0]
                self._episodes[i].actions.append(action)
        begun = [bool(e.actions) for e in self._episodes]
        return bool(np.array_equal(self.obs[begun], state["obs"].numpy()[begun]))

    def close(self) -> None:
        """Close all environments."""
        for env in self._envs:
            env.close()
