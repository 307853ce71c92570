"""FQE against a reference written from its equation, exact values and what members may see."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators.fitted_q import fit_fqe
from lit_offrl.evaluation.estimators.fqe import FQE
from lit_offrl.evaluation.estimators.fqe_result import FQEResult
from lit_offrl.evaluation.logged import (
    LoggedData,
    bootstrap_weights,
    logged_data,
    row_weights,
    value_range,
)
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.scaling import Scaling
from tests.algorithms import chain5
from tests.algorithms.helpers import (
    ACTION_DIM,
    BATCH_SIZE,
    N_ACTIONS,
    OBS_DIM,
    ReferenceAdam,
    assert_same_params,
    close,
    critics,
    ensemble_mlp,
    polyak,
    random_batch,
    ready,
    reference_params,
)
from tests.evaluation.estimators import lqr
from tests.evaluation.estimators.test_tabular_fqe import TARGET, chain_log, transitions_of

K, LR, DISCOUNT, STEP = 3, 1e-2, 0.9, 0.1
OFFSET, SCALE, RANGE = 0.7, 2.5, (-1.0, 1.2)


class Drifting(TargetPolicy):
    """Box actions that are another function of obs each time they are drawn."""

    name, deterministic = "drifting", False

    def __init__(self) -> None:
        self.drawn = 0

    def sample(self, obs: Tensor) -> Tensor:
        self.drawn += 1
        return (obs[:, :ACTION_DIM] * self.drawn).tanh()

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        raise NotImplementedError


class Softmax(TargetPolicy):
    name, deterministic = "softmax", False

    def sample(self, obs: Tensor) -> Tensor:
        raise AssertionError("expectations over discrete actions are sums")

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        raise NotImplementedError

    def probs(self, obs: Tensor) -> Tensor:
        return (obs @ torch.arange(12.0, dtype=obs.dtype).view(3, 4).sin()).softmax(-1)


def ready_fqe(discrete: bool, policy: TargetPolicy, **options: object) -> FQE:
    n = N_ACTIONS if discrete else ACTION_DIM
    known = {"lr": LR, "discount": DISCOUNT, "polyak": STEP, "offset": OFFSET, "scale": SCALE}
    fqe = FQE(OBS_DIM, n, discrete, policy, (8, 7), K, **{**known, "q_range": RANGE, **options})  # type: ignore[arg-type]
    return ready(fqe)


@pytest.mark.parametrize("discrete", [False, True])
def test_two_updates_equal_the_reference(discrete: bool) -> None:
    fqe = ready_fqe(discrete, Softmax() if discrete else Drifting())
    p = reference_params(fqe)
    adam = ReferenceAdam(p, "q", LR)
    low, high = RANGE
    clipped_shares = []
    for i in range(2):
        batch = random_batch(i, discrete=discrete)
        weight = torch.rand(K, BATCH_SIZE, dtype=torch.float64)
        metrics = fqe.update(batch, weight)
        losses, clipped = [], []
        for k in range(K):
            if discrete:
                next_q = ensemble_mlp(p, "target_q.net", batch.next_obs, k)  # (B, A)
                next_net = (Softmax().probs(batch.next_obs) * next_q).sum(1)
                net = ensemble_mlp(p, "q.net", batch.obs, k)[torch.arange(BATCH_SIZE), batch.action]
            else:
                next_action = (batch.next_obs[:, :ACTION_DIM] * (i + 1)).tanh()
                next_net = critics(p, "target_q", batch.next_obs, next_action)[k]
                net = critics(p, "q", batch.obs, batch.action)[k]
            q, next_v = OFFSET + SCALE * net, (OFFSET + SCALE * next_net).detach()
            y = torch.where(batch.terminated == 1, batch.reward, batch.reward + DISCOUNT * next_v)
            clipped.append(((y < low) | (y > high)).double())
            losses.append((weight[k] * ((q - y.clamp(low, high)) / SCALE) ** 2).mean())
        loss = torch.stack(losses).sum()
        adam.step(loss)
        polyak(p, "q", "target_q", STEP)
        close(metrics["loss/q"], loss)
        clipped_shares.append(float(torch.stack(clipped).mean()))
        assert float(metrics["q/clipped"]) == pytest.approx(clipped_shares[-1])
        assert_same_params(fqe, p)
    assert 0 < np.mean(clipped_shares) < 1  # both branches of the clip were taken


def test_a_batch_may_bring_what_the_policy_does_next() -> None:
    results = []
    for given in (False, True):
        torch.manual_seed(0)
        fqe, batch = ready_fqe(False, Drifting()), random_batch(0)
        action = (batch.next_obs[:, :ACTION_DIM] * 1).tanh()
        results.append(fqe.update(batch, None, action.unsqueeze(0) if given else None)["loss/q"])
    close(results[0], results[1])


def test_several_sampled_actions_are_averaged() -> None:
    fqe, obs = ready_fqe(False, Drifting()), random_batch(0).obs
    value = fqe.expected(fqe.q, obs, fqe.choose(obs, 4))
    p = reference_params(fqe)
    actions = [(obs[:, :ACTION_DIM] * i).tanh() for i in (1, 2, 3, 4)]
    each = [torch.stack(critics(p, "q", obs, action)) for action in actions]
    close(value, OFFSET + SCALE * torch.stack(each).mean(0))


def test_one_member_equals_its_place_in_the_ensemble() -> None:
    for discrete, policy in ((True, Softmax()), (False, Drifting())):
        fqe, batch = ready_fqe(discrete, policy), random_batch(0, discrete=discrete)
        together = fqe.taken(fqe.target_q, batch.obs, batch.action)
        for k in range(K):
            close(fqe.taken(fqe.member(k), batch.obs, batch.action)[0], together[k])


def test_range_of_returns_has_zero_reach_only_where_episodes_end() -> None:
    reward = torch.tensor([1.0, 3.0])
    assert value_range(reward, 0.9, terminates=True) == pytest.approx((1, 30))
    assert value_range(reward, 0.9, terminates=False) == pytest.approx((10, 30))
    assert value_range(-reward, 0.9, terminates=True) == pytest.approx((-30, -1))
    assert value_range(torch.tensor([0.0, 1.0]), 1.0, terminates=True) == (0, torch.inf)


def test_resamples_leave_the_fold_out_and_weights_have_mean_one() -> None:
    left_out = torch.arange(10) % 3 == torch.arange(3).unsqueeze(1)  # (K, E)
    counts = bootstrap_weights(10, 3, seed=0, left_out=left_out)
    assert counts.sum(1).tolist() == [10, 10, 10]
    assert (counts[left_out] == 0).all()
    assert counts.max() > 1
    episode = torch.arange(10).repeat_interleave(torch.arange(1, 11))
    weights = row_weights(counts, episode)
    close(weights.mean(1), torch.ones(3), rtol=1e-6)
    ratio = weights[1][episode == 4][0] / weights[1][episode == 3][0]
    close(ratio, counts[1, 4] / counts[1, 3], rtol=1e-6)


def chain_data(episodes: int, seed: int = 0) -> LoggedData:
    scaling = Scaling(torch.full((5,), 0.2), torch.full((5,), 0.4), reward_scale=9.0)
    return logged_data(transitions_of(chain_log(episodes, seed)), scaling, n_actions=2)


class Table(TargetPolicy):
    """Probabilities of Chain-5's target policy, the same in all states."""

    name, deterministic = "table", False

    def sample(self, obs: Tensor) -> Tensor:
        return torch.multinomial(self.probs(obs), 1).squeeze(1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.probs(obs).gather(1, action[:, None]).squeeze(1).log()

    def probs(self, obs: Tensor) -> Tensor:
        return torch.tensor(TARGET[0], dtype=obs.dtype).expand(len(obs), 2)


def quick(data: LoggedData, seed: int = 0, updates: int = 30) -> FQEResult:
    return fit_fqe(data, Table(), 0.9, updates, 3, seed, hidden=(8, 8), batch_size=16)


def changed(data: LoggedData, episode: int) -> LoggedData:
    """The same log with other rewards in one episode, but the same range and returns' scale."""
    reward = data.reward.clone()
    rows = data.episode == episode
    reward[rows] = -reward[rows].flip(0)
    return replace(data, reward=reward)


def test_a_member_is_not_influenced_by_the_fold_it_is_kept_from() -> None:
    data = chain_data(9)
    data = replace(data, reward=torch.cat([torch.tensor([-2.0, 2.0]), data.reward[2:]]))
    before = quick(data)
    episode = next(e for e in range(1, 9) if (data.episode == e).sum() > 1)
    k = int(before.fold[episode])
    after = quick(changed(data, episode))
    own = before.fold[data.episode] == k
    torch.testing.assert_close(after.q[own], before.q[own], rtol=0, atol=0)
    torch.testing.assert_close(after.v[own], before.v[own], rtol=0, atol=0)
    assert before.member_values[k] == after.member_values[k]
    others = [j for j in range(3) if j != k]
    assert (before.member_values[others] != after.member_values[others]).any()
    assert before.fold.bincount().tolist() == [3, 3, 3]


def test_the_same_seed_gives_the_same_result_and_leaves_the_generator_alone() -> None:
    data = chain_data(6)
    state = torch.get_rng_state()
    first, again, other = quick(data), quick(data), quick(data, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.member_values, again.member_values)
    assert not torch.equal(first.member_values, other.member_values)


def test_a_member_counts_first_observations_as_often_as_it_drew_their_episodes() -> None:
    data = chain_data(9)
    for fold in range(3):
        episode = int((quick(data).fold == fold).nonzero()[0])
        obs = data.obs.clone()
        obs[data.first[episode]] += 3.0  # no member's weight of these rows depends on it
        before, after = quick(data), quick(replace(data, obs=obs))
        assert before.member_values[fold] == after.member_values[fold]
        assert not torch.equal(before.member_values, after.member_values)


def test_progress_and_curve_follow_the_updates() -> None:
    told: list[int] = []
    data = chain_data(6)
    result = fit_fqe(data, Table(), 0.9, 60, 3, hidden=(8, 8), progress=told.append)
    assert told == list(result.curve) == list(range(2, 61, 2))
    assert result.value == pytest.approx(result.curve[60], rel=1e-6)
    updates = [u for u in result.curve if u >= 40]
    line = np.polyfit(updates, [result.curve[u] for u in updates], 1)
    assert result.drift == pytest.approx(20 * line[0], rel=1e-6)


def test_interval_is_student_t_over_members() -> None:
    result = replace(quick(chain_data(6)), member_values=torch.tensor([1.0, 2.0, 3.0]))
    assert (result.value, result.std_error) == (2, 1)
    assert result.interval(0.95) == pytest.approx((2 - 4.302653, 2 + 4.302653), abs=1e-5)
    moving = replace(result, drift=1.5, scale=1.0)
    assert "more updates" in moving.estimate().reason
    assert replace(result, drift=0.5).estimate().reason == ""
    sure = replace(result, member_values=torch.ones(3), drift=0.5)
    assert (replace(sure, scale=9.0).converged, replace(sure, scale=11.0).converged) == (
        False,
        True,
    )


def test_values_of_rows_belong_to_the_right_rows() -> None:
    data = chain_data(40)
    result = fit_fqe(data, Table(), chain5.DISCOUNT, 600, 3, hidden=(32, 32), lr=3e-3, polyak=0.1)
    q, v = result.q_and_v()
    state = data.transitions.obs.argmax(1)
    exact_v = chain5.policy_value(TARGET)
    exact_q = chain5.action_values(exact_v)[state, data.action.numpy()]
    assert np.abs(v.numpy() - exact_v[state]).mean() < 0.12
    assert np.corrcoef(q.numpy(), exact_q)[0, 1] > 0.9
    assert (result.tail_v == 0).all()  # every episode terminated


def test_values_after_the_last_observation_are_those_of_cut_episodes() -> None:
    t = lqr.record(200)
    data = logged_data(t, lqr.scaling(t))
    terminated = data.terminated.clone()
    terminated[-1] = 1
    data = replace(data, terminated=terminated)
    policy = lqr.LinearPolicy(lqr.scaling(t))
    result = fit_fqe(data, policy, lqr.DISCOUNT, 30, 2, hidden=(8, 8))
    assert result.tail_v.shape == (4,)
    assert (result.tail_v[:3] != 0).all()
    assert result.tail_v[3] == 0


REFUSED: list[tuple[Callable[[], FQEResult], str]] = [
    (lambda: fit_fqe(chain_data(5), Table(), 0.9, updates=10), "updates"),
    (lambda: fit_fqe(chain_data(5), Table(), 0.9, members=1), "members"),
    (lambda: fit_fqe(chain_data(1), Table(), 0.9), "episodes"),
    (lambda: fit_fqe(_cut(chain_data(5)), Table(), 1.0), "discount of 1"),
]


def _cut(data: LoggedData) -> LoggedData:
    return replace(data, terminated=torch.zeros_like(data.terminated))


@pytest.mark.parametrize(("fit", "message"), REFUSED)
def test_what_cannot_be_estimated_is_refused(fit: Callable[[], FQEResult], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit()


def test_an_empty_log_is_refused() -> None:
    t = lqr.record(50)
    empty: Transitions = t.select_episodes(np.zeros(0, dtype=np.int64))
    with pytest.raises(InputError, match="no transitions"):
        logged_data(empty, lqr.scaling(t))


@pytest.mark.slow
def test_the_linear_system_is_valued_within_five_percent() -> None:
    t = lqr.record(20_000)
    scaling = lqr.scaling(t)
    data = logged_data(t, scaling)
    result = fit_fqe(data, lqr.LinearPolicy(scaling), lqr.DISCOUNT, 3000, hidden=(64, 64), lr=1e-3)
    assert result.value == pytest.approx(lqr.VALUE, rel=0.05)
    low, high = result.interval()
    assert low < lqr.VALUE < high
    assert result.converged
    v = lqr.v(t.obs[:, 0].astype(np.float64))
    assert np.sqrt(np.mean((result.v.numpy() - v) ** 2)) < 0.2


@pytest.mark.slow
def test_chain_5_is_valued_as_by_tabular_fqe() -> None:
    data = chain_data(500)
    result = fit_fqe(data, Table(), chain5.DISCOUNT, 3000, hidden=(32, 32), lr=1e-3)
    assert result.value == pytest.approx(0.179448, abs=0.03)
    low, high = result.interval()
    assert low < 0.179448 < high
    assert result.converged
