"""Verdicts on hand-made columns: each fires, and does not beside the point where it does."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_offrl.evaluation.diagnosis import q_learning, q_sanity
from lit_offrl.evaluation.diagnosis.q_answers import (
    ask,
    critic_features,
    random_actions,
    start_values,
)
from lit_offrl.evaluation.diagnosis.q_sanity import Answers, QThresholds
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.probe import Probe, ReturnFacts
from lit_offrl.networks import DiscreteQNetwork, QNetwork
from tests.algorithms.helpers import critic, ensemble_mlp, reference_params

Check = Callable[[Answers, ReturnFacts, QThresholds], Finding]

# Rewards in [-1, 2] and γ = 0.9: values within [-10, 20]; S = 4.
FACTS = ReturnFacts(-1.0, 2.0, -10.0, 20.0, 4.0, 3.0, 9.0, 8.0, 1.0)
POSITIVE = replace(FACTS, reward_low=0.0, value_low=0.0)
NO_SCALE = ReturnFacts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
UNKNOWN = replace(FACTS, mean_return=math.nan, high_return=math.nan, best_return=math.nan)
LIMITS = QThresholds(burn_in=100)
G = torch.linspace(0.0, 6.0, 100, dtype=torch.float64)


def answers(**changes: Tensor) -> dict[str, Tensor]:
    """A critic that is right on every row, and whose policy is the log's."""
    columns = {
        "q_data": G,
        "q_policy": G,
        "q_random": G - 1,
        "std_random": torch.full_like(G, 0.5),
        "lse_gap": torch.full_like(G, -0.25),
        "td_error": torch.linspace(-1, 1, 100, dtype=torch.float64),
        "train_td_error": torch.linspace(-1, 1, 50, dtype=torch.float64),
        "disagreement_data": torch.full_like(G, 0.1),
        "disagreement_policy": torch.full_like(G, 0.2),
        "mc_return": G,
        "q_start": G[:10],
    }
    return {**columns, **changes}


def ask_of(check: Check, facts: ReturnFacts = FACTS, **changes: Tensor) -> Finding:
    return check(answers(**changes), facts, LIMITS)


def some(values: Tensor, n: int, value: float) -> Tensor:
    """The first ``n`` values replaced."""
    return torch.cat([torch.full_like(values[:n], value), values[n:]])


BOUNDS, MC, GAP = q_sanity.q_bounds, q_sanity.q_vs_mc, q_sanity.q_policy_gap
OOD, CONSTANT, SIGN = q_sanity.q_ood_gap, q_sanity.q_constant, q_sanity.q_sign
TD, DISAGREE = q_learning.q_td_error, q_learning.q_disagreement
ALL: list[Check] = [BOUNDS, MC, GAP, OOD, CONSTANT, SIGN, TD, DISAGREE]
TAIL = some(0.01 * torch.ones_like(G), 6, 1.0)

CASES: list[tuple[Check, ReturnFacts, dict[str, Tensor], str, float | None]] = [
    (BOUNDS, FACTS, {}, "ok", 0.0),
    (BOUNDS, FACTS, {"q_policy": some(G, 2, 20.3)}, "watch", 0.01),  # 1 % is not more than 1 %
    (BOUNDS, FACTS, {"q_policy": some(G, 3, 20.3)}, "fail", 0.015),
    (BOUNDS, FACTS, {"q_data": some(G, 3, -10.3)}, "fail", 0.015),
    (BOUNDS, FACTS, {"q_policy": some(G, 3, 20.1)}, "watch", 0.0),  # within 0.05 S of the bound
    (BOUNDS, FACTS, {"q_policy": some(G, 3, 15.9)}, "ok", 0.0),
    (BOUNDS, FACTS, {"q_data": some(G, 1, -8.1)}, "watch", 0.0),
    (BOUNDS, FACTS, {"q_data": some(G, 1, -8.1), "mc_return": some(G, 1, -8.2)}, "ok", 0.0),
    (BOUNDS, FACTS, {"q_data": some(G, 1, 16.1), "mc_return": some(G, 1, 16.2)}, "ok", 0.0),
    (BOUNDS, replace(FACTS, best_return=16.2), {"q_data": some(G, 1, 16.1)}, "ok", 0.0),
    (BOUNDS, UNKNOWN, {"q_data": some(G, 1, 16.1)}, "watch", 0.0),
    (MC, FACTS, {}, "ok", 0.0),
    (MC, FACTS, {"q_data": G + 4, "q_policy": G + 4}, "ok", 1.0),  # the policy improves
    (MC, FACTS, {"q_policy": G + 6.1, "q_start": G + 6}, "fail", 0.0),
    (MC, FACTS, {"q_policy": G + 6.1, "q_start": G + 4.9}, "ok", 0.0),  # no better than the best
    (MC, FACTS, {"q_policy": G + 5.9, "q_start": G + 6}, "ok", 0.0),
    (MC, FACTS, {"q_data": G - 1.9}, "ok", -0.475),
    (MC, FACTS, {"q_data": G - 2.1}, "watch", -0.525),
    (MC, FACTS, {"q_data": 6 - G}, "watch", 0.0),
    (MC, FACTS, {"q_data": torch.full_like(G, 3.0)}, "watch", 0.0),
    (MC, FACTS, {"mc_return": some(G, 81, math.nan)}, "not applicable", None),
    (MC, FACTS, {"mc_return": some(G, 80, math.nan)}, "ok", 0.0),
    (MC, UNKNOWN, {"mc_return": torch.full_like(G, math.nan)}, "not applicable", None),
    (GAP, FACTS, {}, "ok", 0.0),
    (GAP, FACTS, {"q_policy": G + 1.99}, "ok", 0.4975),
    (GAP, FACTS, {"q_policy": G + 2.01}, "watch", 0.5025),
    (GAP, FACTS, {"q_policy": G + 4.01}, "fail", 1.0025),
    (GAP, FACTS, {"q_policy": G - 9}, "ok", -2.25),
    (OOD, FACTS, {}, "ok", 0.25),
    (OOD, FACTS, {"q_random": G}, "watch", 0.0),
    (OOD, FACTS, {"q_random": G - 11.9}, "ok", 2.975),
    (OOD, FACTS, {"q_random": G - 12.1}, "watch", 3.025),
    (CONSTANT, FACTS, {}, "ok", G.std(correction=0).item() / 4),
    (CONSTANT, FACTS, {"q_data": 5 + 0.0039 * G.sign()}, "fail", None),
    (CONSTANT, FACTS, {"q_data": 5 + 0.01 * (G - 3).sign()}, "ok", 0.0025),
    (SIGN, FACTS, {}, "ok", 6.0),
    (SIGN, FACTS, {"q_data": G - 90, "q_policy": G - 90}, "ok", -84.0),
    (SIGN, POSITIVE, {"q_data": G - 90, "q_policy": G - 90}, "fail", -84.0),
    (SIGN, POSITIVE, {"q_data": G - 90}, "ok", 6.0),
    (SIGN, POSITIVE, {"q_data": G - 6.1, "q_policy": G - 6.1}, "ok", -0.1),  # noise about 0
    (TD, FACTS, {}, "ok", None),
    (TD, FACTS, {"td_error": 1.9 * G, "train_td_error": 1.35 * G}, "ok", (1.9 / 1.35) ** 2),
    (TD, FACTS, {"td_error": 1.9 * G, "train_td_error": 1.34 * G}, "watch", (1.9 / 1.34) ** 2),
    (TD, FACTS, {"td_error": TAIL, "train_td_error": TAIL}, "watch", 1.0),
    (TD, FACTS, {"td_error": 0 * G, "train_td_error": 0 * G}, "ok", None),
    (DISAGREE, FACTS, {}, "ok", 2.0),
    (DISAGREE, FACTS, {"disagreement_policy": 0 * G + 0.301}, "watch", 3.01),
    (DISAGREE, FACTS, {"disagreement_data": 0 * G}, "not applicable", None),
]


@pytest.mark.parametrize(("check", "facts", "changes", "verdict", "value"), CASES)
def test_each_verdict_turns_where_the_table_says(
    check: Check,
    facts: ReturnFacts,
    changes: dict[str, Tensor],
    verdict: str,
    value: float | None,
) -> None:
    finding = ask_of(check, facts, **changes)
    assert finding.verdict == verdict, finding
    if value is not None:
        assert finding.value == pytest.approx(value, abs=1e-12)
    assert bool(finding.advice) == (verdict in ("watch", "fail"))
    assert "nan" not in str(finding).lower().replace("nan or", "")


@pytest.mark.parametrize("check", [BOUNDS, MC, GAP, OOD, CONSTANT, SIGN])
def test_without_a_scale_nothing_is_judged_in_it(check: Check) -> None:
    finding = ask_of(check, NO_SCALE, mc_return=0 * G)
    assert finding.verdict == "not applicable"
    assert "All rewards" in finding.meaning
    assert finding.value is None


def test_constant_rewards_still_bound_values() -> None:
    facts = ReturnFacts(1.0, 1.0, 1.0, 10.0, 0.0, math.nan, math.nan, math.nan, 0.0)
    unknown = torch.full_like(G, math.nan)
    fine = ask_of(BOUNDS, facts, mc_return=unknown, q_data=1 + G, q_policy=1 + G)
    high = ask_of(BOUNDS, facts, mc_return=unknown, q_data=1 + G, q_policy=12 + G)
    assert (fine.verdict, high.verdict) == ("ok", "fail")
    assert ask_of(MC, facts, mc_return=unknown).verdict == "not applicable"


@pytest.mark.parametrize("check", ALL)
def test_no_verdict_depends_on_the_units_of_the_reward(check: Check) -> None:
    """All columns and facts a thousand times larger: the same verdicts and shares of S."""
    bad = answers(q_policy=G + 5, q_random=G - 13, td_error=TAIL, disagreement_policy=0 * G + 0.4)
    facts = ReturnFacts(**{name: 1000 * value for name, value in vars(FACTS).items()})
    for columns in (answers(), bad):
        scaled = {name: 1000 * column for name, column in columns.items()}
        one, thousand = check(columns, FACTS, LIMITS), check(scaled, facts, LIMITS)
        assert one.verdict == thousand.verdict
        if check is not SIGN:
            assert one.value == pytest.approx(thousand.value, rel=1e-9)


def test_the_bias_against_monte_carlo_has_an_interval_and_skips_unknown_returns() -> None:
    error = torch.linspace(-1, 3, 100, dtype=torch.float64)
    togo = some(G, 50, math.nan)
    finding = ask_of(MC, q_data=some(G + error, 50, 1e6), mc_return=togo)
    known = error[50:].numpy() / 4
    half = 1.96 * known.std(ddof=1) / np.sqrt(50)
    assert finding.value == pytest.approx(known.mean())
    assert finding.interval == pytest.approx((known.mean() - half, known.mean() + half))
    assert "expected when the policy improves on the data" in finding.meaning


def test_the_rank_correlation_is_that_of_the_ranks() -> None:
    q = torch.tensor([1.0, 1.0, 3.0, 8.0])
    togo = torch.tensor([2.0, 0.0, 7.0, 5.0])
    ranks = np.corrcoef([1.5, 1.5, 3, 4], [2, 1, 4, 3])[0, 1]
    assert q_sanity.rank_correlation(q, togo) == pytest.approx(ranks)
    assert q_sanity.rank_correlation(q, torch.ones(4)) is None


# Trends.


def series(values: Sequence[float], step: float = 100.0) -> list[tuple[float, float]]:
    return [(step * (i + 1), value) for i, value in enumerate(values)]


def test_drift_is_the_slope_per_ten_thousand_updates_in_shares_of_s() -> None:
    finding = q_learning.q_drift(series([1, 1.5, 2, 2.5, 3]), FACTS, LIMITS)
    assert finding.value == pytest.approx(0.5 / 100 * 1e4 / 4)
    x, y = np.arange(1, 7) * 100, np.array([1, 3, 2, 5, 4, 9.0])
    finding = q_learning.q_drift(series(list(y)), FACTS, LIMITS)
    assert finding.value == pytest.approx(1e4 * np.polyfit(x, y, 1)[0] / 4)


@pytest.mark.parametrize(
    ("values", "step", "verdict"),
    [
        ([0, 1, 3, 7, 15, 31], 1000.0, "fail"),
        ([0, 16, 24, 28, 30, 31], 1000.0, "ok"),  # as fast, but slowing: a critic that learns
        ([0, 0.001, 0.003, 0.007, 0.015, 0.031], 1000.0, "ok"),
        ([0, -1, -3, -7, -15, -31], 1000.0, "ok"),
        ([0, 1, 3, 7], 1000.0, "not applicable"),
        ([0, 1, 3, 7, 15, 31], 10.0, "not applicable"),  # all but none within the burn-in
        ([0.0] * 100 + [2.0**i for i in range(8)], 1000.0, "fail"),  # late
    ],
)
def test_drift_fails_where_growth_is_fast_and_speeds_up(
    values: list[float], step: float, verdict: str
) -> None:
    assert q_learning.q_drift(series(values, step), FACTS, LIMITS).verdict == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0, 1, 2, 1.5, 1.5], "watch"),
        ([0, 1, 2, 1.7, 1.7], "ok"),  # fell by 0.075 S
        ([0, -1, -2, -3, -4], "ok"),  # negative rewards: it never rose
        ([0, 1, 2, 3, 4], "ok"),
        ([0, 1, 2, 0], "not applicable"),
    ],
)
def test_cql_overfits_where_values_have_passed_their_peak(
    values: list[float], verdict: str
) -> None:
    finding = q_learning.cql_trend(series(values), FACTS, LIMITS)
    assert finding.verdict == verdict
    products = series([1, 1, 1, 1, 2][: len(values)])
    rises = q_learning.q_coadaptation(products, series(values), FACTS, LIMITS)
    assert rises.verdict == ("watch" if verdict == "watch" else "ok")
    level = q_learning.q_coadaptation(
        series([1, 1, 1, 1, 1][: len(values)]), series(values), FACTS, LIMITS
    )
    assert level.verdict == "ok"


def test_trends_without_a_scale_are_not_judged() -> None:
    for finding in (
        q_learning.q_drift(series([0, 1, 3, 7, 15]), NO_SCALE, LIMITS),
        q_learning.cql_trend(series([0, 1, 2, 1, 0]), NO_SCALE, LIMITS),
    ):
        assert finding.verdict == "not applicable"


# Weights and features.


@pytest.mark.parametrize(
    ("advantage", "verdict", "word"),
    [
        (torch.linspace(-0.3, 0.3, 100), "ok", ""),
        (some(torch.zeros(100), 15, 9.0), "watch", "lower `inverse_temperature`"),  # clipped
        (some(torch.zeros(100), 4, 9.0), "watch", "lower `inverse_temperature`"),  # few rows
        (torch.full((100,), -0.5), "watch", "raise `inverse_temperature` with `expectile`"),
        (torch.linspace(-0.3, 0.0, 100), "watch", "raise `inverse_temperature` with `expectile`"),
        (torch.zeros(100), "ok", ""),  # V and Q have not learned yet
    ],
)
def test_weights_of_the_policy_loss_are_neither_few_nor_flat(
    advantage: Tensor, verdict: str, word: str
) -> None:
    finding = q_learning.awr_weights(advantage, 3.0, LIMITS)
    assert finding.verdict == verdict
    assert word in finding.advice
    weight = np.minimum(np.exp(3 * advantage.numpy().astype(float)), 100)
    assert finding.value == pytest.approx(weight.mean(), rel=1e-5)


def test_the_effective_rank_counts_singular_values() -> None:
    g = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(20, 6, generator=g))[0] for _ in range(2))
    sizes = torch.tensor([50.0, 30.0, 15.0, 3.0, 1.5, 0.5])
    features = left @ sizes.diag() @ right.T
    assert [q_learning.effective_rank(features, share) for share in (0.45, 0.9, 0.97, 0.99)] == [
        1,
        3,
        4,
        5,
    ]
    assert q_learning.effective_rank(torch.zeros(5, 3)) == 0
    assert q_learning.q_rank(torch.zeros(5, 3)).verdict == "ok"


@pytest.mark.parametrize("hidden", [(7,), (7, 6), (7, 6, 5)])
def test_features_are_the_first_critics_last_hidden_layer(hidden: tuple[int, ...]) -> None:
    obs, action = torch.randn(4, 3), torch.rand(4, 2)
    network = QNetwork(3, 2, hidden, n_critics=2)
    features = critic_features(network, obs, action)
    assert features is not None
    assert features.shape == (4, hidden[-1])
    weight, bias = network.trunk.members()[0][-1]
    p = reference_params(nn.ModuleDict({"q": network}))
    expected = critic(p, "q", obs.double(), action.double(), 0)
    torch.testing.assert_close((features @ weight + bias)[:, 0].double(), expected.detach())

    discrete = DiscreteQNetwork(3, 4, hidden, n_critics=2)
    features = critic_features(discrete, obs, action)
    assert features is not None
    weight, bias = discrete.net.members()[0][-1]
    p = reference_params(nn.ModuleDict({"q": discrete}))
    expected = ensemble_mlp(p, "q.net", obs.double(), 0)
    torch.testing.assert_close((features @ weight + bias).double(), expected.detach())
    assert critic_features(nn.Linear(3, 1), obs, action) is None


# What a critic is asked.


class Formula:
    """Q_j(s, a) = j + s·a and π(s) = s / 2, in training scale."""

    discount = 0.5

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.stack([j + (obs * action).sum(-1) for j in (1.0, 4.0)])

    def act(self, obs: Tensor) -> Tensor:
        return obs / 2

    def v(self, obs: Tensor) -> Tensor:
        return obs.sum(-1)


def probe(m: int = 6) -> Probe:
    g = torch.Generator().manual_seed(1)
    return Probe(
        obs=torch.randn(m, 2, generator=g),
        action=torch.rand(m, 2, generator=g),
        reward=torch.randn(m, generator=g),
        next_obs=torch.randn(m, 2, generator=g),
        terminated=torch.tensor([0.0, 1.0] * (m // 2)),
        mc_return=torch.randn(m, generator=g),
        start_obs=torch.randn(3, 2, generator=g),
        start_return=torch.randn(3, generator=g),
    )


def test_answers_are_in_raw_scale_and_take_the_smallest_critic() -> None:
    rows = probe()
    others = random_actions(rows, None, seed=0)
    assert others.shape == (10, 6, 2)
    assert others.abs().max() <= 1
    assert others.min() < -0.9
    assert others.max() > 0.9
    columns = ask(Formula(), rows, others, reward_scale=4.0)
    s, a, s2 = (x.double() for x in (rows.obs, rows.action, rows.next_obs))
    q, q2 = 1 + (s * a).sum(-1), 1 + s2.square().sum(-1) / 2
    q_others = 1 + (s * others.double()).sum(-1)  # (10, 6)

    def close(actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)

    close(columns["q_data"], q / 4)
    close(columns["q_policy"], (1 + s.square().sum(-1) / 2) / 4)
    close(columns["q_random"], q_others.mean(0) / 4)
    close(columns["std_random"], torch.from_numpy(q_others.numpy().std(0)) / 4)
    close(columns["lse_gap"], q_others.exp().mean(0).log() - q)
    target = rows.reward.double() + 0.5 * (1 - rows.terminated) * q2 / 4
    close(columns["td_error"], target - q / 4)
    close(columns["advantage"], q - s.sum(-1))
    spread = torch.tensor([1.0, 4.0]).std().item() / 4
    close(columns["disagreement_policy"], torch.full_like(q, spread))
    starts = 1 + rows.start_obs.double().square().sum(-1) / 2
    close(start_values(Formula(), rows.start_obs, 4.0), starts / 4)
    assert len(start_values(Formula(), rows.start_obs[:0], 4.0)) == 0


def test_all_discrete_actions_stand_in_for_random_ones() -> None:
    rows = replace(probe(), action=torch.zeros(6, dtype=torch.long))
    assert torch.equal(random_actions(rows, 3, seed=0), torch.arange(3)[:, None].expand(3, 6))


def test_features_reach_the_columns() -> None:
    network = QNetwork(2, 2, (5,), n_critics=1)
    critic = Formula()
    critic.q = network  # type: ignore[attr-defined]
    rows = probe()
    columns = ask(critic, rows, random_actions(rows, None, 0), 1.0)
    weights = [network.obs_layer.weight[0], network.action_layer.weight[0]]
    bias = network.obs_layer.bias

    def features(obs: Tensor, action: Tensor) -> Tensor:
        assert bias is not None
        return F.relu(torch.cat([obs, action], -1) @ torch.cat(weights) + bias[0])

    expected = features(rows.obs, rows.action)
    torch.testing.assert_close(columns["feature_2"], expected[:, 2])
    following = features(rows.next_obs, rows.next_obs / 2)
    torch.testing.assert_close(columns["feature_product"], (expected * following).sum(1))


def test_a_small_gap_is_not_rounded_to_nothing() -> None:
    assert "valued -0.001 S above" in ask_of(OOD, q_random=G + 0.004).meaning
    assert "valued 0.001 S above" in ask_of(GAP, q_policy=G + 0.004).meaning
