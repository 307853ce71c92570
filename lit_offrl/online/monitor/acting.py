"""What an episode says of the policy that acted, of its critic, and of what it earned."""

import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.diagnosis.gap_episodes import greedy_value
from lit_offrl.evaluation.logged import CHUNK, LoggedData, value_range
from lit_offrl.evaluation.probe import UNKNOWN_TAIL
from lit_offrl.evaluation.raw_policy import eval_mode
from lit_offrl.evaluation.target import GreedyPolicy, SampledPolicy
from lit_offrl.online.monitor.sequential import POWERS, Wealth, first_passage, power_bets
from lit_offrl.rng import seeded
from lit_offrl.scaling import Scaling

SAME_ACTION = 0.01
"""Difference of scaled actions that storing and rounding may make."""
DIFFERING = 0.05
"""Share of actions that may differ from the greedy ones, such as where two are equally good."""
OFTEN_HIDDEN = 0.05
"""Share of episodes with a hidden tail above which returns are not compared with a prediction."""
ASKED = 100
"""Observations that tell whether a policy draws its actions."""
DRAWS = 199
"""Action sequences drawn from a stochastic policy to compare the logged one with."""
IMPOSSIBLE = 1e-6
"""Stands for the p-value 0 of actions that a deterministic policy never takes."""


def why_not_asked(policy: GreedyPolicy | SampledPolicy, data: LoggedData) -> str:
    """Say why logged actions cannot be told from others than a policy's; empty if they can.

    Args:
        policy: Who should have acted.
        data: Any transitions.

    Raises:
        InputError: If the sampled policy has no probabilities.
    """
    name = type(policy.algorithm).__name__
    obs, action = data.obs[:ASKED], data.action[:ASKED]
    if isinstance(policy, GreedyPolicy):
        with seeded(0):
            first = policy.sample(obs)
        with seeded(1):
            if torch.equal(first, policy.sample(obs)):
                return ""
        return f"{name} draws its actions, and has no probabilities of them."
    try:
        policy.log_prob(obs, action)
    except NotApplicableError as error:
        if not policy.has_density:
            return str(error)
        raise InputError(
            f"{name} has no probabilities of its actions: monitor it with `policy` greedy."
        ) from None
    return ""


def refuse_others(
    policy: GreedyPolicy | SampledPolicy, data: Sequence[LoggedData], threshold: float, seed: int
) -> None:
    """See that calibration episodes are the policy's own.

    Args:
        policy: Who should have acted.
        data: The episodes.
        threshold: Wealth from which they are not.
        seed: Of the draws.

    Raises:
        InputError: If they are not.
    """
    wealth = Wealth(len(POWERS))
    for i, one in enumerate(data):
        wealth.bet(power_bets(action_p_value(policy, one, seed + i)))
    after = first_passage(wealth.path, threshold)
    if after is not None:
        raise InputError(
            f"The calibration episodes hold other actions than the {policy.name} policy's: the "
            f"evidence suffices after {after}. Give accepted episodes of this checkpoint, and as "
            "`policy` how they were played."
        )


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
