"""Episodes for the offline-online gap, with the critic's value of what a time limit cut off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from lightning import LightningModule
from minari.serialization import deserialize_space
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data import DatasetSpec
from lit_offrl.data.spaces import flatten_observations
from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.diagnosis.gap import bootstrapped_returns
from lit_offrl.evaluation.environment import make_env
from lit_offrl.evaluation.probe import UNKNOWN_TAIL
from lit_offrl.evaluation.raw_policy import RawPolicy
from lit_offrl.evaluation.rollout import Rollouts, play

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """How episodes are scored, so that a critic's values compare with them.

    Args:
        discount: γ.
        reward_shift: What the reward transform adds to each reward, in raw units.
        limit: Steps of a time limit behind which too much weight lies, γ^T; else None.
        logged_rewards: Smallest and largest raw reward of the log.
    """

    discount: float
    reward_shift: float
    limit: int | None
    logged_rewards: tuple[float, float]


def play_numbers(
    policy: RawPolicy,
    value: Callable[[Tensor], Tensor] | None,
    terms: Terms,
    seeds: Sequence[int],
    num_envs: int,
    env_id: str | None = None,
) -> dict[str, Array]:
    """Play one episode per seed and return numbers of each, (n,).

    ``bootstrapped`` is the return that a critic estimates, see :func:`bootstrapped_returns`;
    ``plain`` the discounted return of raw rewards; ``steps`` their number; ``low`` and ``high`` the
    smallest and largest raw reward; ``outside`` how many lie off the logged range.

    Args:
        policy: The policy.
        value: Value in raw scale of normalized observations (B, O) and the policy's actions there,
            (B,); without it, ``bootstrapped`` is cut off at the limit.
        terms: How to score.
        seeds: One per episode.
        num_envs: Environments that are stepped side by side.
        env_id: Environment to play in instead of the recorded one.
    """
    rewards: list[Array] = []
    last: list[NDArray[np.float32]] = []
    for i in range(0, len(seeds), num_envs):
        chunk, watch = seeds[i : i + num_envs], _Watch(policy)
        # As many environments as episodes, so that environment k plays episode k alone.
        rollouts = play(watch, policy.spec, chunk, len(chunk), env_id)
        rewards += rollouts.rewards
        last += [watch.seen[n - 1][k] for k, n in enumerate(rollouts.lengths)]
    tail, limit = np.zeros(len(rewards)), None  # (n,)
    if value is not None and terms.limit is not None:
        obs = policy.scaling.normalize_obs(torch.from_numpy(np.stack(last)))  # (n, O)
        tail, limit = value(obs).double().cpu().numpy(), terms.limit
    played = Rollouts(rewards)
    return {
        "bootstrapped": bootstrapped_returns(
            rewards, tail, terms.discount, limit, terms.reward_shift
        ),
        "plain": played.discounted(terms.discount),
        "steps": played.lengths.astype(np.float64),
        "low": np.array([r.min() for r in rewards]),
        "high": np.array([r.max() for r in rewards]),
        "outside": np.array([count_outside(r, terms.logged_rewards) for r in rewards], np.float64),
    }


def entered(
    spec: DatasetSpec, env_id: str | None, episodes: int, discount: float
) -> tuple[str, int | None]:
    """Return why no episode can be played, or "", and :func:`weighing_limit`.

    Args:
        spec: The data set.
        env_id: Environment to play in instead of the recorded one.
        episodes: How many shall be played.
        discount: γ.

    Raises:
        InputError: If there is no such environment, or it does not fit.
    """
    if episodes == 0:
        return "`episodes` is 0", None
    if spec.env_spec is None and env_id is None:
        return "no environment is recorded: name one in `env_id`", None
    return "", weighing_limit(spec, env_id, discount)


def greedy_value(module: LightningModule, obs: Tensor) -> Tensor:
    """``min_j Q_j(s, act(s))`` in transformed reward at normalized obs (B, O), (B,).

    Raises:
        NotApplicableError: If the module has no critic.
    """
    critic = getattr(module, "q_values", None)
    if not callable(critic):
        raise NotApplicableError("There is no `q_values`.")
    obs = obs.to(next(module.parameters()))
    q: Tensor = critic(obs, module.act(obs))  # type: ignore[operator]  # (n, B)
    return q.amin(0)


def weighing_limit(spec: DatasetSpec, env_id: str | None, discount: float) -> int | None:
    """Make the environment once, and return its time limit if what lies behind weighs 5 %.

    Args:
        spec: The data set.
        env_id: Environment to play in instead of the recorded one.
        discount: γ.

    Raises:
        InputError: If there is no such environment, or it does not fit.
    """
    env = make_env(spec, env_id)
    env.close()
    limit = None if env.spec is None else env.spec.max_episode_steps
    return limit if limit is not None and discount**limit >= UNKNOWN_TAIL else None


def count_outside(rewards: Array, logged: tuple[float, float]) -> int:
    """Count the rewards more than a tenth of the logged range outside of it.

    >>> count_outside(np.array([0.0, 1.05, 1.2]), (0.0, 1.0))
    1
    """
    low, high = logged
    slack = 0.1 * (high - low) or 1e-6 * abs(high)  # a constant reward is met but for rounding
    return int(((rewards < low - slack) | (rewards > high + slack)).sum())


class _Watch:
    """A policy that remembers what it saw."""

    def __init__(self, policy: RawPolicy) -> None:
        self.policy = policy
        self.space: Space[Any] = deserialize_space(policy.spec.obs_space)
        self.seen: list[NDArray[np.float32]] = []
        """Flattened observations of each step, (environments, O)."""

    def __call__(self, obs: Any) -> Any:
        self.seen.append(flatten_observations(self.space, obs))
        return self.policy(obs)
