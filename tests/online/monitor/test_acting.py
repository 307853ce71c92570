"""Actions, TD errors and returns of single episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_offrl.data import Transitions
from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.logged import LoggedData, logged_data
from lit_offrl.evaluation.target import GreedyPolicy, SampledPolicy
from lit_offrl.online.monitor import acting
from tests.algorithms import chain5
from tests.evaluation.fakes import identity_scaling
from tests.online.monitor import worlds

SPEC = worlds.chain_spec()
PLAIN = identity_scaling(SPEC)
POLICY = worlds.chain_policy()


def seen(episode: Transitions) -> LoggedData:
    return logged_data(episode, PLAIN, 2)


def episode(right: float = 0.9, seed: int = 0) -> Transitions:
    return worlds.chain(1, seed, right)


def test_a_greedy_policy_never_takes_other_actions() -> None:
    greedy = GreedyPolicy(POLICY, 2)
    assert acting.action_p_value(greedy, seen(episode(right=1.0)), 0) == 1
    mixed = seen(episode(right=0.5, seed=3))
    assert acting.differing_share(greedy, mixed) == float((mixed.action == 0).float().mean())
    assert acting.action_p_value(greedy, mixed, 0) == acting.IMPOSSIBLE


def test_p_values_of_a_sampled_policy_s_own_actions_are_uniform() -> None:
    sampled = SampledPolicy(POLICY)
    values = [acting.action_p_value(sampled, seen(episode(seed=i)), i) for i in range(200)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(values) <= level) <= level + 3 * (level / 200) ** 0.5
    other = [acting.action_p_value(sampled, seen(episode(0.3, i)), i) for i in range(50)]
    assert np.median(other) <= 0.02


def test_box_actions_may_differ_by_what_storing_loses() -> None:
    class Zero(worlds.Balancer):
        def act(self, obs: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(obs), 2)

    one = episode()
    action = np.zeros((len(one), 2), np.float32)
    greedy = GreedyPolicy(Zero(PLAIN))
    for distance, share in ((0.005, 0.0), (0.02, 1.0)):
        data = logged_data(replace(one, action=action + np.float32(distance)), PLAIN)
        assert acting.differing_share(greedy, data) == share


def test_the_td_error_is_in_raw_reward() -> None:
    one = episode()
    state, after = one.obs.argmax(1), one.next_obs.argmax(1)
    q = POLICY.q.numpy()
    later = chain5.DISCOUNT * (1 - one.terminated) * q[after, 1]
    expected = float((one.reward + later - q[state, one.action]).mean())
    assert acting.td_error(POLICY, seen(one), PLAIN) == pytest.approx(expected, abs=1e-6)
    doubled = worlds.Table(chain5.constant_policy(0.9), 2 * q, chain5.DISCOUNT)
    scaling = replace(PLAIN, reward_scale=2.0)
    assert acting.td_error(doubled, seen(one), scaling) == pytest.approx(expected, abs=1e-6)
    still = identity_scaling(worlds.cartpole_spec())
    with pytest.raises(NotApplicableError):
        acting.td_error(worlds.Balancer(still), logged_data(worlds.cartpole(1, 0), still, 2), still)


def test_a_critic_stands_in_for_what_a_time_limit_cuts_off() -> None:
    one = episode()
    ends = np.arange(len(one)) == len(one) - 1
    cut = replace(one, terminated=np.zeros_like(ends), truncated=ends)
    known = float(one.reward @ 0.95 ** np.arange(len(one)))
    last = POLICY.q.numpy()[cut.next_obs[-1].argmax(), 1]
    found = acting.episode_return(POLICY, cut, seen(cut), PLAIN)
    assert found == pytest.approx(known + 0.95 ** len(one) * last, abs=1e-6)
    assert acting.episode_return(POLICY, one, seen(one), PLAIN) == pytest.approx(known)


def test_what_a_time_limit_hides_lies_within_bounds() -> None:
    one = episode()
    ends = np.arange(len(one)) == len(one) - 1
    cut = replace(one, terminated=np.zeros_like(ends), truncated=ends)
    known, weight = float(one.reward @ 0.95 ** np.arange(len(one))), 0.95 ** len(one)
    assert acting.return_span(one, 0.95, (-2.0, 18.0)) == pytest.approx((known, known))
    wanted = (known - 2 * weight, known + 18 * weight)
    assert acting.return_span(cut, 0.95, (-2.0, 18.0)) == pytest.approx(wanted)


def test_bounds_of_returns_follow_from_the_log_s_rewards() -> None:
    log = worlds.chain(20, 0, 0.6)
    assert acting.return_bounds(log, SPEC, 0.95) == pytest.approx((-2.0, 18.0), abs=1e-5)
    assert acting.return_bounds(log, SPEC, 1.0) == (-np.inf, np.inf)
    limited = replace(SPEC, env_spec='{"max_episode_steps": 10}')
    assert acting.return_bounds(log, limited, 1.0) == pytest.approx((-1.0, 9.0), abs=1e-6)
