"""What acts in an environment that is recorded, by its name: checkpoints, functions, chance."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.checkpoint import LoadedPolicy, load
from lit_offrl.data.builtin.recording import Act
from lit_offrl.data.soundness import one_line
from lit_offrl.errors import InputError
from lit_offrl.evaluation import RawPolicy
from lit_offrl.evaluation.environment import check_spaces
from lit_offrl.online.exploration import Exploration
from lit_offrl.policies import Categorical, Distribution, TanhGaussian


def find_policy(name: str, env: gym.Env[Any, Any], exploration: Exploration) -> Act:
    """Make what acts of its name.

    Args:
        name: ``random``, a checkpoint's path, or ``module:function`` of (obs, numpy generator) that
            returns an action or (action, log-probability).
        env: Where it acts.
        exploration: How far a checkpoint's policy strays.

    Raises:
        InputError: If there is no such policy, or it does not fit the environment.
    """
    if name == "random":
        return random_act(env.action_space)
    if is_checkpoint(name):
        return checkpoint_act(load(name), env, exploration)
    found = _imported(name)

    def act(obs: Any, rng: np.random.Generator) -> tuple[Any, float | None]:
        answer = found(obs, rng)
        pair = isinstance(answer, tuple) and len(answer) == 2
        return answer if pair else (answer, None)

    return act


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    if not (module and function):
        raise InputError(
            f"There is no policy `{name}`: give `random`, a `.ckpt` file or `module:function`."
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # modules fail in ways of their own
        raise InputError(f"Policy `{name}` cannot be imported ({one_line(error)}).") from None
    if not callable(found):
        raise InputError(f"Policy `{name}` is no function, but a {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


def is_checkpoint(name: str) -> bool:
    """Whether a policy's name is a checkpoint's path."""
    return name != "random" and (name.endswith(".ckpt") or Path(name).is_file())


def random_act(space: gym.Space[Any]) -> Act:
    """Uniform actions with their log-probability or density."""
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            raise InputError("Random actions need a bounded action space.")
        if np.issubdtype(space.dtype, np.integer):
            high = space.high.astype(np.int64) + 1
            each = -float(np.log(high - space.low).sum())
            return lambda obs, rng: (_array(rng.integers(space.low, high), space), each)
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        density = -float(np.log(high - low).sum())
        return lambda obs, rng: (_array(rng.uniform(low, high), space), density)
    if isinstance(space, spaces.Discrete):
        one = -math.log(int(space.n))
        return lambda obs, rng: (int(space.start + rng.integers(space.n)), one)
    if isinstance(space, spaces.MultiDiscrete):
        many = -float(np.log(space.nvec).sum())
        return lambda obs, rng: (rng.integers(space.nvec) + space.start, many)
    raise InputError(f"Actions of {space} are not supported.")


def _array(value: Any, space: spaces.Box) -> NDArray[Any]:
    """A number or array as the space has it, also where its shape is ()."""
    return np.asarray(value, space.dtype)


class _Sampling(RawPolicy):
    """Draws actions, and remembers their log-probability."""

    def __init__(self, policy: LoadedPolicy, exploration: Exploration) -> None:
        super().__init__(policy.algorithm, policy.spec, policy.scaling)
        self._act = self._draw
        self._exploration = exploration
        self._algorithm = policy.algorithm
        self.log_prob: float | None = None

    def _draw(self, obs: Tensor) -> Tensor:
        if not self._algorithm.draws_from_policy:
            greedy = self._exploration.sample_scale == 0
            return self._algorithm.act(obs) if greedy else self._algorithm.explore(obs)
        distribution = self._exploration.widened(self._algorithm.policy(obs))
        action = distribution.sample()
        self.log_prob = self._density(distribution, action)
        return action.clamp(-1, 1) if action.is_floating_point() else action

    def _density(self, distribution: Distribution, action: Tensor) -> float | None:
        """Log-probability of a drawn action in raw units; None where it has none.

        A Gaussian's draws are clipped to the bounds, where they have no density.
        """
        if isinstance(distribution, Categorical):
            return float(distribution.log_prob(action))
        low, high = self.scaling.action_low, self.scaling.action_high
        greedy = self._exploration.sample_scale == 0
        if not isinstance(distribution, TanhGaussian) or low is None or high is None or greedy:
            return None
        return float(distribution.log_prob(action)) - float(((high - low) / 2).log().sum())


def checkpoint_act(
    policy: LoadedPolicy, env: gym.Env[Any, Any], exploration: Exploration
) -> Callable[[Any, np.random.Generator], tuple[Any, float | None]]:
    """Return what acts as a checkpoint's policy does, with noise.

    Args:
        policy: What was trained.
        env: Where it acts.
        exploration: How far it strays.

    Raises:
        InputError: If the environment has other spaces, or the policy cannot stray so.
    """
    env_id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    check_spaces(env, env_id, policy.spec)
    if exploration.kl_budget is not None:
        raise InputError("`kl_budget` is for fine-tuning: leave it out.")
    if not policy.algorithm.draws_from_policy and exploration.sample_scale not in (0, 1):
        raise InputError(
            f"{type(policy.algorithm).__name__} chooses between two policies: set `sample_scale` "
            "to 0 (greedy) or 1."
        )
    sampling = _Sampling(policy, exploration)

    def act(obs: Any, rng: np.random.Generator) -> tuple[Any, float | None]:
        with torch.no_grad():
            action = sampling(obs)
        return action, sampling.log_prob

    return act
