"""What an episode says of the policy that acted, of its critic, and of what it earned."""

import json
import math

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.diagnosis.gap_episodes import greedy_value
from lit_offrl.evaluation.logged import CHUNK, LoggedData, value_range
from lit_offrl.evaluation.probe import UNKNOWN_TAIL
from lit_offrl.evaluation.raw_policy import eval_mode
from lit_offrl.evaluation.target import GreedyPolicy, SampledPolicy
from lit_offrl.rng import seeded
from lit_offrl.scaling import Scaling

SAME_ACTION = 0.01
"""Difference of scaled actions that storing and rounding may make."""
DIFFERING = 0.05
"""Share of actions that may differ from the greedy ones, such as where two are equally good."""
OFTEN_HIDDEN = 0.05
"""Share of episodes with a hidden tail above which returns are not compared with a prediction."""
DRAWS = 199
"""Action sequences drawn from a stochastic policy to compare the logged one with."""
IMPOSSIBLE = 1e-6
"""Stands for the p-value 0 of actions that a deterministic policy never takes."""


def differing_share(policy: GreedyPolicy, data: LoggedData) -> float:
    """Share of an episode's actions that are not the policy's."""
    own = policy.sample(data.obs)  # (T, A) or (T,)
    if data.n_actions is not None:
        return float((own != data.action).float().mean())
    far = (own - data.action).abs().amax(-1) > SAME_ACTION
    return float(far.float().mean())


def action_p_value(policy: GreedyPolicy | SampledPolicy, data: LoggedData, seed: int) -> float:
    """How probable actions as unlikely as an episode's are under the policy, given its states.

    For a stochastic policy the log-probability of the logged actions is ranked among those of
    :data:`DRAWS` sequences drawn at the same observations: exact, whatever the states.

    Args:
        policy: Who should have acted.
        data: The episode.
        seed: Of the draws.
    """
    if isinstance(policy, GreedyPolicy):
        return IMPOSSIBLE if differing_share(policy, data) > DIFFERING else 1.0
    logged = float(policy.log_prob(data.obs, data.action).mean())
    at_once = max(1, CHUNK // len(data))
    drawn = np.empty(0)
    with seeded(seed):
        while len(drawn) < DRAWS:
            obs = data.obs.repeat(min(at_once, DRAWS - len(drawn)), 1)  # (n T, O)
            log_prob = policy.log_prob(obs, policy.sample(obs)).reshape(-1, len(data))
            drawn = np.append(drawn, log_prob.mean(1).numpy())
    low, high = (int((drawn <= logged).sum()) + 1, int((drawn >= logged).sum()) + 1)
    return min(1.0, 2 * min(low, high) / (DRAWS + 1))


def td_error(algorithm: LightningModule, data: LoggedData, scaling: Scaling) -> float:
    """Mean of ``r + γ Q(s', π(s')) - Q(s, a)`` over an episode, in raw reward.

    Raises:
        NotApplicableError: If the algorithm has no critic.
    """
    with torch.no_grad(), eval_mode(algorithm):
        later = greedy_value(algorithm, data.next_obs)  # (T,)
        q: Tensor = algorithm.q_values(data.obs, data.action).amin(0)  # type: ignore[operator]
        reward = scaling.transform_reward(data.reward)
        discount = float(algorithm.discount)  # type: ignore[arg-type]
        error = reward + discount * (1 - data.terminated) * later - q
    return float(error.mean()) / scaling.reward_scale


def episode_return(
    algorithm: LightningModule, episode: Transitions, data: LoggedData, scaling: Scaling
) -> float:
    """Discounted return in raw reward, with the critic's value of what a time limit cut off.

    Where there is no critic, or the reward is shifted, what was cut off counts as 0.
    """
    discount, steps = float(algorithm.discount), len(episode)  # type: ignore[arg-type]
    known = float(episode.reward.astype(np.float64) @ discount ** np.arange(steps))
    if not hides_tail(episode, discount) or scaling.reward_shift:
        return known
    try:
        with torch.no_grad(), eval_mode(algorithm):
            tail = float(greedy_value(algorithm, data.next_obs[-1:])) / scaling.reward_scale
    except NotApplicableError:
        return known
    return known + discount**steps * tail


def hides_tail(episode: Transitions, discount: float) -> bool:
    """Whether a truncation cut off a part of the return that weighs something."""
    return not episode.terminated[-1] and discount ** len(episode) >= UNKNOWN_TAIL


def return_span(
    episode: Transitions, discount: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """What an episode's discounted return lies between, whatever a time limit cut off of it.

    Args:
        episode: The episode.
        discount: γ.
        bounds: What no return from any state can leave.
    """
    steps = len(episode)
    known = float(episode.reward.astype(np.float64) @ discount ** np.arange(steps))
    if not hides_tail(episode, discount):
        return known, known
    low, high = bounds
    return known + discount**steps * low, known + discount**steps * high


def return_bounds(log: Transitions, spec: DatasetSpec, discount: float) -> tuple[float, float]:
    """Bounds of discounted returns that follow from the log's rewards, known beforehand.

    For γ = 1 the environment's time limit is the horizon; infinite where it has none.
    """
    reward = torch.from_numpy(np.array([log.reward.min(), log.reward.max()]))
    low, high = value_range(reward, discount, terminates=True)
    if discount < 1:
        return low, high
    steps = json.loads(spec.env_spec or "{}").get("max_episode_steps") or math.inf
    ends = [float(r) * steps if r else 0.0 for r in reward]
    return min(ends[0], float(reward[0])), max(ends[1], float(reward[1]))
