"""Anytime-valid tests: their bets against integrals, their alarms against chance."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from lit_offrl.online.monitor.sequential import (
    POWERS,
    ConformalTest,
    Cusum,
    MeanTest,
    Wealth,
    fewest_episodes,
    first_passage,
    mean_bets,
    power_bets,
    visible_drop,
)

ALARM = 20.0


def test_bets_on_a_uniform_p_value_are_fair() -> None:
    for j in range(len(POWERS)):
        expected, _ = quad(lambda p, j=j: power_bets(p)[j], 0, 1)
        assert expected == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mean", [0.3, 0.45, 0.6])
def test_bets_on_a_mean_within_the_interval_are_not_expected_to_win(mean: float) -> None:
    low, high = mean_bets(0.0, (0.3, 0.6), (0.0, 1.0)), mean_bets(1.0, (0.3, 0.6), (0.0, 1.0))
    expected = (1 - mean) * low + mean * high  # of a coin with this mean
    assert (expected <= 1 + 1e-12).all()
    assert (low > 0).all() and (high > 0).all()
    assert expected[:5].max() == pytest.approx(1) if mean == 0.3 else expected[:5].max() < 1
    assert expected[5:].max() == pytest.approx(1) if mean == 0.6 else expected[5:].max() < 1


def test_a_number_that_is_known_in_part_bets_as_its_worst() -> None:
    part, low, high = (MeanTest((0.3, 0.6), (0.0, 1.0)) for _ in range(3))
    for _ in range(50):
        part.add(0.2, 0.7)
        low.add(0.2)
        high.add(0.7)
    assert part.wealth.log_peak == 0 < min(low.wealth.log_peak, high.wealth.log_peak)


def test_bets_on_a_mean_outside_of_the_interval_are_expected_to_win() -> None:
    for mean, side in ((0.2, slice(0, 5)), (0.8, slice(5, 10))):
        bets = [mean_bets(x, (0.3, 0.6), (0.0, 1.0))[side] for x in (0.0, 1.0)]
        assert ((1 - mean) * bets[0] + mean * bets[1] > 1).all()


def test_numbers_beyond_the_bounds_cannot_ruin() -> None:
    assert np.array_equal(
        mean_bets(99.0, (0.3, 0.6), (0.0, 1.0)), mean_bets(1.0, (0.3, 0.6), (0.0, 1.0))
    )


def test_wealth_is_conserved_by_bets_that_neither_win_nor_lose() -> None:
    wealth = Wealth(3)
    for _ in range(50):
        wealth.bet(np.ones(3))
    assert wealth.path == pytest.approx([0.0] * 50, abs=1e-12)
    wealth.skip()
    assert len(wealth.path) == 51


def test_a_share_of_the_wealth_is_kept_for_later() -> None:
    wealth = Wealth(2)
    wealth.bet(np.zeros(2))
    assert math.exp(wealth.log) == pytest.approx(0.5 * 0.98)
    assert math.exp(wealth.log_peak) == 1


def test_the_average_wealth_under_exchangeability_is_one() -> None:
    rng = np.random.default_rng(0)
    final = []
    for seed in range(4000):
        test = ConformalTest(rng.normal(size=5).tolist(), seed=seed)
        for x in rng.normal(size=3):
            test.add(float(x))
        final.append(math.exp(test.wealth.log))
    assert np.mean(final) == pytest.approx(1, abs=4 * np.std(final) / 4000**0.5)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_few_of_many_unchanged_streams_alarm(two_sided: bool, ties: bool) -> None:
    rng, alarms = np.random.default_rng(1), 0
    for seed in range(200):
        draw = rng.integers(0, 3, 80).astype(float) if ties else rng.normal(size=80)
        test = ConformalTest(draw[:30].tolist(), two_sided, seed)
        for x in draw[30:]:
            test.add(float(x))
        alarms += first_passage(test.wealth.path, ALARM) is not None
    assert alarms <= 16  # 10 expected at most; 16 or fewer with a probability of 97 %


@pytest.mark.parametrize("mean", [0.4, 0.5])
def test_few_of_many_streams_as_predicted_alarm(mean: float) -> None:
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(200):
        test = MeanTest((0.4, 0.5), (0.0, 1.0))
        for x in rng.random(100) < mean:
            test.add(float(x))
        alarms += first_passage(test.wealth.path, ALARM) is not None
    assert alarms <= 16


def test_a_late_change_is_found() -> None:
    rng = np.random.default_rng(3)
    test = ConformalTest(rng.normal(size=100).tolist())
    for x in [*rng.normal(size=150), *(3 + rng.normal(size=15))]:
        test.add(float(x))
    after = first_passage(test.wealth.path, ALARM)
    assert after is not None and 150 < after <= 160


def test_p_values_rank_a_score_among_all_before_it() -> None:
    test = ConformalTest([1.0, 2.0, 3.0])
    first, second = test.add(9.0), test.add(9.5)
    assert 0 < first <= 1 / 4 and 0 < second <= 1 / 5
    assert 3 / 6 <= test.add(2.5) <= 4 / 6
    assert 6 / 7 <= test.add(0.0) <= 1


def test_a_two_sided_test_minds_small_scores() -> None:
    tests = [ConformalTest(list(np.arange(50.0)), two_sided) for two_sided in (False, True)]
    for test in tests:
        for _ in range(20):
            test.add(-1.0)
    assert tests[0].wealth.log_peak < math.log(2)
    assert tests[1].wealth.log_peak > math.log(ALARM)


def test_fewest_episodes_grow_as_calibration_shrinks() -> None:
    fewest = [fewest_episodes(n, 120) for n in (1000, 100, 40)]
    assert None not in fewest and fewest == sorted(fewest, key=lambda n: n or 0)
    assert fewest_episodes(3, 120) is None
    test = ConformalTest(list(np.arange(100.0)), seed=5)
    for k in range(20):
        test.add(100.0 + k % 3)
    after = first_passage(test.wealth.path, 120)
    assert after is not None and abs(after - (fewest[1] or 0)) <= 3


def alarmed(test: MeanTest | ConformalTest, numbers: np.ndarray) -> bool:
    for x in numbers:
        test.add(float(x))
    return first_passage(test.wealth.path, ALARM) is not None


def test_the_visible_drop_is_the_smallest_that_alarms() -> None:
    test, values = MeanTest((0.5, 0.6), (0.0, 1.0)), np.array([0.5, 0.5])
    drop = visible_drop(test, values, 30, ALARM)
    assert drop is not None
    for shift, alarms in ((drop, True), (drop - 0.005, False)):
        stream = MeanTest(test.interval, test.bounds)
        assert alarmed(stream, np.full(30, 0.5 - shift)) == alarms
    assert visible_drop(test, values, 2, ALARM) is None
    assert visible_drop(test, values, 0, ALARM) is None


@pytest.mark.parametrize("kind", ["mean", "conformal"])
def test_a_drop_that_would_have_shown_does_show(kind: str) -> None:
    rng = np.random.default_rng(4)
    known = rng.beta(2, 8, 150)  # in the order of the log: its best episodes first
    known = np.sort(known)[::-1]

    def fresh() -> MeanTest | ConformalTest:
        if kind == "conformal":
            return ConformalTest(known.tolist(), two_sided=True)
        return MeanTest((0.5, 0.52), (0.0, 1.0))

    center = 0.5 if kind == "mean" else known.mean()
    drop = visible_drop(fresh(), known, 40, ALARM)
    assert drop is not None and drop > 0.05
    again = [rng.choice(known, 40) - known.mean() + center for _ in range(40)]
    assert np.mean([alarmed(fresh(), new - 1.5 * drop) for new in again]) > 0.8
    assert np.mean([alarmed(fresh(), new - 0.5 * drop) for new in again]) < 0.5


def test_nothing_would_show_where_the_spread_alone_alarms() -> None:
    test, values = MeanTest((0.5, 0.5), (0.4, 1.0)), np.array([0.0, 1.0] * 20)
    assert visible_drop(test, values[:20] * 0.1, 40, 1.0) is None  # any wealth alarms
    assert visible_drop(ConformalTest([1.0] * 5, two_sided=True), np.ones(5), 40, ALARM) is None


def test_cusum_is_page_s_recursion() -> None:
    cusum = Cusum(mean=10.0, std=2.0)
    for x in (12.0, 12.0, 4.0, 4.0, 4.0):
        cusum.add(x)
    assert cusum.path == pytest.approx([0.5, 1.0, -2.5, -5.0, -7.5])
    assert cusum.crossed == 5
    assert Cusum(0.0, 1.0).crossed is None
