"""Model-based evaluation against exact values, and the mistakes it must not make."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_offrl.batch import Batch
from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators import dynamics
from lit_offrl.evaluation.estimators.dynamics import DynamicsEnsemble, fit_dynamics
from lit_offrl.evaluation.estimators.dynamics_ensemble import Step
from lit_offrl.evaluation.estimators.model_rollout import default_horizon, evaluate_in_model
from lit_offrl.evaluation.logged import LoggedData, bootstrap_weights, logged_data
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.scaling import Scaling
from tests.algorithms import chain5
from tests.algorithms.helpers import close, ensemble_mlp, perturb, reference_params
from tests.evaluation.estimators import lqr
from tests.evaluation.estimators.test_fqe import Table, chain_data
from tests.evaluation.estimators.test_tabular_fqe import TARGET

VALUE = 0.179448
WITHOUT_END, Q_AS_REWARD, MASKED_REWARD = 8.0842, 2.4827, -0.4969


class ExactChain:
    """The true dynamics of Chain-5, with the reward of a move and not its expectation."""

    n_models = 2

    def step(self, obs: Tensor, action: Tensor, model: Tensor) -> Step:
        state = obs.argmax(1)
        right = torch.where(torch.rand(len(obs)) < 0.1, 1 - action, action) == chain5.RIGHT
        arrived = torch.where(right, state + 1, (state - 1).clamp(min=0))
        ended = arrived == chain5.N_STATES
        zeros = torch.zeros(len(obs))
        return Step(
            torch.eye(5)[arrived.clamp(max=4)],
            torch.where(ended, 0.9, -0.1),
            ended.float(),
            zeros,
            zeros,
        )


class EndlessChain(ExactChain):
    """Wrong: nothing ever ends, and the last move pays again and again."""

    def step(self, obs: Tensor, action: Tensor, model: Tensor) -> Step:
        step = super().step(obs, action, model)
        return step._replace(termination=torch.zeros(len(obs)))


class QAsReward(ExactChain):
    """Wrong: the value of the action stands in for its reward."""

    q = torch.tensor(chain5.action_values(chain5.policy_value(TARGET)), dtype=torch.float32)

    def step(self, obs: Tensor, action: Tensor, model: Tensor) -> Step:
        step = super().step(obs, action, model)
        return step._replace(reward=self.q[obs.argmax(1), action])


class MaskedTerminalReward(ExactChain):
    """Wrong: the mask of ended episodes is set before the reward is added."""

    def step(self, obs: Tensor, action: Tensor, model: Tensor) -> Step:
        step = super().step(obs, action, model)
        return step._replace(reward=step.reward * (1 - step.termination))


def start(n: int) -> Tensor:
    """First states 0 and 1 of Chain-5 in turn, (n, 5)."""
    return torch.eye(5)[torch.arange(n) % 2]


def chain_value(chain: ExactChain, n: int = 5000) -> float:
    return evaluate_in_model(chain, Table(), start(n), chain5.DISCOUNT, 150, n).value


def test_exact_dynamics_give_the_exact_value() -> None:
    result = evaluate_in_model(ExactChain(), Table(), start(10_000), chain5.DISCOUNT, 90, 10_000)
    assert result.value == pytest.approx(VALUE, abs=4 * result.std_error)
    assert result.std_error < 0.01
    low, high = result.interval(0.95)
    assert (high - low) == pytest.approx(2 * 1.959964 * result.std_error)


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        (EndlessChain(), WITHOUT_END),
        (QAsReward(), Q_AS_REWARD),
        (MaskedTerminalReward(), MASKED_REWARD),
    ],
)
def test_known_mistakes_miss_the_value_by_far(wrong: ExactChain, value: float) -> None:
    found = chain_value(wrong)
    assert found == pytest.approx(value, abs=0.12)
    assert abs(found - VALUE) > 0.5


class Constant:
    """Reward 1 + the model's number, an end with probability ½, no motion; model 1 leaves."""

    n_models = 2

    def step(self, obs: Tensor, action: Tensor, model: Tensor) -> Step:
        one = torch.ones(len(obs))
        return Step(obs, 1.0 + model, 0.5 * one, obs[:, 0] + 2, (0.05 + 0.1 * model) * one)


def test_an_end_counts_by_its_probability_and_models_are_told_apart() -> None:
    result = evaluate_in_model(Constant(), Table(), torch.zeros(4, 1), 0.5, 3, 1000)
    weight = 1 + 0.25 + 0.0625
    assert result.model_values.tolist() == pytest.approx([weight, 2 * weight])
    assert result.value == pytest.approx(1.5 * weight, rel=0.03)  # a model drawn at each step
    assert result.std_error > 0.5 * weight  # models disagree by a whole weight
    assert result.beyond_horizon == 0.125
    assert result.left_share == pytest.approx(1 - 0.5**3, abs=0.05)
    assert result.clipped_share == pytest.approx(1)
    assert result.disagreement.tolist() == [2, 2, 2]
    assert result.growth == 1
    details = result.estimate().details
    assert details["horizon"] == 3
    assert all(math.isfinite(x) for x in details.values())


def cut(lengths: list[int], truncated: list[bool]) -> Transitions:
    n = sum(lengths)
    last = np.zeros(n, dtype=bool)
    last[np.cumsum(lengths) - 1] = truncated
    zeros = np.zeros((n, 1), np.float32)
    flags = np.zeros(n, dtype=bool)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    return Transitions(zeros, zeros, zeros[:, 0], zeros, flags, last, episode)


def test_horizon_is_the_time_limit_or_where_the_discount_leaves_nothing() -> None:
    logged = cut([30, 20, 10], [False, True, True])
    assert default_horizon(logged, 0.99) == 20
    assert default_horizon(logged, 0.5) == 7  # 0.5^7 < 0.01
    assert default_horizon(cut([30, 20], [False, False]), 0.99) == 459
    assert default_horizon(cut([30, 20], [False, False]), 1.0) == 30
    assert default_horizon(logged, 0.0) == 1


def coin_log(episodes: int, seed: int = 0) -> Transitions:
    """A walk that pays 1 a step and ends with probability 0.2 after action 1, else 0.02."""
    rng = np.random.default_rng(seed)
    rows = []
    for episode in range(episodes):
        obs = rng.normal()
        for t in range(20):
            action = rng.integers(2)
            next_obs = 0.5 * obs + rng.normal()
            ended = rng.random() < (0.2 if action else 0.02)
            rows.append((obs, next_obs, action, ended, not ended and t == 19, episode))
            obs = next_obs
            if ended:
                break
    table = np.array(rows, dtype=np.float32)
    return Transitions(
        obs=table[:, :1],
        action=table[:, 2].astype(np.int64),
        reward=np.ones(len(table), np.float32),
        next_obs=table[:, 1:2],
        terminated=table[:, 3].astype(bool),
        truncated=table[:, 4].astype(bool),
        episode=table[:, 5].astype(np.int64),
    )


class Always(Table):
    """Takes one action."""

    def __init__(self, action: int) -> None:
        self.action = action

    def sample(self, obs: Tensor) -> Tensor:
        return torch.full((len(obs),), self.action)


@pytest.mark.slow
def test_the_end_of_episodes_is_learned() -> None:
    t = coin_log(1500)
    data = logged_data(t, Scaling(torch.zeros(1), torch.ones(1)), n_actions=2)
    model = fit_dynamics(data, 600, 3, 2, hidden=(32, 32))
    for action, p in ((1, 0.2), (0, 0.02)):
        result = evaluate_in_model(model, Always(action), data.obs[data.first], 0.9, 60)
        assert result.value == pytest.approx(1 / (1 - 0.9 * (1 - p)), rel=0.1)


@pytest.mark.slow
def test_the_linear_system_is_valued_within_five_percent() -> None:
    t = lqr.record(20_000)
    scaling = lqr.scaling(t)
    data = logged_data(t, scaling)
    model = fit_dynamics(data, 1500, 5, 3, hidden=(64, 64))
    policy = lqr.LinearPolicy(scaling)
    result = evaluate_in_model(model, policy, data.obs[data.first], lqr.DISCOUNT, 90, 2000)
    started = float(lqr.v(t.obs[data.first.numpy(), 0].astype(np.float64)).mean())
    assert result.value == pytest.approx(started, rel=0.05)  # of these 400 first observations
    assert abs(result.value - lqr.VALUE) < 3 * result.std_error
    step = model.step(data.obs, data.action, torch.zeros(len(data), dtype=torch.long))
    surprise = (step.next_obs - data.next_obs) * scaling.obs_std
    assert float(surprise.std()) == pytest.approx(math.sqrt(2) * lqr.NOISE, rel=0.05)
    reward_error = (step.reward - data.reward).square().mean().sqrt()
    assert reward_error < 0.1 * data.reward.std()


def small_data(discrete: bool) -> LoggedData:
    if discrete:
        return chain_data(20)
    t = lqr.record(500)
    return logged_data(t, lqr.scaling(t))


@pytest.mark.parametrize("discrete", [False, True])
def test_loss_equals_the_reference(discrete: bool) -> None:
    data = small_data(discrete)
    model = DynamicsEnsemble(data, 3, (8, 7)).double()
    perturb(model, scale=0.5)
    p = reference_params(model)
    columns = data.obs, data.action, data.reward, data.next_obs, data.terminated
    obs, action, reward, next_obs, ended = (
        x[:50].double() if x.is_floating_point() else x[:50] for x in columns
    )
    target = torch.cat([next_obs - obs, reward[:, None]], 1)
    inputs = torch.eye(2, dtype=torch.float64)[action] if discrete else action
    for k, nll in enumerate(model.nll(Batch(obs, action, reward, next_obs, ended))):
        out = ensemble_mlp(p, "net", torch.cat([obs, inputs], 1), k)
        n = target.shape[1]
        mean, raw, logit = out[:, :n], out[:, n : 2 * n], out[:, -1]
        upper = 0.5 - torch.log1p((0.5 - raw).exp())
        log_variance = -10 + torch.log1p((upper + 10).exp())
        z = ((target - model.mean) / model.std - mean) / (log_variance / 2).exp()
        expected = (z**2 / 2 + log_variance / 2).sum(1)
        if discrete:  # the linear system never ends
            end = 1 / (1 + (-logit).exp())
            expected = expected - torch.where(ended == 1, end, 1 - end).log()
        close(nll, expected, rtol=1e-6)


def test_what_never_changes_is_left_alone() -> None:
    data = logged_data(coin_log(20), Scaling(torch.zeros(1), torch.ones(1)), n_actions=2)
    model = DynamicsEnsemble(data, 3, (8, 7))
    columns = data.obs, data.action, data.reward, data.next_obs, data.terminated
    before = model.nll(Batch(*columns))
    bias = dict(model.net.named_parameters())["layers.2.bias"]
    with torch.no_grad():
        bias[..., [1, 3]] += 5.0  # mean and log-variance of the reward
    close(model.nll(Batch(*columns)), before)
    step = model.step(data.obs, data.action, torch.zeros(len(data), dtype=torch.long))
    assert (step.reward == 1).all()


def test_what_is_drawn_stays_within_the_log() -> None:
    data = small_data(discrete=False)
    model = DynamicsEnsemble(data, 3, (8, 7))
    perturb(model, scale=3.0)
    step = model.step(data.obs, data.action, torch.zeros(len(data), dtype=torch.long))
    both = torch.cat([data.obs, data.next_obs])
    assert step.next_obs.min() >= both.min()
    assert step.next_obs.max() <= both.max()
    assert step.reward.min() >= data.reward.min()
    assert step.reward.max() <= data.reward.max()
    assert (step.outside > 0).any()
    assert (step.termination == 0).all()


def test_the_same_seed_fits_the_same_model() -> None:
    data = small_data(discrete=False)
    told: list[int] = []
    model = fit_dynamics(data, 40, 4, 2, hidden=(8, 8))
    again = fit_dynamics(data, 40, 4, 2, hidden=(8, 8), progress=told.append)
    assert model.elites == again.elites
    assert torch.equal(next(iter(model.net.parameters())), next(iter(again.net.parameters())))
    assert told == list(range(4, 41, 4))


class Fit:
    """A fit with all that it asked on its way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: LoggedData, lr: float) -> None:
        self.losses: list[Tensor] = []
        real_loss, real_weights = dynamics._held_out_loss, bootstrap_weights

        def loss(model: DynamicsEnsemble, data: LoggedData, rows: Tensor) -> Tensor:
            self.rows = rows
            self.losses.append(real_loss(model, data, rows))
            return self.losses[-1]

        def weights(*args: Any) -> Tensor:
            self.counts = real_weights(*args)
            return self.counts

        with monkeypatch.context() as patch:
            patch.setattr(dynamics, "_held_out_loss", loss)
            patch.setattr(dynamics, "bootstrap_weights", weights)
            self.model = fit_dynamics(data, 40, 4, 2, hidden=(8, 8), lr=lr, batch_size=32)
        self.final = real_loss(self.model, data, self.rows)


def test_best_of_each_member_is_kept_and_elites_are_the_best_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = small_data(discrete=False)
    fit = Fit(monkeypatch, data, lr=0.1)
    losses = torch.stack(fit.losses)
    assert losses.shape == (10, 4)
    assert (losses.argmin(0) < 9).any()  # else there was nothing to restore
    close(fit.final, losses.amin(0), rtol=1e-5)
    assert fit.model.elites == fit.final.argsort()[:2].tolist()
    held_out = sorted(set(data.episode[fit.rows].tolist()))
    assert len(held_out) == 1  # a tenth of ten episodes
    assert len(fit.rows) == 50
    assert (fit.counts[:, held_out] == 0).all()
    assert (fit.counts.sum(1) == 10).all()


def test_a_member_is_fitted_to_its_own_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data(discrete=False)
    before = Fit(monkeypatch, data, lr=1e-2)
    drawn = before.counts > 0
    episode = next(e for e in range(10) if drawn[:, e].any() and not drawn[:, e].all())
    rows = (data.episode == episode).nonzero().squeeze(1)
    action = data.action.clone()
    action[rows] = -action[rows]  # all statistics stay as they are
    after = Fit(monkeypatch, replace(data, action=action), lr=1e-2)
    difference = (after.final - before.final).abs()
    assert (difference[~drawn[:, episode]] == 0).all()
    assert (difference[drawn[:, episode]] > 0).all()


def test_draws_spread_as_far_as_predicted() -> None:
    data = small_data(discrete=False)
    model = DynamicsEnsemble(data, 1, (8, 7))
    model.low.fill_(-torch.inf)
    model.high.fill_(torch.inf)
    obs, action = data.obs[:1].expand(20_000, -1), data.action[:1].expand(20_000, -1)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.zero_()
        dict(model.net.named_parameters())["layers.2.bias"][..., 2] = -3.0  # log-variance of s' - s
    step = model.step(obs, action, torch.zeros(20_000, dtype=torch.long))
    close(step.next_obs.std(), math.exp(-1.5) * model.std[0], rtol=0.03)
    close(step.next_obs.mean(), float(obs[0, 0] + model.mean[0]), rtol=0.03)


def test_a_model_alone_is_the_elite_of_that_number() -> None:
    data = small_data(discrete=False)
    model = DynamicsEnsemble(data, 3, (8, 7))
    model.elites = [2, 0]
    obs, action = data.obs[:4], data.action[:4]
    mean = model.net(torch.cat([obs, action], 1))[..., 1]  # (K, B) standardized reward
    expected = (model.mean[1] + model.std[1] * mean).clamp(*model.reward_range)
    drawn = model.step(obs, action, torch.tensor([0, 1, 0, 1])).reward
    close(drawn, expected[[2, 0, 2, 0], range(4)], rtol=1e-6)


class NoPolicy(TargetPolicy):
    name, deterministic = "none", True

    def sample(self, obs: Tensor) -> Tensor:
        return torch.zeros(len(obs), 1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        raise NotImplementedError


def test_what_cannot_be_estimated_is_refused() -> None:
    data = small_data(discrete=False)
    with pytest.raises(InputError, match="elites"):
        fit_dynamics(data, 40, 4, 5)
    one = lqr.record(50)
    with pytest.raises(InputError, match="one"):
        fit_dynamics(logged_data(one, lqr.scaling(one)))
    model = DynamicsEnsemble(data, 3, (8, 7))
    with pytest.raises(InputError, match="at least 1 step"):
        evaluate_in_model(model, NoPolicy(), data.obs[data.first], 0.9, 0)
    model.std.fill_(torch.nan)
    with pytest.raises(InputError, match="infinite"):
        evaluate_in_model(model, NoPolicy(), data.obs[data.first], 0.9, 5)
