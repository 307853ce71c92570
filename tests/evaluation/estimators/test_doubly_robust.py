from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.estimators import importance as ips
from lit_offrl.evaluation.estimators.doubly_robust import (
    doubly_robust,
    doubly_robust_returns,
    least_squares_on_simplex,
    magic,
    weighted_doubly_robust,
    with_tail,
)
from tests.algorithms.chain5 import DISCOUNT, Array
from tests.evaluation.estimators.chain5_log import (
    J_PI,
    PI,
    Q_PI,
    V_PI,
    every_episode,
    fitted_values,
    simulate,
    value_within,
)

Estimator = Callable[..., Array]
BOTH: tuple[Estimator, ...] = (doubly_robust, weighted_doubly_robust)
WRONG_Q = np.random.default_rng(3).normal(size=(5, 2))
WRONG_V = (PI * WRONG_Q).sum(1)


def random_log(n: int = 7, steps: int = 5, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Log-ratios, rewards, Q̂ and V̂ of episodes that end at different times."""
    rng = np.random.default_rng(seed)
    alive = np.arange(steps) < rng.integers(1, steps + 1, size=(n, 1))
    log_ratio, reward, q, v = rng.normal(size=(4, n, steps)) * alive
    return log_ratio, reward, q, v


def by_hand(log: tuple[Array, Array, Array, Array], weighted: bool) -> float:
    """Sum ``γ^t [w_t (r_t − Q̂_t) + w_{t−1} V̂_t]``, term by term as it is written."""
    log_ratio, reward, q, v = log
    n, steps = reward.shape
    w = np.cumprod(np.exp(log_ratio), axis=1)
    total = 0.0
    for t in range(steps):
        now = w[:, t] / (w[:, t].sum() if weighted else n)
        before = np.full(n, 1 / n) if t == 0 else w[:, t - 1]
        if t > 0:
            before = before / (before.sum() if weighted else n)
        for i in range(n):
            explained = now[i] * (reward[i, t] - q[i, t]) + before[i] * v[i, t]
            total += DISCOUNT**t * float(explained)
    return total


@pytest.mark.parametrize("weighted", [False, True])
def test_each_estimator_is_its_definition(weighted: bool) -> None:
    log = random_log()
    assert BOTH[weighted](*log, DISCOUNT) == pytest.approx(by_hand(log, weighted), rel=1e-12)


@pytest.mark.parametrize("estimator", BOTH)
def test_counts_stand_for_repeated_episodes(estimator: Estimator) -> None:
    log = random_log()
    counts = np.array([[0, 3, 1, 0, 2, 1, 0], [1, 1, 1, 1, 1, 1, 1]])
    expected = [
        float(estimator(*(np.repeat(column, row, 0) for column in log), DISCOUNT)) for row in counts
    ]
    assert estimator(*log, DISCOUNT, counts) == pytest.approx(expected, rel=1e-12)


def test_without_a_model_they_are_per_decision_sampling() -> None:
    log_ratio, reward, _, _ = random_log()
    zero = np.zeros_like(reward)
    plain, weighted = (estimator(log_ratio, reward, zero, zero, DISCOUNT) for estimator in BOTH)
    assert plain == pytest.approx(float(ips.per_decision(log_ratio, reward, DISCOUNT)), rel=1e-12)
    wpdis = float(ips.weighted_per_decision(log_ratio, reward, DISCOUNT))
    assert weighted == pytest.approx(wpdis, rel=1e-12)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_wrong_model_leaves_the_expectation_exact(estimator: Estimator) -> None:
    log, chance, _ = every_episode(horizon=4)
    model = log.of(WRONG_Q), log.of(WRONG_V)
    answer = estimator(log.log_ratio, log.reward, *model, DISCOUNT, counts=chance)
    assert answer == pytest.approx([value_within(4)[3]], abs=1e-13)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_tail_makes_truncated_episodes_estimate_the_whole_return(estimator: Estimator) -> None:
    log, chance, end = every_episode(horizon=3)
    v = with_tail(log.of(WRONG_V), log.alive.sum(1), np.append(V_PI, 0.0)[end])
    answer = estimator(log.log_ratio, log.reward, log.of(WRONG_Q), v, DISCOUNT, counts=chance)
    assert answer == pytest.approx([V_PI[3]], abs=1e-13)
    cut = estimator(log.log_ratio, log.reward, log.of(WRONG_Q), v[:, :3], DISCOUNT, counts=chance)
    assert abs(cut - V_PI[3]) > 0.1


def test_an_exact_model_of_deterministic_moves_leaves_no_variance_but_that_of_the_start() -> None:
    log = simulate(30, np.random.default_rng(0), slip=0.0)
    v, q = np.zeros(6), np.zeros((5, 2))
    for _ in range(2000):  # each move goes where it is told to
        after = np.stack([v[np.maximum(np.arange(5) - 1, 0)], v[1:]], 1)
        q = np.where(np.arange(10).reshape(5, 2) == 9, 0.9, -0.1) + DISCOUNT * after
        v[:5] = (PI * q).sum(1)
    returns = doubly_robust_returns(log.log_ratio, log.reward, log.of(q), log.of(v[:5]), DISCOUNT)
    assert returns == pytest.approx(v[log.obs[:, 0]], abs=1e-9)
    assert np.ptp(returns) > 0.01


def test_a_model_halves_the_error_of_sampling_on_chain5() -> None:
    log = simulate(2000, np.random.default_rng(0))
    returns = doubly_robust_returns(log.log_ratio, log.reward, *fitted_values(log), DISCOUNT)
    sampled = ips.per_decision_returns(log.log_ratio, log.reward, DISCOUNT)
    assert returns.std() < sampled.std() / 2


def j_step_return(log: tuple[Array, Array, Array, Array], j: int) -> float:
    """WDR's weights on rewards until step j, then the model's value (paper's definition)."""
    log_ratio, reward, q, v = log
    n = len(reward)
    w = np.hstack([np.ones((n, 1)), np.cumprod(np.exp(log_ratio), axis=1)])
    w = w / w.sum(0)  # w[:, t + 1] is the weight of step t
    total = DISCOUNT ** (j + 1) * float(w[:, j + 1] @ np.pad(v, ((0, 0), (0, 1)))[:, j + 1])
    for t in range(j + 1):
        control = w[:, t + 1] @ q[:, t] - w[:, t] @ v[:, t]
        total += DISCOUNT**t * float(w[:, t + 1] @ reward[:, t] - control)
    return total


def test_magic_blends_the_j_step_returns() -> None:
    log = random_log(n=40, steps=6)
    blend = magic(*log, DISCOUNT)
    assert blend.steps == (0, 1, 2, 3, 4, 5, 6)
    assert min(blend.share) >= 0 and sum(blend.share) == pytest.approx(1.0)
    returns = [j_step_return(log, steps - 1) for steps in blend.steps]
    assert returns[-1] == pytest.approx(float(weighted_doubly_robust(*log, DISCOUNT)))
    assert blend.value == pytest.approx(float(np.dot(blend.share, returns)), rel=1e-12)
    assert 0 < blend.std_error < 2 * returns_std_error(log)


def test_magic_of_two_returns_has_the_closed_form_weights() -> None:
    log_ratio, reward, _, v = random_log(n=40, steps=1)
    q = 0.5 * reward
    v = v - v.mean() + float(ips.weighted_importance_sampling(log_ratio, reward, 1.0))
    blend = magic(log_ratio, reward, q, v, 1.0)
    w = np.exp(log_ratio) / np.exp(log_ratio).sum()
    parts = np.hstack([v / 40, v / 40 + w * (reward - q)])
    m = 40 * np.cov(parts.T)  # of a sum of 40 rows; neither return has bias
    right = (m[0, 0] - m[0, 1]) / (m[0, 0] + m[1, 1] - 2 * m[0, 1])
    x = np.array([1 - right, right])
    assert blend.share == pytest.approx(tuple(x), rel=1e-9) and 0.05 < right < 0.95
    assert blend.std_error == pytest.approx(float(np.sqrt(x @ m @ x)))


def returns_std_error(log: tuple[Array, Array, Array, Array]) -> float:
    counts = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=500)
    return float(weighted_doubly_robust(*log, DISCOUNT, counts).std())


def test_magic_thins_the_steps_of_long_episodes_and_keeps_both_ends() -> None:
    blend = magic(*random_log(n=10, steps=300), DISCOUNT, n_returns=12)
    assert blend.steps[0] == 0 and blend.steps[-1] == 300 and 8 <= len(blend.steps) <= 12


def test_magic_trusts_a_right_model_and_leaves_a_wrong_one() -> None:
    log = simulate(300, np.random.default_rng(0))
    plain = log.log_ratio, log.reward
    right = magic(*plain, log.of(Q_PI), log.of(V_PI), DISCOUNT)
    wrong = magic(*plain, log.of(Q_PI + 3), log.of(V_PI + 3), DISCOUNT)
    assert right.share[0] > 0.9 and right.value == pytest.approx(J_PI, abs=0.01)
    assert wrong.share[0] < 0.1 and wrong.value < J_PI + 1


def test_magic_of_one_episode_is_refused_in_words() -> None:
    with pytest.raises(NotApplicableError, match="2 episodes or more"):
        magic(*random_log(n=1), DISCOUNT)


def test_magic_of_equal_episodes_is_their_value() -> None:
    log_ratio, reward, q, v = (column.repeat(3, 0) for column in random_log(n=1, steps=4))
    blend = magic(log_ratio, reward, q, v, DISCOUNT)
    wdr = float(weighted_doubly_robust(log_ratio, reward, q, v, DISCOUNT))
    assert blend.value == pytest.approx(wdr)
    assert blend.std_error == pytest.approx(0, abs=1e-12)


def test_the_blend_is_the_minimum_over_the_simplex() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        a = rng.normal(size=(12, 5)) * rng.uniform(0.1, 3, size=5) + rng.normal(size=(12, 1))
        found = minimize(
            lambda x, a=a: np.sum((a @ x) ** 2),
            np.full(5, 0.2),
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert least_squares_on_simplex(a) == pytest.approx(found.x, abs=1e-4)
    assert least_squares_on_simplex(np.zeros((3, 4))).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("estimator", BOTH)
def test_wrong_input_is_refused(estimator: Estimator) -> None:
    log_ratio, reward, q, v = random_log()
    with pytest.raises(InputError, match="`q` has shape"):
        estimator(log_ratio, reward, q[:, 1:], v, DISCOUNT)
    with pytest.raises(InputError, match="`v` has shape"):
        estimator(log_ratio, reward, q, v[:, 1:], DISCOUNT)
    with pytest.raises(InputError, match="or holds NaN"):
        estimator(log_ratio, reward, q, v * np.nan, DISCOUNT)
    with pytest.raises(NotApplicableError, match="all weights are 0"):
        estimator(log_ratio - np.inf, reward, q, v, DISCOUNT)


def test_long_episodes_do_not_underflow() -> None:
    log_ratio = np.full((3, 2000), -0.5)
    log_ratio[:, 0] += [0.0, 1.0, 2.0]
    reward = np.ones((3, 2000)) * [[1.0], [2.0], [4.0]]
    zero = np.zeros_like(reward)
    share = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    answer = weighted_doubly_robust(log_ratio, reward, zero, zero, 1.0)
    assert answer == pytest.approx(share @ [1.0, 2.0, 4.0] * 2000, rel=1e-12)
