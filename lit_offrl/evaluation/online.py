"""Episodes that check an off-policy evaluation."""

from dataclasses import dataclass

from lightning import LightningModule
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.diagnosis.gap_episodes import Array, Terms, play_numbers, weighing_limit
from lit_offrl.evaluation.diagnosis.gap_findings import (
    distrusted,
    estimate_finding,
    reward_range_finding,
)
from lit_offrl.evaluation.estimators.intervals import Interval, student_t_interval
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.policy_evaluation import PolicyEvaluation
from lit_offrl.evaluation.raw_policy import RawPolicy
from lit_offrl.evaluation.rollout import MAX_ENVS
from lit_offrl.evaluation.target import TargetPolicy


@dataclass(frozen=True)
class OnlineCheck:
    """What a policy returned in its environment, beside what was estimated.

    Args:
        returns: Discounted return of each episode, (n,).
        interval: Of their mean.
        findings: ``gap_reward_range`` and ``gap_ope``.
    """

    returns: Array
    interval: Interval
    findings: list[Finding]


def play_online(
    policy: RawPolicy,
    target: TargetPolicy,
    evaluation: PolicyEvaluation,
    transitions: Transitions,
    episodes: int,
    level: float,
    seed: int = 20_000,
    env_id: str | None = None,
) -> OnlineCheck:
    """Play episodes of the evaluated policy and compare their returns with the estimate.

    Both are discounted returns of raw reward. Where a time limit cuts off more than 5 % of the
    weight, the estimate's own value of the last observation stands in for what was cut off.

    Args:
        policy: The loaded policy: its spaces, scaling and environment.
        target: The policy that was evaluated.
        evaluation: Its evaluation.
        transitions: The log, for the range of its rewards.
        episodes: Number of episodes, at least 2.
        level: Of the interval of their mean.
        seed: Episode i starts from ``env.reset(seed=seed + i)``.
        env_id: Environment to play in; the recorded one if None.

    Raises:
        InputError: If there is no environment, it does not fit, or there are too few episodes.
    """
    if episodes < 2:
        raise InputError(f"`--online` takes 2 episodes or more, not {episodes}.")
    limit = weighing_limit(policy.spec, env_id, evaluation.discount)
    rewards = transitions.reward
    logged = (float(rewards.min()), float(rewards.max()))
    terms = Terms(evaluation.discount, 0.0, limit, logged)
    acting = RawPolicy(_Acting(policy.algorithm, target), policy.spec, policy.scaling)
    seeds = range(seed, seed + episodes)
    numbers = play_numbers(acting, evaluation.state_value, terms, seeds, MAX_ENVS, env_id)
    returns = numbers["bootstrapped"]
    findings = [
        reward_range_finding(
            float(numbers["outside"].sum() / numbers["steps"].sum()),
            (float(numbers["low"].min()), float(numbers["high"].max())),
            logged,
        )
    ]
    if (headline := evaluation.assessment.headline) is not None:
        findings.append(estimate_finding(headline, returns, evaluation.spread, terms))
    return OnlineCheck(returns, student_t_interval(returns, level), distrusted(findings))


class _Acting(LightningModule):
    """Acts as the evaluated policy does, which need not be the greedy one."""

    def __init__(self, algorithm: LightningModule, target: TargetPolicy) -> None:
        super().__init__()
        self.algorithm, self.target = algorithm, target

    def act(self, obs: Tensor) -> Tensor:
        """Return the policy's action, (B, A) or (B,)."""
        return self.target.sample(obs)
