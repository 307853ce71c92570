"""Support against exact counts, Gaussian tails and ICU-Sepsis."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.data.builtin.icu_sepsis import icu_sepsis
from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.fit import fit_behavior
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.behavior.support import Support, compound, support
from tests.evaluation.behavior.behavior_makers import (
    Fixed,
    component_model,
    discrete_log,
    log,
    table_spec,
)
from tests.evaluation.fakes import identity_scaling


def table() -> tuple[BehaviorPolicy, Transitions]:
    """Three episodes of two steps: action 0 thrice and 1 once in state 0, 1 twice in state 1."""
    data = log(np.eye(3)[[0, 0, 0, 0, 1, 1]], np.array([0, 0, 0, 1, 1, 1]), 2)
    spec = table_spec(3, 2)
    return fit_behavior(data, identity_scaling(spec), spec).policy, data


def test_the_unseen_mass_of_a_table_is_exact() -> None:
    behavior, data = table()
    probs = torch.tensor([[0.25, 0.75], [0.4, 0.6], [0.5, 0.5]])
    policy = Fixed(lambda obs: probs[obs.argmax(-1)], discrete=True)
    obs = torch.eye(3)[[0, 1, 1, 2]]
    found = support(policy, behavior, obs, obs, data, discount=0.75)
    # nothing in state 0, action 0 in state 1, and either in state 2, where nobody was
    assert found.unseen == pytest.approx((0 + 0.4 + 0.4 + 1) / 4)
    assert found.horizon == 2  # the episodes are shorter than 1/(1 - γ)
    assert found.compounded == pytest.approx(1 - 0.55**2)
    assert not found.supported and found.finding().verdict == "fail"
    assert "NO_SUPPORT" in found.finding().advice


def test_the_discount_shortens_the_horizon() -> None:
    behavior, data = table()
    policy = Fixed(lambda obs: torch.tensor([[0.5, 0.5]]).expand(len(obs), 2), discrete=True)
    found = support(policy, behavior, torch.eye(3)[[1]], torch.eye(3)[[1]], data, discount=0.2)
    assert found.horizon == pytest.approx(1.25)
    assert found.compounded == pytest.approx(1 - 0.5**1.25)


def test_an_unseen_first_action_is_not_diluted_by_the_later_ones() -> None:
    behavior, data = table()
    probs = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]])
    policy = Fixed(lambda obs: probs[obs.argmax(-1)], discrete=True)
    first, later = torch.eye(3)[[1]], torch.eye(3)[[0] * 99]
    found = support(policy, behavior, first, later, data, discount=1.0)
    assert found.unseen_first == pytest.approx(0.3) and found.unseen == 0
    assert found.compounded == pytest.approx(0.3) and not found.supported
    alone = support(policy, behavior, first, later[:0], data, discount=1.0)
    assert alone.compounded == pytest.approx(0.3)


def test_the_log_supports_its_own_policy() -> None:
    behavior, data = table()
    found = support(
        Fixed(behavior.probs, True), behavior, torch.eye(3)[:2], torch.eye(3)[:2], data, 0.9
    )
    assert found.compounded < 0.01
    assert found.finding().verdict == "ok"


def test_verdicts_lie_at_a_tenth_and_a_fifth() -> None:
    answers = [
        Support(0.0, 0.0, compounded, 1.0, (), 1).finding().verdict
        for compounded in (0.09, 0.11, 0.21)
    ]
    assert answers == ["ok", "watch", "fail"]


def gaussian(n: int, action_dim: int) -> BehaviorPolicy:
    """``tanh N(0, 0.2²)`` at each of n observations, answered in chunks."""
    policy = component_model(torch.zeros(1, n), torch.zeros(1, n, action_dim), torch.zeros(1))

    def answer(obs: Tensor) -> object:
        rows = len(obs)
        zero = torch.zeros(1, rows, action_dim)
        return component_model(
            torch.zeros(1, rows), zero, torch.full_like(zero, math.log(0.2))
        ).policy(obs)

    policy.policy = answer  # type: ignore[method-assign, assignment]
    return policy


@pytest.mark.parametrize("action_dim", [1, 6])
def test_a_clone_of_a_box_behavior_is_supported_and_a_shifted_one_is_not(action_dim: int) -> None:
    behavior, data = gaussian(1, action_dim), discrete_log(2000, episode_length=100)
    obs = torch.zeros(2000, 1)

    def around(shift: float) -> Fixed:
        return Fixed(
            lambda obs: (shift + 0.2 * torch.randn(len(obs), action_dim)).tanh(), discrete=False
        )

    clone = support(around(0.0), behavior, obs, obs, data, 0.99)
    assert clone.finding().verdict == "ok"
    # a relative density of 0.5 in the median of one dimension: exp(-0.6745²/2)
    if action_dim == 1:
        assert clone.quantiles[3] == pytest.approx(-(0.6745**2) / 2, abs=0.03)
    far = support(around(0.6), behavior, obs, obs, data, 0.99)
    assert far.finding().verdict == "fail"
    if action_dim == 1:  # beyond 3.717 σ of 0.2, from a mean of 3 σ
        limit = math.sqrt(-2 * math.log(1e-3))
        assert far.unseen == pytest.approx(norm.sf(limit - 3), abs=0.03)


def test_what_the_model_misses_of_the_log_itself_does_not_count() -> None:
    behavior, data = gaussian(1, 1), discrete_log(200, episode_length=100)
    policy = Fixed(lambda obs: torch.where(obs < 0.1, 0.9, 0.0), discrete=False)
    obs = torch.linspace(0, 1, 1001)[:, None]
    before = support(policy, behavior, obs, obs, data, 0.99)
    assert before.unseen == pytest.approx(0.1, abs=1e-3)
    behavior.logged_unseen.fill_(0.1)
    assert support(policy, behavior, obs, obs, data, 0.99).unseen < 1e-3


def test_rows_are_capped_evenly_and_seen_in_chunks() -> None:
    behavior, data = gaussian(1, 1), discrete_log(200, episode_length=100)
    seen: list[Tensor] = []

    def act(obs: Tensor) -> Tensor:
        seen.append(obs)
        return torch.zeros(len(obs), 1)

    obs = torch.arange(100_001.0)[:, None]
    found = support(Fixed(act, False), behavior, obs[:1], obs, data, discount=0.99)
    rows = torch.cat(seen[1:])[:, 0]
    assert found.n_rows == 1 + len(rows) == 20_001
    assert max(map(len, seen)) <= 1024
    assert rows[0] == 0 and rows[-1] == 100_000
    assert rows.diff().max() <= 6


def test_draws_repeat_themselves_and_leave_the_callers_generator_alone() -> None:
    behavior, data = gaussian(1, 1), discrete_log(200, episode_length=100)
    policy = Fixed(lambda obs: torch.randn(len(obs), 1).tanh(), discrete=False)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    obs = torch.zeros(50, 1)
    one = support(policy, behavior, obs, obs, data, 0.9)
    assert torch.equal(torch.rand(1), expected)
    assert support(policy, behavior, obs, obs, data, 0.9) == one
    assert support(policy, behavior, obs, obs, data, 0.9, seed=1) != one


def test_a_policy_that_gives_no_numbers_is_refused() -> None:
    behavior, data = table()
    policy = Fixed(lambda obs: torch.full((len(obs), 2), torch.nan), discrete=True)
    with pytest.raises(InputError, match="not finite"):
        support(policy, behavior, torch.eye(3), torch.eye(3), data, 0.9)
    with pytest.raises(InputError, match="no observations"):
        support(policy, behavior, torch.zeros(0, 3), torch.eye(3), data, 0.9)


def sepsis_log(episodes: int, seed: int) -> tuple[Transitions, Tensor]:
    """Episodes of the clinicians, all played side by side, and what they met, (N, S) one-hot."""
    mdp, clinicians = icu_sepsis()
    rng = np.random.default_rng(seed)

    def pick(probs: NDArray[np.float64]) -> NDArray[np.int64]:
        drawn = rng.random((len(probs), 1)) > probs.cumsum(1)
        return np.asarray(drawn.sum(1).clip(max=probs.shape[1] - 1))

    state = pick(np.repeat(mdp.start[None], episodes, 0))
    number = np.arange(episodes)
    parts = []
    while len(state):
        action = pick(clinicians[state])
        arrived = pick(mdp.transition[state, action])
        parts.append(np.stack([number, state, action, arrived], 1))
        playing = ~mdp.terminal[arrived]
        state, number = arrived[playing], number[playing]
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    number, state, action, arrived = rows.T
    eye = np.eye(mdp.n_states, dtype=np.float32)
    over = mdp.terminal[arrived]
    data = Transitions(
        eye[state],
        action,
        np.zeros(len(rows), np.float32),
        eye[arrived],
        over,
        np.zeros_like(over),
        number,
    )
    return data, torch.from_numpy(eye[state])


def test_sepsis_with_a_thousand_episodes_does_not_support_a_half_optimal_policy() -> None:
    if find_spec("icu_sepsis") is None:
        pytest.skip("icu-sepsis is not installed")
    mdp, clinicians = icu_sepsis()
    data, obs = sepsis_log(1000, seed=0)
    spec = table_spec(mdp.n_states, mdp.n_actions)
    behavior = fit_behavior(data, identity_scaling(spec), spec).policy
    target = torch.from_numpy((clinicians + mdp.optimal_policy(1.0)) / 2).float()
    policy = Fixed(lambda obs: target[obs.argmax(-1)], discrete=True)
    found = support(policy, behavior, obs, obs, data, discount=1.0)
    state = data.obs.argmax(1)
    pairs = np.bincount(state * mdp.n_actions + data.action, minlength=clinicians.size)
    never = (pairs == 0).reshape(clinicians.shape)
    assert found.unseen == pytest.approx((target.numpy() * never).sum(1)[state].mean(), abs=1e-5)
    # 0.13 to 0.16 at the policy's own visits; the log has fewer of the rare states
    assert found.unseen == pytest.approx(0.12, abs=0.02)
    assert found.compounded == pytest.approx(compound(0.12, 0.12, 9.238), abs=0.08)
    assert found.finding().verdict == "fail"
