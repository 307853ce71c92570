"""The guide's toy data set: an action never seen in a state, and what becomes of it.

State 1 shows left (rewards 5 and 4) and right (3 and 2), state 2 shows wait (10 and 9); every
transition terminates. Waiting in state 1 would cost 100, which the data do not say.
"""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from lit_offrl.algorithms.discrete_bcq import DiscreteBCQ
from lit_offrl.algorithms.discrete_cql import DiscreteCQL
from lit_offrl.algorithms.discrete_iql import DiscreteIQL
from lit_offrl.algorithms.dqn import DQN
from lit_offrl.batch import Batch
from lit_offrl.targets import target_copy
from tests.algorithms.helpers import run_updates
from tests.algorithms.solving import minimize_exactly, solve_fixed_point

LEFT, RIGHT, WAIT = 0, 1, 2
STATES = torch.eye(2, dtype=torch.float64)
FIRST = STATES[:1]
STATE = torch.tensor([0, 0, 0, 0, 1, 1])
ACTION = torch.tensor([LEFT, LEFT, RIGHT, RIGHT, WAIT, WAIT])
REWARD = torch.tensor([5.0, 4.0, 3.0, 2.0, 10.0, 9.0], dtype=torch.float64)
DATA = Batch(STATES[STATE], ACTION, REWARD, STATES[1 - STATE], torch.ones_like(REWARD))

# Features of (state, action): one for each pair, or one for the state and one for the action.
TABULAR = torch.eye(6, dtype=torch.float64).view(2, 3, 6)
ADDITIVE = torch.tensor(
    [[[s == 0, s == 1, a == 0, a == 1, a == 2] for a in range(3)] for s in range(2)],
    dtype=torch.float64,
)


class LinearQ(nn.Module):
    """``Q(s, a) = w · φ(s, a)`` from zero weights, with the face of DiscreteQNetwork."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features  # (S, A, F)
        self.weight = nn.Parameter(features.new_zeros(1, features.shape[-1]))

    def forward(self, obs: Tensor) -> Tensor:
        q: Tensor = torch.einsum("bs,saf,nf->nba", obs, self.features, self.weight)
        return q

    def quantiles(self, obs: Tensor) -> Tensor:
        return self.forward(obs).unsqueeze(-1)


def with_linear_q(
    algorithm: DQN | DiscreteCQL | DiscreteBCQ, features: Tensor
) -> DQN | DiscreteCQL | DiscreteBCQ:
    """Replace the Q network of an algorithm by a linear one."""
    algorithm.double()
    setattr(algorithm, "q", LinearQ(features))  # noqa: B010  # mypy knows the declared class
    algorithm.target_q = target_copy(algorithm.q)
    algorithm.optimize(algorithm.q, lr=0.05)
    return algorithm


def q_table(algorithm: DQN | DiscreteCQL | DiscreteBCQ) -> NDArray[np.float64]:
    return algorithm.action_values(STATES).detach()[0].numpy()


def test_tabular_dqn_from_zero_goes_left() -> None:
    algorithm = with_linear_q(DQN(2, 3), TABULAR)
    run_updates(algorithm, [DATA] * 300)
    assert algorithm.act(FIRST).item() == LEFT
    assert q_table(algorithm)[0, WAIT] == 0.0
    minimize_exactly(algorithm, DATA, algorithm.q)
    np.testing.assert_allclose(q_table(algorithm), [[4.5, 2.5, 0], [0, 0, 9.5]], atol=1e-6)


def test_dqn_on_additive_features_has_the_least_norm_solution_and_waits() -> None:
    # Descent from zero stays in the span of the features, so it ends in the least-norm minimum.
    algorithm = with_linear_q(DQN(2, 3), ADDITIVE)
    minimize_exactly(algorithm, DATA, algorithm.q)
    expected = [[4.5, 2.5, 85 / 12], [83 / 12, 59 / 12, 9.5]]
    np.testing.assert_allclose(q_table(algorithm), expected, atol=1e-6)
    assert algorithm.act(FIRST).item() == WAIT


def exact_cql_q(cql_alpha: float, *, huber: bool) -> NDArray[np.float64]:
    """Minimum of ``E [loss(Q - r) + α (log Σ exp Q - Q)]`` on additive features, by scipy."""
    phi, s, a, r = ADDITIVE.numpy(), STATE.numpy(), ACTION.numpy(), REWARD.numpy()

    def loss(w: NDArray[np.float64]) -> float:
        q = phi @ w
        u = q[s, a] - r
        square = u**2 / 2
        td = np.where(np.abs(u) <= 1, square, np.abs(u) - 0.5) if huber else square
        return float(np.mean(td + cql_alpha * (np.log(np.exp(q[s]).sum(1)) - q[s, a])))

    weights = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-7}).x
    return np.asarray(phi @ weights)


@pytest.mark.parametrize(
    ("cql_alpha", "expected"),
    [(0.1, [4.427, 2.573, 3.879]), (1.0, [4.021, 2.979, 3.630]), (5.0, [3.668, 3.332, 3.514])],
)
def test_cql_on_additive_features_goes_left(cql_alpha: float, expected: list[float]) -> None:
    np.testing.assert_allclose(exact_cql_q(cql_alpha, huber=False)[0], expected, atol=1e-3)
    algorithm = with_linear_q(DiscreteCQL(2, 3, cql_alpha=cql_alpha), ADDITIVE)
    minimize_exactly(algorithm, DATA, algorithm.q)
    assert algorithm.act(FIRST).item() == LEFT
    np.testing.assert_allclose(
        q_table(algorithm)[0], exact_cql_q(cql_alpha, huber=True)[0], atol=1e-4
    )
    if cql_alpha <= 1:  # errors stay within 1, where Huber's loss is half the squared error
        np.testing.assert_allclose(q_table(algorithm)[0], expected, atol=1e-3)


def share_that_waits(algorithm: DQN | DiscreteCQL, updates: int) -> float:
    """Share of the critics, trained on the data, whose greedy action in state 1 is to wait."""
    algorithm.double()
    run_updates(algorithm, [DATA] * updates)
    greedy = algorithm.action_values(FIRST)[:, 0].argmax(-1)  # (n,)
    return (greedy == WAIT).double().mean().item()


def networks(n: int) -> dict[str, Any]:
    """The guide's networks; all transitions terminate, so critics share no target: n seeds."""
    torch.manual_seed(0)
    return {"obs_dim": 2, "action_dim": 3, "hidden": (64, 64), "lr": 1e-3, "n_critics": n}


RUNS = [(5, 500), pytest.param(30, 1500, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("seeds", "updates"), RUNS)
def test_dqn_networks_wait_for_nine_in_ten_seeds(seeds: int, updates: int) -> None:
    assert share_that_waits(DQN(**networks(seeds)), updates) >= 0.9


@pytest.mark.parametrize(("seeds", "updates"), RUNS)
def test_cql_networks_never_wait(seeds: int, updates: int) -> None:
    assert share_that_waits(DiscreteCQL(**networks(seeds), cql_alpha=1.0), updates) == 0


@pytest.mark.parametrize(("expectile", "v"), [(0.5, 3.5), (0.7, 3.9), (0.9, 4.3), (0.99, 4.48)])
def test_iql_values_rise_with_the_expectile_and_its_policy_does_not_change(
    expectile: float, v: float
) -> None:
    algorithm = DiscreteIQL(2, 3, hidden=(), expectile=expectile).double()
    nets = [algorithm.v, algorithm.q]
    solve_fixed_point(algorithm, DATA, nets, q=algorithm.q, target_q=algorithm.target_q)
    assert algorithm.v(FIRST).item() == pytest.approx(v, abs=1e-6)
    minimize_exactly(algorithm, DATA, algorithm.policy)
    left, _, wait = algorithm.policy(FIRST).probs[0].tolist()
    assert left == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-6)
    assert left == pytest.approx(0.997527, abs=1e-6)
    assert wait == pytest.approx(0, abs=1e-6)


def test_bcq_masks_the_unseen_action_and_goes_left() -> None:
    algorithm = DiscreteBCQ(2, 3, hidden=(), bcq_threshold=0.3)
    with_linear_q(algorithm, ADDITIVE)
    minimize_exactly(algorithm, DATA, algorithm.behavior)
    minimize_exactly(algorithm, DATA, algorithm.q)
    assert q_table(algorithm)[0].argmax() == WAIT
    left, right, wait = algorithm.behavior(FIRST).probs[0].tolist()
    assert left == pytest.approx(right)
    assert wait < 0.1 * left
    assert algorithm.act(FIRST).item() == LEFT
