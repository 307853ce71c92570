"""An environment whose every number is known, and which fails when it is told to."""

import time
from typing import Any

import gymnasium as gym
import numpy as np

from lit_offrl.data import DatasetSpec
from tests.evaluation.fakes import spec_of

BOX = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)


class Line(gym.Env[Any, Any]):
    """A point that moves by its action: obs is (start + sum of actions, steps).

    Ends for good once it lies beyond 5, by a time limit after 4 steps; reward is the action.

    Args:
        fault: ``raise``, ``nan``, ``nan_reward``, ``huge_reward``, ``shape`` or ``hang`` at step
            ``at`` of the first episode that gets there, ``nan_start``, or ``drift``: another start
            at each reset, whatever the seed.
        at: See ``fault``.
    """

    observation_space = BOX
    action_space = ACTION
    resets = 0

    def __init__(self, fault: str = "", at: int = 2) -> None:
        self.fault, self.at = fault, at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        Line.resets += 1
        self.x = float(self.np_random.uniform(-1, 1))
        if self.fault == "nan_start":
            self.x = float("nan")
        if self.fault == "drift":
            self.x += 1e-3 * Line.resets
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.t == self.at and self.fault == "raise":
            raise RuntimeError("the arm is\nstuck")
        if self.t == self.at and self.fault == "hang":
            time.sleep(60)
        self.x += float(action[0])
        reward = float(action[0])
        if self.t == self.at and self.fault == "nan":
            self.x = float("nan")
        if self.t == self.at and self.fault == "nan_reward":
            reward = float("nan")
        if self.t == self.at and self.fault == "huge_reward":
            reward = 1e300
        if self.t == self.at and self.fault == "shape":
            return np.zeros(3, np.float32), reward, False, True, {}
        return self._obs(), reward, self.x > 5, self.t >= 4, {}

    def _obs(self) -> Any:
        return np.array([self.x, self.t], np.float32)


def line_id(fault: str = "", at: int = 2) -> str:
    """Register the environment and return its id."""
    env_id = f"tests/Line{fault.title().replace('_', '')}{at}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, "tests.online.toys:Line", kwargs={"fault": fault, "at": at})
    return env_id


def line_spec() -> DatasetSpec:
    """Data set of such an environment, which does not say which it is from."""
    return spec_of(BOX, ACTION)
