import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.diagnosis.gap import (
    Estimand,
    Gap,
    bootstrapped_returns,
    check_estimand,
    episode_spread,
    offline_online_gap,
)
from lit_offrl.evaluation.diagnosis.gap_episodes import Terms, count_outside, play_numbers
from lit_offrl.evaluation.diagnosis.gap_findings import (
    critic_finding,
    distrusted,
    estimate_finding,
    gap_finding,
    reward_range_finding,
    without_episodes,
)
from lit_offrl.evaluation.estimate import Estimate, inapplicable
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.ranking import rank_quality
from lit_offrl.evaluation.raw_policy import RawPolicy
from lit_offrl.evaluation.rollout import evaluate
from tests.evaluation.fakes import Actor, identity_scaling, spec_of_env

TERMS = Terms(discount=0.9, reward_shift=0.0, limit=None, logged_rewards=(0.0, 1.0))


def around(mean: float, std: float, n: int = 50) -> Any:
    """A sample with exactly this mean and standard deviation."""
    x = np.random.default_rng(0).standard_normal(n)
    return mean + std * (x - x.mean()) / x.std(ddof=1)


@pytest.mark.parametrize(
    ("offline", "online", "gauge", "relative"),
    [
        (130.0, 100.0, "OPTIMISTIC", 0.3),
        (70.0, 100.0, "PESSIMISTIC", -0.3),  # online above offline: it promised too little
        (102.0, 100.0, "CALIBRATED", 0.02),
        (111.0, 100.0, "INCONCLUSIVE", 0.11),
        (-70.0, -100.0, "OPTIMISTIC", 0.3),
        (-130.0, -100.0, "PESSIMISTIC", -0.3),
        (-99.0, -100.0, "CALIBRATED", 0.01),
        (10.0, 0.0, "OPTIMISTIC", 0.25),  # of the spread: the returns are 0
        (-10.0, 0.0, "PESSIMISTIC", -0.25),
    ],
)
def test_the_gauge_follows_the_sign_and_the_interval(
    offline: float, online: float, gauge: str, relative: float
) -> None:
    spread = 40.0
    gap = offline_online_gap(around(offline, 5), around(online, 5), spread)
    assert (gap.gauge, gap.n_episodes) == (gauge, 50)
    assert gap.relative == pytest.approx(relative)
    assert gap.optimism == pytest.approx(offline - online)
    assert (gap.offline, gap.online) == pytest.approx((offline, online))
    # both sides vary: 1.96 sqrt(2 · 5² / 50) / scale, and J_on in the denominator
    scale = max(abs(online), spread)
    half = 1.96 * math.sqrt(2) * 5 / math.sqrt(50) / scale
    assert gap.interval == pytest.approx((relative - half, relative + half), abs=0.3 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for seed in range(200):
        offline, online = rng.normal(12, 3, 60), rng.normal(10, 2, 40)
        low, high = offline_online_gap(offline, online, 1.0, level=0.9, seed=seed).interval
        covered += low <= 0.2 <= high
    assert 0.84 <= covered / 200 <= 0.95


def test_margins_belong_to_calibrated() -> None:
    gap = offline_online_gap([11.0, 11.0], [10.0, 10.0], 1.0)
    assert gap.interval == pytest.approx((0.1, 0.1))
    assert offline_online_gap([10.9], [10.0, 10.0], 1.0).gauge == "CALIBRATED"
    assert offline_online_gap([11.1], [10.0, 10.0], 1.0).gauge == "OPTIMISTIC"
    assert offline_online_gap([11.1], [10.0, 10.0], 1.0, margin=0.2).gauge == "CALIBRATED"
    assert offline_online_gap([8.9], [10.0, 10.0], 1.0).gauge == "PESSIMISTIC"


def test_an_estimate_brings_its_standard_error() -> None:
    estimate = Estimate("FQE", "FQE", 130.0, std_error=2.0)
    gap = offline_online_gap(estimate, [100.0] * 30, 40.0)
    assert gap.gauge == "OPTIMISTIC"
    half = 1.96 * 2 / 100
    assert gap.interval == pytest.approx((0.3 - half, 0.3 + half), abs=0.1 * half)


def test_order_does_not_matter() -> None:
    offline, online = around(12, 3), around(10, 2)
    one = offline_online_gap(offline, online, 1.0)
    assert offline_online_gap(offline[::-1], np.roll(online, 7), 1.0) == one
    assert offline_online_gap(offline, online, 1.0, seed=1) != one


def test_so_many_more_episodes_do_settle_it() -> None:
    offline = Estimate("FQE", "FQE", 14.0, std_error=0.05)
    gap = offline_online_gap(offline, around(10, 20), 1.0)
    assert gap.gauge == "INCONCLUSIVE"
    # z · (14 / 10²) · 20 / sqrt(n) and 0.05 / 10 fit into 0.4 - 0.1
    allowed = (0.3 / 1.95996) ** 2 - 0.005**2
    assert gap.more_episodes == math.ceil((0.14 * 20) ** 2 / allowed) - 50 == 285
    assert offline_online_gap(offline, around(10, 20, 335), 1.0).gauge == "OPTIMISTIC"
    # with returns small against the spread an episode counts by 1 / S
    gap = offline_online_gap([5.0], around(0, 20), 10.0)
    assert gap.more_episodes == math.ceil(4.0 / (0.4 / 1.95996) ** 2) - 50


def test_an_uncertain_offline_value_is_never_settled() -> None:
    unsure = Estimate("FQE", "FQE", 14.0, std_error=3.0)
    assert offline_online_gap(unsure, around(10, 1), 1.0).more_episodes is None
    on_margin = offline_online_gap([11.0], around(10, 20), 1.0)
    assert (on_margin.gauge, on_margin.more_episodes) == ("INCONCLUSIVE", None)


@pytest.mark.parametrize(
    ("offline", "online", "match"),
    [
        ([], [1.0, 2.0], "offline side"),
        ([1.0], [1.0], "online side of the gap needs at least 2"),
        ([math.nan], [1.0, 2.0], "0 of them finite"),
        ([1.0], [1.0, math.inf], "1 of them finite"),
        ([1.0], [0.0, 0.0], "what is much"),
        (Estimate("WIS", "importance sampling", 1.0), [1.0, 2.0], "no standard error"),
        (inapplicable("WIS", "importance sampling", "No."), [1.0, 2.0], "no value"),
    ],
)
def test_what_cannot_be_compared_is_refused(offline: Any, online: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        offline_online_gap(offline, online, 0.0)


@pytest.mark.parametrize(
    ("field", "other"),
    [("discount", 1.0), ("reward_shift", -1.0), ("reward_scale", 10.0), ("starts", "the log's")],
)
def test_different_estimands_are_not_compared(field: str, other: Any) -> None:
    online = Estimand(0.99)
    check_estimand(Estimand(0.99), online)
    with pytest.raises(InputError, match=f"`{field}`"):
        check_estimand(Estimand(**{"discount": 0.99, field: other}), online)


# What the two sides are made of.


def test_the_spread_is_that_of_discounted_episode_returns() -> None:
    n, length = 101, 2
    reward = np.stack([np.arange(n), np.full(n, 10.0)], 1).astype(np.float32).ravel()
    rows = n * length
    flags = np.zeros(rows, np.bool_)
    obs = np.zeros((rows, 1), np.float32)
    transitions = Transitions(obs, obs, reward, obs, flags, flags, np.repeat(np.arange(n), length))
    assert episode_spread(transitions, 0.5) == pytest.approx(90.0)  # i + 5: P95 - P5 of i


def test_returns_are_bootstrapped_where_a_limit_cut_them_off() -> None:
    rewards = [np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0])]
    values = np.array([100.0, 1000.0])
    found = bootstrapped_returns(rewards, values, 0.5, limit=3, reward_shift=1.0)
    np.testing.assert_allclose(found, [2 + 1.5 + 25.0, 2 + 1.5])
    plain = bootstrapped_returns(rewards, values, 0.5, limit=None)
    np.testing.assert_allclose(plain, [1 + 1 + 1, 1 + 1])


@pytest.mark.parametrize("num_envs", [2, 16])
def test_played_numbers_are_those_of_the_episodes(num_envs: int) -> None:
    spec = spec_of_env("Pendulum-v1", max_episode_steps=20)
    seen: list[Tensor] = []

    def act(obs: Tensor) -> Tensor:
        seen.append(obs)
        return obs[:, 2:].tanh()

    policy = RawPolicy(Actor(act), spec, identity_scaling(spec))
    terms = Terms(0.9, 0.5, 20, (-3.0, 0.0))
    valued: list[Tensor] = []

    def value(obs: Tensor) -> Tensor:
        valued.append(obs)
        return obs[:, 2]

    numbers = play_numbers(policy, value, terms, range(7, 10), num_envs)
    alone = [evaluate(policy, spec, 1, seed) for seed in range(7, 10)]
    rewards = [rollouts.rewards[0] for rollouts in alone]
    (last,) = valued
    np.testing.assert_allclose(
        numbers["plain"], [r @ 0.9 ** np.arange(20) for r in rewards], rtol=1e-5
    )
    expected = [
        (r[:-1] + 0.5) @ 0.9 ** np.arange(19) + 0.9**19 * v
        for r, v in zip(rewards, last[:, 2].tolist(), strict=True)
    ]
    np.testing.assert_allclose(numbers["bootstrapped"], expected, rtol=1e-5)
    np.testing.assert_allclose(numbers["low"], [r.min() for r in rewards], rtol=1e-5)
    np.testing.assert_allclose(numbers["high"], [r.max() for r in rewards], rtol=1e-4)
    np.testing.assert_array_equal(numbers["steps"], [20, 20, 20])
    np.testing.assert_array_equal(numbers["outside"], [(r < -3.3).sum() for r in rewards])
    assert numbers["outside"].sum() > 0
    # the last observation acted on, of each environment, alone in the calls of `evaluate`
    ends = torch.cat(seen[-60:][19::20])
    torch.testing.assert_close(last, ends, rtol=1e-4, atol=1e-5)

    cut = play_numbers(policy, None, terms, range(7, 10), num_envs)
    np.testing.assert_allclose(
        cut["bootstrapped"], [(r + 0.5) @ 0.9 ** np.arange(20) for r in rewards], rtol=1e-5
    )


def test_rewards_count_as_outside_beyond_a_tenth_of_the_range() -> None:
    assert count_outside(np.array([-0.09, 0.5, 1.09]), (0.0, 1.0)) == 0
    assert count_outside(np.array([-0.11, 0.5, 1.11]), (0.0, 1.0)) == 2
    assert count_outside(np.array([1.0, 1.1]), (1.0, 1.0)) == 1


# Words.


def gap(gauge: Any, more: int | None = None, n: int = 50) -> Gap:
    return Gap(13.0, 10.0, 3.0, 0.3, (0.2, 0.4), gauge, more, n)


@pytest.mark.parametrize(
    ("gauge", "verdict", "critic", "estimate"),
    [
        ("OPTIMISTIC", "fail", "raise `cql_alpha`", "support"),
        ("PESSIMISTIC", "watch", "lower `cql_alpha`", "support"),
        ("CALIBRATED", "ok", "", ""),
        ("INCONCLUSIVE", "watch", "No number", "No number"),
    ],
)
def test_each_gauge_has_its_verdict_and_each_side_its_remedy(
    gauge: str, verdict: str, critic: str, estimate: str
) -> None:
    for name, advice in (("gap_critic", critic), ("gap_ope", estimate)):
        finding = gap_finding(name, gap(gauge))
        assert (finding.name, finding.verdict) == (name, verdict)
        assert (finding.value, finding.interval) == (0.3, (0.2, 0.4))
        assert advice in finding.advice
        assert bool(finding.advice) == (gauge != "CALIBRATED")
        assert "13" in finding.meaning and "50 episodes return 10" in finding.meaning
        assert "+30.0% off, between +20.0% and +40.0%" in finding.meaning
        assert gauge in finding.meaning
    assert "cql_alpha" not in gap_finding("gap_ope", gap(gauge)).advice


def test_missing_episodes_are_counted_and_few_are_mentioned() -> None:
    assert "Play 7 more" in gap_finding("gap_critic", gap("INCONCLUSIVE", 7)).advice
    assert "too narrow" in gap_finding("gap_critic", gap("CALIBRATED", n=19)).meaning
    assert "too narrow" not in gap_finding("gap_critic", gap("CALIBRATED", n=20)).meaning


def test_a_time_limit_that_matters_is_named() -> None:
    limited = Terms(0.99, 0.0, 200, (0.0, 1.0))
    finding = critic_finding(around(10, 1), around(10, 1), 1.0, limited)
    assert "limit of 200 steps weighs 13%" in finding.meaning
    assert "limit" not in critic_finding(around(10, 1), around(10, 1), 1.0, TERMS).meaning


def test_what_is_missing_is_not_applicable() -> None:
    assert critic_finding(None, around(1, 1), 1.0, TERMS).verdict == "not applicable"
    zero = critic_finding(np.zeros(3), np.zeros(3), 0.0, TERMS)
    assert zero.verdict == "not applicable" and "what is much" in zero.meaning
    alone = without_episodes(around(10.0, 5.0), "no environment")
    assert alone.verdict == "not applicable"
    assert "promises 10 ± 1.4 from 50" in alone.meaning
    assert "no environment" in alone.meaning
    assert "No critic" in without_episodes(None, "no environment").meaning
    assert "± 0 " in without_episodes(np.ones(1), "no environment").meaning


def test_only_valid_estimates_of_the_same_discount_are_compared() -> None:
    returns = around(10, 1)

    def judged(**changed: Any) -> Finding:
        values: dict[str, Any] = {"value": 20.0, "std_error": 0.1, **changed}
        return estimate_finding(Estimate("FQE", "FQE", **values), returns, 1.0, TERMS)

    assert judged().verdict == judged(details={"discount": 0.9}).verdict == "fail"
    assert "It is FQE's." in judged().meaning
    other = judged(details={"discount": 0.99})
    assert other.verdict == "not applicable" and "`discount`" in other.meaning
    dropped = judged(status="dropped", reason="few episodes")
    assert (dropped.verdict, dropped.meaning) == (
        "not applicable",
        "FQE is dropped: few episodes.",
    )
    assert "standard error" in judged(std_error=None).meaning


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.1, "ok"), (0.11, "watch"), (0.9, "watch"), (0.91, "fail")]
)
def test_rewards_of_another_range_withdraw_the_gap(share: float, verdict: str) -> None:
    paid = reward_range_finding(share, (-1.0, 50.0), (0.0, 1.0))
    assert (paid.verdict, paid.value) == (verdict, share)
    assert "-1 to 50" in paid.meaning and "0 to 1" in paid.meaning
    found = [paid, Finding("gap_critic", "ok", "", value=0.0)]
    if verdict == "fail":
        assert [f.verdict for f in distrusted(found)] == ["fail", "not applicable"]
    else:
        assert distrusted(found) == found


# Several policies.


def test_ranks_are_scored_by_order_and_by_the_chosen_policy() -> None:
    returns = [-5.0, -3.0, -1.0, 0.0]
    perfect = rank_quality([1, 2, 3, 4], returns)
    assert perfect.spearman == pytest.approx(1)
    assert perfect.regret == 0
    reverse = rank_quality([4, 3, 2, 1], returns)
    assert reverse.spearman == pytest.approx(-1)
    assert reverse.regret == 1
    swapped = rank_quality([1, 2, 4, 3], returns)  # 1 - 6 Σ d² / n (n² - 1)
    assert swapped.spearman == pytest.approx(0.8)
    assert swapped.regret == pytest.approx(0.2)
    assert swapped.interval[0] < 0.8 <= swapped.interval[1]
    assert perfect.interval == pytest.approx((1, 1))
    assert rank_quality([10, 20, 40, 30], returns) == swapped


def test_ranks_without_an_order_are_refused() -> None:
    few: list[tuple[list[float], list[float]]] = [
        ([1, 2], [1, 2]),
        ([1, 2, 3], [1, 2]),
        ([1, 2, math.nan], [1, 2, 3]),
    ]
    for estimates, returns in few:
        with pytest.raises(InputError, match="3 or more"):
            rank_quality(estimates, returns)
    few = [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 1, 1])]
    for estimates, returns in few:
        with pytest.raises(InputError, match="no order"):
            rank_quality(estimates, returns)
