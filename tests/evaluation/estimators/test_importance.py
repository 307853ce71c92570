from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.estimators.importance import (
    clipped_returns,
    importance_sampling,
    per_decision,
    per_decision_returns,
    weighted_importance_sampling,
    weighted_per_decision,
    weighted_returns,
)
from tests.algorithms.chain5 import DISCOUNT, Array
from tests.evaluation.estimators.chain5_log import (
    BETA,
    J_PI,
    V_PI,
    Log,
    estimates,
    every_episode,
    simulate,
    value_within,
)

Estimator = Callable[..., Array]
IS, WIS = importance_sampling, weighted_importance_sampling
PDIS, WPDIS = per_decision, weighted_per_decision
ALL: tuple[Estimator, ...] = (IS, WIS, PDIS, WPDIS)
NAMED: dict[str, Estimator] = {"IS": IS, "WIS": WIS, "PDIS": PDIS, "WPDIS": WPDIS}
SELF_NORMALIZED: tuple[Estimator, ...] = (WIS, WPDIS)
BIASED = 0.05
"""A mean over 300 logs of Chain-5 further from J(π) is biased, by 4 standard errors or more."""


def random_log(n: int = 7, steps: int = 5, seed: int = 0) -> tuple[Array, Array]:
    """Log-ratios and rewards of episodes that end at different times."""
    rng = np.random.default_rng(seed)
    alive = np.arange(steps) < rng.integers(1, steps + 1, size=(n, 1))
    return rng.normal(size=(n, steps)) * alive, rng.normal(size=(n, steps)) * alive


@cache
def logs(n: int) -> list[Log]:
    rng = np.random.default_rng(n)
    return [log for _ in range(10) for log in simulate(30 * n, rng).split(30)]


@cache
def all_estimates(n: int) -> dict[str, Array]:
    rows = [estimates(log) for log in logs(n)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def by_hand(name: str, log_ratio: Array, reward: Array) -> float:
    """Plain products and loops, as the definitions are written."""
    n, steps = reward.shape
    w = np.cumprod(np.exp(log_ratio), axis=1)
    g = [sum(DISCOUNT**t * reward[i, t] for t in range(steps)) for i in range(n)]
    if name in ("IS", "WIS"):
        norm = n if name == "IS" else float(sum(w[i, -1] for i in range(n)))
        return float(sum(w[i, -1] * g[i] for i in range(n))) / norm
    total = 0.0
    for t in range(steps):
        norm = n if name == "PDIS" else float(sum(w[i, t] for i in range(n)))
        total += DISCOUNT**t * float(sum(w[i, t] * reward[i, t] for i in range(n))) / norm
    return total


@pytest.mark.parametrize(("name", "estimator"), list(NAMED.items()))
def test_each_estimator_is_its_definition(name: str, estimator: Estimator) -> None:
    log_ratio, reward = random_log()
    assert estimator(log_ratio, reward, DISCOUNT) == pytest.approx(
        by_hand(name, log_ratio, reward), rel=1e-12
    )


@pytest.mark.parametrize("estimator", ALL)
def test_each_estimator_has_the_exact_value_for_expectation(estimator: Estimator) -> None:
    log, chance, _ = every_episode(horizon=4)
    answer = estimator(log.log_ratio, log.reward, DISCOUNT, counts=chance)
    assert answer == pytest.approx([value_within(4)[3]], abs=1e-13)


@pytest.mark.parametrize("estimator", ALL)
def test_counts_stand_for_repeated_episodes(estimator: Estimator) -> None:
    log_ratio, reward = random_log()
    counts = np.array([[0, 3, 1, 0, 2, 1, 0], [1, 1, 1, 1, 1, 1, 1]])
    expected = [
        float(estimator(np.repeat(log_ratio, row, 0), np.repeat(reward, row, 0), DISCOUNT))
        for row in counts
    ]
    assert estimator(log_ratio, reward, DISCOUNT, counts) == pytest.approx(expected, rel=1e-12)
    single = estimator(log_ratio, reward, DISCOUNT, counts[0])
    assert single.shape == () and single == pytest.approx(expected[0], rel=1e-12)


def test_what_episodes_add_averages_to_the_estimate() -> None:
    log_ratio, reward = random_log()
    assert weighted_returns(log_ratio, reward, 0.9).mean() == IS(log_ratio, reward, 0.9)
    assert per_decision_returns(log_ratio, reward, 0.9).mean() == PDIS(log_ratio, reward, 0.9)


def test_per_decision_equals_whole_episodes_where_only_the_last_step_pays() -> None:
    log = logs(50)[0]
    last = np.where(log.next_obs() == 5, log.reward, 0.0)
    assert PDIS(log.log_ratio, last, DISCOUNT) == IS(log.log_ratio, last, DISCOUNT)
    assert PDIS(log.log_ratio, log.reward, DISCOUNT) != IS(log.log_ratio, log.reward, DISCOUNT)


@pytest.mark.parametrize("estimator", ALL)
def test_the_behavior_policy_has_the_mean_return(estimator: Estimator) -> None:
    _, reward = random_log()
    mean = (reward * DISCOUNT ** np.arange(5)).sum(1).mean()
    assert estimator(np.zeros_like(reward), reward, DISCOUNT) == pytest.approx(mean, rel=1e-14)


@pytest.mark.parametrize("estimator", ALL)
def test_estimates_scale_with_the_reward(estimator: Estimator) -> None:
    log_ratio, reward = random_log()
    scaled = estimator(log_ratio, -4 * reward, DISCOUNT)
    assert scaled == -4 * estimator(log_ratio, reward, DISCOUNT)


def test_weighted_sampling_stays_within_the_returns_and_plain_does_not() -> None:
    for seed in range(20):
        log_ratio, reward = random_log(seed=seed)
        returns = (reward * DISCOUNT ** np.arange(5)).sum(1)
        answer = float(WIS(3 * log_ratio, reward, DISCOUNT))
        assert returns.min() - 1e-12 <= answer <= returns.max() + 1e-12
    outside = float(IS(np.full((1, 1), 1.0), np.ones((1, 1)), DISCOUNT))
    assert outside == pytest.approx(np.e)


def test_long_episodes_do_not_underflow() -> None:
    log_ratio = np.full((3, 2000), -0.5)
    log_ratio[:, 0] += [0.0, 1.0, 2.0]  # log-weights around -1000: exp of them is 0
    reward = np.ones((3, 2000)) * [[1.0], [2.0], [4.0]]
    share = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    expected = share @ [1.0, 2.0, 4.0] * 2000
    assert WIS(log_ratio, reward, 1.0) == pytest.approx(expected, rel=1e-12)
    assert WPDIS(log_ratio, reward, 1.0) == pytest.approx(expected, rel=1e-12)
    assert IS(log_ratio, reward, 1.0) == 0.0


@pytest.mark.parametrize("estimator", [IS, PDIS])
def test_weights_beyond_float64_are_refused_by_plain_averages_alone(estimator: Estimator) -> None:
    log_ratio, reward = np.ones((2, 2000)), np.ones((2, 2000))
    with pytest.raises(NotApplicableError, match="e\\^2000, too large to average: clip"):
        estimator(log_ratio, reward, 0.9)
    assert WIS(log_ratio, reward, 0.9) == pytest.approx(10.0)
    with pytest.raises(NotApplicableError, match="e\\^360"):  # leaves no room for squares
        estimator([[360.0], [0.0]], [[1.0], [1.0]], 0.9)


@pytest.mark.parametrize("estimator", SELF_NORMALIZED)
def test_a_resample_without_the_heavy_episodes_is_exact(estimator: Estimator) -> None:
    log_ratio = np.array([[0.0, 0.0], [-900.0, 0.0], [-901.0, 0.0]])
    reward = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 5.0]])
    counts = [[1, 1, 1], [0, 1, 1], [0, 2, 4], [0, 0, 3]]
    ratio = np.exp(-1.0)
    expected = [1.0, (2 + 5 * ratio) / (1 + ratio), (4 + 20 * ratio) / (2 + 4 * ratio), 5.0]
    assert estimator(log_ratio, reward, 1.0, counts) == pytest.approx(expected, rel=1e-14)


def test_an_action_that_the_policy_never_takes_ends_an_episodes_weight() -> None:
    log_ratio = np.array([[0.0, -np.inf, 2.0], [0.0, 0.0, 0.0]])
    reward = np.array([[1.0, 10.0, 10.0], [3.0, 4.0, 5.0]])
    assert IS(log_ratio, reward, 1.0) == (0 + 12) / 2
    assert WIS(log_ratio, reward, 1.0) == 12
    assert PDIS(log_ratio, reward, 1.0) == (1 + 12) / 2
    assert WPDIS(log_ratio, reward, 1.0) == (1 + 3) / 2 + 4 + 5


@pytest.mark.parametrize("estimator", ALL)
def test_an_evaluation_without_weight_is_refused_in_words(estimator: Estimator) -> None:
    log_ratio, reward = np.zeros((3, 2)), np.ones((3, 2))
    log_ratio[:, 1] = -np.inf
    with pytest.raises(NotApplicableError, match="in each of the 3 episodes: all weights are 0"):
        estimator(log_ratio, reward, 1.0)


@pytest.mark.parametrize("estimator", SELF_NORMALIZED)
def test_a_resample_without_weight_is_refused_in_words(estimator: Estimator) -> None:
    log_ratio = np.array([[0.0], [-np.inf]])
    with pytest.raises(NotApplicableError, match="Only 1 of 2 episodes"):
        estimator(log_ratio, np.ones((2, 1)), 1.0, [[1, 1], [0, 2]])
    late = np.array([[0.0, 0.0], [0.0, -np.inf]])
    with pytest.raises(NotApplicableError, match="Only 1 of 2 episodes"):
        estimator(late, np.ones((2, 2)), 1.0, [[0, 2]])


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize(
    ("log_ratio", "reward", "discount", "counts", "message"),
    [
        ([[np.inf]], [[1.0]], 1.0, None, "behavior probability 0"),
        ([[np.nan]], [[1.0]], 1.0, None, "behavior probability 0"),
        ([0.0], [1.0], 1.0, None, "shape"),
        ([[0.0]], [[1.0, 2.0]], 1.0, None, "`reward` has shape"),
        ([[0.0]], [[np.nan]], 1.0, None, "`reward` holds NaN"),
        ([[0.0]], [[1.0]], 1.5, None, "`discount` is 1.5"),
        ([[0.0]], [[1.0]], 1.0, [[1, 1]], "`counts` has shape"),
        ([[0.0]], [[1.0]], 1.0, [[-1]], "counts >= 0"),
        ([[0.0]], [[1.0]], 1.0, [[0]], "draw no episode"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    estimator: Estimator,
    log_ratio: object,
    reward: object,
    discount: float,
    counts: object,
    message: str,
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        estimator(log_ratio, reward, discount, counts)
    assert "\n" not in str(caught.value)


def test_tensors_are_taken_like_arrays() -> None:
    log_ratio, reward = random_log()
    tensors = torch.from_numpy(log_ratio), torch.from_numpy(reward)
    assert WPDIS(*tensors, 0.9) == WPDIS(log_ratio, reward, 0.9)


def test_clipped_returns_are_bounded_and_their_mean_lies_below_the_value() -> None:
    log, chance, _ = every_episode(horizon=4)
    value, lowest, highest = value_within(4)[3], -0.4, 0.9
    means = []
    for clip in (0.5, 2.0, 100.0):
        values = clipped_returns(log.log_ratio, log.reward, DISCOUNT, clip, lowest)
        assert values.min() >= lowest and values.max() <= lowest + clip * (highest - lowest)
        means.append(float(chance[0] @ values))
    assert means[0] < means[1] < means[2] == pytest.approx(value, abs=1e-13)
    with pytest.raises(InputError, match="lower `lowest`"):
        clipped_returns(log.log_ratio, log.reward, DISCOUNT, 2.0, lowest=0.0)


def test_errors_on_chain5_are_those_of_the_exact_value() -> None:
    found = all_estimates(500)
    expected = {"IS": 0.038, "WIS": 0.036, "PDIS": 0.067, "DR": 0.018, "WDR": 0.018}
    for name, rmse in expected.items():
        error = np.sqrt(np.mean((found[name] - J_PI) ** 2))
        assert error == pytest.approx(rmse, rel=0.25), name
    assert found["PDIS"].std() == pytest.approx(0.066, rel=0.25)
    assert found["WPDIS"].std() == pytest.approx(0.042, rel=0.25)


@pytest.mark.parametrize("n", [50, 500])
def test_no_estimator_is_biased_on_chain5(n: int) -> None:
    for name, values in all_estimates(n).items():
        assert abs(values.mean() - J_PI) < BIASED, name


@pytest.mark.parametrize("n", [50, 500])
def test_normalizing_over_running_episodes_only_is_biased(n: int) -> None:
    answers = []
    for log in logs(n):
        w = np.where(log.alive, np.exp(np.cumsum(log.log_ratio, 1)), 0.0)
        mean = (w * log.reward).sum(0) / w.sum(0)
        answers.append(mean @ DISCOUNT ** np.arange(mean.size))
    assert np.mean(answers) - J_PI > 1


def test_a_value_of_the_next_state_weighed_over_all_steps_is_biased() -> None:
    answers = []
    for log in logs(500):
        ratio = np.where(log.alive, np.exp(log.log_ratio), 0.0)
        next_v = np.append(V_PI, 0.0)[log.next_obs()]
        answers.append((ratio * (log.reward + DISCOUNT * next_v)).sum() / ratio.sum())
    assert np.mean(answers) == pytest.approx(0.375, abs=0.005)
    assert abs(np.mean(answers) - J_PI) > BIASED


def test_the_simulated_episodes_are_those_of_chain5() -> None:
    log = simulate(20_000, np.random.default_rng(0))
    returns = (log.reward * DISCOUNT ** np.arange(log.reward.shape[1])).sum(1)
    assert returns.mean() == pytest.approx(-0.533021, abs=4 * returns.std() / 20_000**0.5)
    assert log.action[log.alive].mean() == pytest.approx(BETA[0, 1], abs=0.005)
