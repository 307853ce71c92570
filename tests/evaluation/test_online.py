"""Episodes of the evaluated policy, beside its estimate, where each number is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.estimators.intervals import student_t_interval
from lit_offrl.evaluation.online import OnlineCheck, play_online
from lit_offrl.evaluation.policy_evaluation import PolicyEvaluation
from lit_offrl.evaluation.raw_policy import RawPolicy
from lit_offrl.evaluation.verdict import Assessment
from tests.evaluation.fakes import Actor, identity_scaling, spec_of_env
from tests.online.monitor import worlds
from tests.online.toys import line_id

FQE = Estimate("FQE", "FQE", 100.0, std_error=0.1)


class Steady:
    """The evaluated policy: half of the largest action, which the greedy one is not."""

    def sample(self, obs: Tensor) -> Tensor:
        return torch.full((len(obs), 1), 0.5)


def log_of(*rewards: float) -> Transitions:
    one = worlds.chain(1, 0, right=1.0, slip=0.0)
    return replace(one, reward=np.resize(np.array(rewards, np.float32), len(one)))


def played(limit: int | None, log: Transitions, level: float = 0.95) -> OnlineCheck:
    """Four episodes of four steps, or as many as the limit has, that pay 1 a step."""
    spec = spec_of_env(line_id(), max_episode_steps=limit)
    greedy = RawPolicy(Actor(lambda obs: -torch.ones(len(obs), 1)), spec, identity_scaling(spec))
    found = PolicyEvaluation(
        "sampled", 0.9, [FQE], Assessment("SINGLE", "", FQE, None, False), FQE, [], 1.0, 9,
        state_value=lambda obs: 10 * obs[:, 0],
    )  # fmt: skip
    return play_online(greedy, Steady(), found, log, 4, level, seed=7)  # type: ignore[arg-type]


def test_what_a_limit_cuts_off_is_the_estimate_s_own_value_of_the_last_observation() -> None:
    starts = [np.random.default_rng(seed).uniform(-1, 1) for seed in range(7, 11)]
    cut = played(3, log_of(0.0, 2.0))
    expected = [1 + 0.9 + 0.81 * 10 * (start + 2) for start in starts]
    np.testing.assert_allclose(cut.returns, expected, rtol=1e-5)
    whole = played(None, log_of(0.0, 2.0))
    np.testing.assert_allclose(whole.returns, [1 + 0.9 + 0.81 + 0.729] * 4)


def test_the_interval_of_the_episodes_has_the_level_of_the_evaluation() -> None:
    found = played(3, log_of(0.0, 2.0), level=0.8)
    assert found.interval == student_t_interval(found.returns, 0.8)
    assert played(3, log_of(0.0, 2.0)).interval == student_t_interval(found.returns, 0.95)


@pytest.mark.parametrize(
    ("rewards", "outside", "verdicts"),
    [((0.0, 2.0), 0.0, ["ok", "fail"]), ((0.0, 0.5), 1.0, ["fail", "not applicable"])],
)
def test_an_estimate_is_refuted_only_by_rewards_such_as_the_log_s(
    rewards: tuple[float, float], outside: float, verdicts: list[str]
) -> None:
    findings = played(3, log_of(*rewards)).findings
    assert [finding.name for finding in findings] == ["gap_reward_range", "gap_ope"]
    assert [finding.verdict for finding in findings] == verdicts
    assert findings[0].value == outside  # a share of all steps
