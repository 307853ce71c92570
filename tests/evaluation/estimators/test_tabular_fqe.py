"""Tabular FQE and LSTD-Q against exact values."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.data.builtin.icu_sepsis import icu_sepsis
from lit_offrl.data.builtin.tabular import TIE, TabularMDP
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators.tabular_fqe import (
    TabularLog,
    bootstrap_tabular_fqe,
    lstd_q,
    tabular_fqe,
    tabular_log,
    tabular_probs,
)
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.scaling import Scaling
from tests.algorithms import chain5
from tests.evaluation.estimators import lqr

TARGET = chain5.constant_policy(0.9)
VALUE, V_PI = 0.179448, [0.111679, 0.247217, 0.421206, 0.614804, 0.825131]


def chain_log(episodes: int, seed: int, right: float = 0.6) -> TabularLog:
    """Episodes of Chain-5, played to their end."""
    rng = np.random.default_rng(seed)
    alive = np.arange(episodes)
    state = rng.choice(2, episodes)
    columns: list[tuple[NDArray[Any], ...]] = []
    while len(alive):
        action = (rng.random(len(alive)) < right).astype(np.int64)
        moved_right = np.where(rng.random(len(alive)) < 0.1, 1 - action, action) == chain5.RIGHT
        arrived = np.where(moved_right, state + 1, np.maximum(state - 1, 0))
        ended = arrived == chain5.N_STATES
        reward = np.where(ended, 0.9, -0.1)
        columns.append((state, action, reward, np.where(ended, 0, arrived), ended, alive))
        alive, state = alive[~ended], arrived[~ended]
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    order = np.argsort(joined[5], kind="stable")
    state, action, reward, arrived, ended, episode = (column[order] for column in joined)
    return TabularLog(state, action, reward, arrived, ended, episode, 5, 2)


def exact_log() -> TabularLog:
    """Row counts as the exact distribution has them; each row is an episode of its own."""
    batch = chain5.exact_batch(6)
    obs, next_obs = batch.obs.argmax(1).numpy(), batch.next_obs.argmax(1).numpy()
    episode = np.arange(len(obs))
    ended = batch.terminated.bool().numpy()
    return TabularLog(
        obs, batch.action.numpy(), batch.reward.numpy(), next_obs, ended, episode, 5, 2
    )


def test_exact_data_give_the_exact_values() -> None:
    fitted = tabular_fqe(exact_log(), TARGET, chain5.DISCOUNT)
    v = chain5.policy_value(TARGET)
    np.testing.assert_allclose(fitted.v, v, rtol=1e-12)
    np.testing.assert_allclose(v, V_PI, atol=1e-6)
    np.testing.assert_allclose(fitted.q, chain5.action_values(v), rtol=1e-12)
    assert fitted.value == pytest.approx(v.mean(), rel=1e-12)  # an episode per row: all states
    assert fitted.unseen_mass == 0


@pytest.mark.parametrize(("episodes", "spread"), [(500, 0.007), (50, 0.026)])
def test_error_on_chain_5_is_as_small_as_it_should_be(episodes: int, spread: float) -> None:
    values = np.array(
        [
            tabular_fqe(chain_log(episodes, seed), TARGET, chain5.DISCOUNT).value
            for seed in range(300)
        ]
    )
    # at n = 50 the standard error of the mean alone is 0.0015
    assert abs(values.mean() - VALUE) < (0.002 if episodes == 500 else 0.006)
    assert values.std() == pytest.approx(spread, rel=0.25)


def test_bootstrap_spreads_as_estimates_of_new_logs_do() -> None:
    log = chain_log(500, seed=1)
    values = bootstrap_tabular_fqe(log, TARGET, chain5.DISCOUNT, resamples=200, seed=0)
    assert values.std() == pytest.approx(0.007, rel=0.35)
    fitted = tabular_fqe(log, TARGET, chain5.DISCOUNT).value
    assert abs(values.mean() - fitted) < 0.002


def test_episode_weights_equal_repeated_episodes() -> None:
    log = chain_log(3, seed=2)
    weight = np.array([2.0, 0.0, 1.0])
    picked = [np.flatnonzero(log.episode == e) for e in (0, 0, 2)]
    rows = np.concatenate(picked)
    again = TabularLog(
        log.state[rows],
        log.action[rows],
        log.reward[rows],
        log.next_state[rows],
        log.terminated[rows],
        np.repeat(np.arange(3), [len(p) for p in picked]),
        5,
        2,
    )
    weighted = tabular_fqe(log, TARGET, chain5.DISCOUNT, weight)
    repeated = tabular_fqe(again, TARGET, chain5.DISCOUNT)
    np.testing.assert_allclose(weighted.q, repeated.q, atol=1e-12)
    assert weighted.value == pytest.approx(repeated.value, abs=1e-12)
    assert weighted.unseen_mass == pytest.approx(repeated.unseen_mass, abs=1e-12)


def two_state_log(terminated: bool) -> TabularLog:
    """``0 → 1 → (1, or the end)`` with reward 1 each, action 0 of 2, in one episode."""
    return TabularLog(
        np.array([0, 1]),
        np.array([0, 0]),
        np.ones(2),
        np.array([1, 1]),
        np.array([False, terminated]),
        np.zeros(2, dtype=np.int64),
        2,
        2,
    )


def test_unseen_actions_count_as_zero_and_their_mass_is_told() -> None:
    probs = np.array([[1.0, 0.0], [0.75, 0.25]])
    fitted = tabular_fqe(two_state_log(terminated=True), probs, 0.5)
    assert fitted.unseen_mass == 0.25  # of the one next state that is not the end
    assert fitted.v[1] == pytest.approx(0.75)
    assert fitted.value == pytest.approx(1 + 0.5 * 0.75)
    assert (fitted.q[:, 1] == 0).all()


def test_only_an_end_for_good_stops_the_bootstrap() -> None:
    always = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert tabular_fqe(two_state_log(terminated=False), always, 0.5).value == pytest.approx(2)
    assert tabular_fqe(two_state_log(terminated=True), always, 0.5).value == pytest.approx(1.5)


def test_endless_episodes_without_discount_are_refused() -> None:
    always = np.array([[1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(InputError, match="never ends"):
        tabular_fqe(two_state_log(terminated=False), always, 1.0)
    assert tabular_fqe(two_state_log(terminated=True), always, 1.0).value == pytest.approx(2)


class TablePolicy(TargetPolicy):
    name, deterministic = "table", False

    def __init__(self, probs: Tensor, scaling: Scaling) -> None:
        self.table, self.scaling = probs, scaling

    def sample(self, obs: Tensor) -> Tensor:
        return torch.multinomial(self.probs(obs), 1).squeeze(1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.probs(obs).gather(1, action[:, None]).squeeze(1).log()

    def probs(self, obs: Tensor) -> Tensor:
        return (obs * self.scaling.obs_std + self.scaling.obs_mean) @ self.table


def transitions_of(log: TabularLog, truncated: NDArray[np.bool_] | None = None) -> Transitions:
    one_hot = np.eye(log.n_states, dtype=np.float32)
    return Transitions(
        one_hot[log.state],
        log.action,
        log.reward.astype(np.float32),
        one_hot[log.next_state],
        log.terminated,
        np.zeros(len(log.state), dtype=bool) if truncated is None else truncated,
        log.episode,
    )


def test_log_and_policy_are_read_off_one_hot_observations() -> None:
    log = chain_log(5, seed=3)
    read = tabular_log(transitions_of(log), 2)
    np.testing.assert_array_equal(read.state, log.state)
    np.testing.assert_array_equal(read.next_state, log.next_state)
    np.testing.assert_allclose(read.reward, log.reward, atol=1e-7)
    scaling = Scaling(torch.full((5,), 0.2), torch.full((5,), 0.4))
    table = torch.rand(5, 2).softmax(1)
    probs = tabular_probs(TablePolicy(table, scaling), scaling)
    np.testing.assert_allclose(probs, table, atol=1e-6)


def test_observations_that_are_not_one_hot_are_refused() -> None:
    t = transitions_of(chain_log(2, seed=0))
    t.next_obs[0, 0] = 0.5
    with pytest.raises(InputError, match="one-hot"):
        tabular_log(t, 2)
    with pytest.raises(InputError, match="discrete"):
        tabular_log(lqr.record(50), 2)


def test_lstd_q_with_one_hot_features_equals_tabular_fqe() -> None:
    log = chain_log(50, seed=4)
    features = np.eye(10)[log.state * 2 + log.action]
    next_features = np.zeros((len(log.state), 10))
    for a in range(2):
        next_features[np.arange(len(log.state)), log.next_state * 2 + a] = TARGET[log.next_state, a]
    weights = lstd_q(features, next_features, log.reward, log.terminated, chain5.DISCOUNT)
    fitted = tabular_fqe(log, TARGET, chain5.DISCOUNT)
    np.testing.assert_allclose(weights.reshape(5, 2), fitted.q, atol=1e-9)
    ridged = lstd_q(features, next_features, log.reward, log.terminated, chain5.DISCOUNT, 10.0)
    assert np.abs(ridged).max() < 0.1


def lqr_features(s: NDArray[Any], a: NDArray[Any], variance: float = 0.0) -> NDArray[Any]:
    """1, s, a, s², sa, a² of actions with that variance about ``a``."""
    return np.stack([np.ones_like(s), s, a, s * s, s * a, a * a + variance], 1)


def test_lstd_q_with_quadratic_features_solves_the_linear_system() -> None:
    t = lqr.record(20_000)
    s, a, next_s = (x[:, 0].astype(np.float64) for x in (t.obs, t.action, t.next_obs))
    expected = lqr_features(next_s, lqr.GAIN * next_s, lqr.STD**2)
    weights = lstd_q(
        lqr_features(s, a), expected, t.reward.astype(np.float64), t.terminated, lqr.DISCOUNT
    )
    start = np.random.default_rng(1).normal(size=200_000)
    value = (lqr_features(start, lqr.GAIN * start, lqr.STD**2) @ weights).mean()
    assert value == pytest.approx(lqr.VALUE, rel=0.02)
    assert pytest.approx(-3.254612, abs=1e-5) == lqr.VALUE


@pytest.mark.slow
def test_icu_sepsis_is_underestimated_because_much_was_never_seen() -> None:
    if find_spec("icu_sepsis") is None:
        pytest.skip("needs icu-sepsis")
    mdp, clinicians = icu_sepsis()
    q = mdp.optimal_q_values(1.0)
    tied = (q >= q.max(1, keepdims=True) - TIE) & (clinicians > 0)  # all 25 in 240 states
    optimal = np.eye(25)[np.where(tied, clinicians, -1).argmax(1)]
    target = 0.5 * optimal + 0.5 * clinicians
    assert mdp.expected_return(target) == pytest.approx(0.8231, abs=2e-3)
    fits = [tabular_fqe(play(mdp, clinicians, 1000, seed), target, 1.0) for seed in range(3)]
    assert [fit.value for fit in fits] == pytest.approx([0.45] * 3, abs=0.05)
    assert [fit.unseen_mass for fit in fits] == pytest.approx([0.12] * 3, abs=0.03)


def play(mdp: TabularMDP, policy: NDArray[Any], episodes: int, seed: int) -> TabularLog:
    """Episodes of a tabular MDP, side by side."""
    rng = np.random.default_rng(seed)

    def draw(probs: NDArray[Any]) -> NDArray[np.int64]:
        above = probs.cumsum(1) > rng.random((len(probs), 1)) * probs.sum(1, keepdims=True)
        return np.asarray(above.argmax(1), dtype=np.int64)

    alive = np.arange(episodes)
    state = draw(np.tile(mdp.start, (episodes, 1)))
    columns: list[tuple[NDArray[Any], ...]] = []
    for _ in range(mdp.horizon):
        if not len(alive):
            break
        action = draw(policy[state])
        arrived = draw(mdp.transition[state, action])
        ended = mdp.terminal[arrived]
        columns.append((state, action, mdp.entry_reward[arrived], arrived, ended, alive))
        alive, state = alive[~ended], arrived[~ended]
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    order = np.argsort(joined[5], kind="stable")
    state, action, reward, arrived, ended, episode = (column[order] for column in joined)
    return TabularLog(state, action, reward, arrived, ended, episode, mdp.n_states, mdp.n_actions)
