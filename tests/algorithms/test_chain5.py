"""Fixed points of the algorithms on Chain-5 against its exact solutions."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq

from lit_offrl.algorithms.discrete_bcq import DiscreteBCQ
from lit_offrl.algorithms.discrete_cql import DiscreteCQL
from lit_offrl.algorithms.discrete_iql import DiscreteIQL
from lit_offrl.algorithms.dqn import DQN
from tests.algorithms import chain5
from tests.algorithms.solving import minimize_exactly, solve_fixed_point

Array = NDArray[np.float64]
Algorithm = DQN | DiscreteCQL | DiscreteIQL | DiscreteBCQ

SETTINGS = {"obs_dim": 5, "action_dim": 2, "hidden": (), "discount": chain5.DISCOUNT}
STATES = torch.eye(5, dtype=torch.float64)
BETA = chain5.constant_policy(0.6)
BEST = 0.306436848481  # J*


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def q_table(algorithm: Algorithm) -> Array:
    return algorithm.action_values(STATES).detach()[0].numpy()


def conservative_q(cql_alpha: float, **changes: object) -> Array:
    """Q̂ of CQL, (5, 2)."""
    algorithm = DiscreteCQL(**SETTINGS, cql_alpha=cql_alpha, **changes).double()  # type: ignore[arg-type]
    batch = chain5.exact_batch(6)
    solve_fixed_point(algorithm, batch, [algorithm.q], q=algorithm.q, target_q=algorithm.target_q)
    return q_table(algorithm)


def implicit(expectile: float, tenths_right: int = 6) -> DiscreteIQL:
    """IQL whose V and Q are at their fixed point."""
    algorithm = DiscreteIQL(**SETTINGS, expectile=expectile).double()  # type: ignore[arg-type]
    batch = chain5.exact_batch(tenths_right)
    nets = [algorithm.v, algorithm.q]
    solve_fixed_point(algorithm, batch, nets, q=algorithm.q, target_q=algorithm.target_q)
    return algorithm


def constrained(tenths_right: int, bcq_threshold: float) -> DiscreteBCQ:
    """BCQ whose G and Q are at their fixed point."""
    algorithm = DiscreteBCQ(**SETTINGS, bcq_threshold=bcq_threshold).double()  # type: ignore[arg-type]
    batch = chain5.exact_batch(tenths_right)
    minimize_exactly(algorithm, batch, algorithm.behavior)
    solve_fixed_point(algorithm, batch, [algorithm.q], q=algorithm.q, target_q=algorithm.target_q)
    return algorithm


def value_of(actions: list[int]) -> float:
    """J of a deterministic policy."""
    return chain5.start_value(chain5.policy_value(np.eye(2)[actions]))


def test_the_exact_solutions_are_those_on_record() -> None:
    pi = chain5.policy_value(chain5.constant_policy(0.9))
    np.testing.assert_allclose(pi, [0.111679, 0.247217, 0.421206, 0.614804, 0.825131], atol=1e-6)
    assert chain5.start_value(pi) == pytest.approx(0.179447687564)
    assert chain5.start_value(chain5.policy_value(BETA)) == pytest.approx(-0.533020913087)
    assert chain5.start_value(chain5.optimal_q().max(1)) == pytest.approx(BEST)
    assert value_of([1] * 5) == pytest.approx(BEST)
    assert value_of([0] * 5) == pytest.approx(-1.9993, abs=1e-6)


@pytest.mark.parametrize("tenths_right", [6, 1])
def test_the_batch_is_the_exact_distribution(tenths_right: int) -> None:
    batch = chain5.exact_batch(tenths_right)
    assert len(batch.reward) == 500
    for s in range(5):
        in_state = batch.obs.argmax(-1) == s
        assert in_state.sum() == 100
        assert (in_state & (batch.action == 1)).sum() == 10 * tenths_right
    right_at_end = (batch.obs.argmax(-1) == 4) & (batch.action == 1)
    assert batch.terminated[right_at_end].mean().item() == pytest.approx(0.9)
    assert set(batch.reward[batch.terminated.bool()].tolist()) == {0.9}


@pytest.mark.parametrize("double", [False, True])
def test_dqn_finds_the_optimal_values(double: bool) -> None:
    algorithm = DQN(**SETTINGS, double=double).double()  # type: ignore[arg-type]
    batch = chain5.exact_batch(6)
    solve_fixed_point(algorithm, batch, [algorithm.q], q=algorithm.q, target_q=algorithm.target_q)
    np.testing.assert_allclose(q_table(algorithm), chain5.optimal_q(), atol=1e-6)
    assert algorithm.act(STATES).tolist() == [1] * 5


CLONING = {0.0: 0.00690, 0.01: 0.00684, 0.1: 0.00630, 1.0: 0.00324, 10.0: 0.00022, 1000.0: 0.0}


def test_cql_becomes_behavior_cloning_as_alpha_grows() -> None:
    divergences = []
    for cql_alpha, expected in CLONING.items():
        q = conservative_q(cql_alpha)
        pi = chain5.softmax(q)
        divergences.append((pi * np.log2(pi / BETA)).sum(1).mean())
        assert divergences[-1] == pytest.approx(expected, abs=1e-5)
    assert np.all(np.diff(divergences) < 0)
    assert q[4, 1] - q[4, 0] == pytest.approx(np.log(0.6 / 0.4), abs=1e-3)


def test_without_a_penalty_cql_finds_the_optimal_values() -> None:
    np.testing.assert_allclose(conservative_q(0.0), chain5.optimal_q(), atol=1e-6)


def test_cql_with_max_backup_is_not_a_lower_bound() -> None:
    # An anti-test: the bound of theorem 3.2 is not about this backup, nobody may claim it.
    top = chain5.start_value(conservative_q(1.0).max(1))
    assert top == pytest.approx(0.566, abs=1e-3)
    assert top > BEST


@pytest.mark.parametrize(
    ("cql_alpha", "slack"), [(0.01, -0.00030), (0.1, -0.00267), (1.0, -0.01028)]
)
def test_cql_with_soft_backup_bounds_the_value_of_its_softmax_policy(
    cql_alpha: float, slack: float
) -> None:
    q = conservative_q(cql_alpha, backup="soft_pi")
    pi = chain5.softmax(q)
    excess = (pi * q).sum(1) - chain5.policy_value(pi)
    assert np.all(excess <= 0)
    assert excess.max() == pytest.approx(slack, abs=1e-5)


def test_without_a_penalty_the_soft_backup_gives_the_value_of_its_softmax_policy() -> None:
    q = conservative_q(0.0, backup="soft_pi")
    v = chain5.policy_value(chain5.softmax(q))
    np.testing.assert_allclose(q, chain5.action_values(v), atol=1e-6)


IMPLICIT_V = {
    (6, 0.5): [-0.59669188, -0.46934995, -0.23823936, 0.08898597, 0.5155054],
    (6, 0.7): [-0.10489514, 0.03320967, 0.23449603, 0.47475163, 0.7475039],
    (6, 0.9): [0.15560227, 0.28989328, 0.45721613, 0.64103003, 0.83932426],
    (6, 0.99): [0.23330317, 0.36468687, 0.51927114, 0.68568152, 0.86327431],
    (6, 0.999): [0.24016027, 0.3712415, 0.52464381, 0.68951717, 0.86532009],
    (1, 0.5): [-1.98852161, -1.98516536, -1.96553814, -1.86604869, -1.37365193],
    (1, 0.7): [-1.91912471, -1.90304425, -1.83909853, -1.62947944, -0.97353343],
    (1, 0.9): [-0.98263747, -0.87554668, -0.65009238, -0.28254254, 0.26579229],
    (1, 0.99): [0.1357375, 0.27062619, 0.44101189, 0.62925821, 0.83296588],
    (1, 0.999): [0.23072554, 0.36222094, 0.5172471, 0.68423533, 0.86250252],
}


@pytest.mark.parametrize(("tenths_right", "expectile"), IMPLICIT_V)
def test_iql_values_are_the_expectiles_on_record(tenths_right: int, expectile: float) -> None:
    v = implicit(expectile, tenths_right).v(STATES).detach().numpy()
    np.testing.assert_allclose(v, IMPLICIT_V[tenths_right, expectile], atol=1e-6)
    assert chain5.start_value(v) < BEST  # even where the expectile is nearly the maximum
    if expectile == 0.5:
        beta = chain5.constant_policy(tenths_right / 10)
        np.testing.assert_allclose(v, chain5.policy_value(beta), atol=1e-6)


@pytest.mark.parametrize(
    ("expectile", "value"),
    [(0.5, 0.0805), (0.7, 0.0066), (0.9, -0.064), (0.99, -0.090), (0.999, -0.093)],
)
def test_at_a_fixed_temperature_iqls_policy_gets_worse_as_the_expectile_rises(
    expectile: float, value: float
) -> None:
    algorithm = implicit(expectile)
    minimize_exactly(algorithm, chain5.exact_batch(6), algorithm.policy)
    pi = algorithm.policy(STATES).probs.detach().numpy()
    assert chain5.start_value(chain5.policy_value(pi)) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
    ("tenths_right", "bcq_threshold"), [(6, 0.0), (6, 0.3), (6, 0.6), (6, 1.0), (1, 0.0)]
)
def test_bcq_goes_right_with_the_optimal_values_where_right_is_in_the_support(
    tenths_right: int, bcq_threshold: float
) -> None:
    algorithm = constrained(tenths_right, bcq_threshold)
    actions = algorithm.act(STATES).tolist()
    assert actions == [1] * 5
    assert value_of(actions) == pytest.approx(BEST)
    np.testing.assert_allclose(q_table(algorithm), chain5.optimal_q(), atol=1e-6)


def huber_minimum(values: list[float], probabilities: list[float]) -> float:
    """``argmin_q E Huber(q - y)``."""
    y, p = np.array(values), np.array(probabilities)
    return float(brentq(lambda q: (p * np.clip(q - y, -1, 1)).sum(), y.min() - 1, y.max() + 1))


def test_bcq_goes_left_where_right_is_too_rare_in_the_data() -> None:
    algorithm = constrained(1, 0.3)
    actions = algorithm.act(STATES).tolist()
    assert actions == [0] * 5
    assert value_of(actions) == pytest.approx(-1.9993, abs=1e-6)
    # At the end of the chain targets differ by more than Huber's 1, so Q is not quite their mean.
    v = np.zeros(6)
    for _ in range(200):
        q = np.zeros((5, 2))
        for s in range(5):
            for a in range(2):
                p, n, r = zip(*chain5.outcomes(s, a), strict=True)
                y = [x + chain5.DISCOUNT * v[k] for x, k in zip(r, n, strict=True)]
                q[s, a] = huber_minimum(y, list(p))
        v[:5] = q[:, 0]
    np.testing.assert_allclose(q_table(algorithm), q, atol=1e-4)
