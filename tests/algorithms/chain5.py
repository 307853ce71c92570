"""Chain-5: a tabular MDP whose exact solutions the algorithms are compared with.

States 0 to 4, then the end; actions 0 = left and 1 = right; with probability 0.1 the opposite move
happens; a wall left of state 0; reward -0.1 per step and +1 more on the step to the end; γ = 0.95;
episodes start in state 0 or 1. Everything here is float64 NumPy and shares no code with lit_offrl.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from lit_offrl.batch import Batch

Array = NDArray[np.float64]

DISCOUNT = 0.95
N_STATES, N_ACTIONS = 5, 2
LEFT, RIGHT = 0, 1
START = np.array([0.5, 0.5, 0.0, 0.0, 0.0])


def outcomes(state: int, action: int) -> list[tuple[float, int, float]]:
    """Probability, next state (5 is the end) and reward of the two moves that can happen."""
    moves = ((0.9, action), (0.1, 1 - action))
    nexts = [(p, state + 1 if move == RIGHT else max(state - 1, 0)) for p, move in moves]
    return [(p, s, 0.9 if s == N_STATES else -0.1) for p, s in nexts]


def action_values(v: Array) -> Array:
    """``E [r + γ V(s')]``, (5, 2)."""
    padded = np.append(v, 0.0)
    return np.array(
        [
            [sum(p * (r + DISCOUNT * padded[n]) for p, n, r in outcomes(s, a)) for a in (0, 1)]
            for s in range(N_STATES)
        ]
    )


def policy_value(pi: Array) -> Array:
    """V^π, (5,), by a linear solve."""
    transition, reward = np.zeros((N_STATES, N_STATES)), np.zeros(N_STATES)
    for s in range(N_STATES):
        for a in range(N_ACTIONS):
            for p, n, r in outcomes(s, a):
                reward[s] += pi[s, a] * p * r
                if n < N_STATES:
                    transition[s, n] += pi[s, a] * p
    v = np.linalg.solve(np.eye(N_STATES) - DISCOUNT * transition, reward)
    return np.asarray(v, dtype=np.float64)


def fixed_point(backup: Callable[[Array], Array], q: Array | None = None) -> Array:
    """Iterate ``Q ← E [r + γ backup(Q)(s')]`` to convergence, (5, 2)."""
    q = np.zeros((N_STATES, N_ACTIONS)) if q is None else q
    for _ in range(1000):
        q = action_values(backup(q))
    return q


def optimal_q() -> Array:
    """Q*, (5, 2)."""
    return fixed_point(lambda q: q.max(1))


def constant_policy(right: float) -> Array:
    """The policy that goes right with the same probability everywhere, (5, 2)."""
    return np.tile([1 - right, right], (N_STATES, 1))


def start_value(v: Array) -> float:
    """Value of the start distribution."""
    return float(START @ v)


def exact_batch(tenths_right: int) -> Batch:
    """A float64 batch whose row counts are the exact distribution, 100 rows per state.

    Args:
        tenths_right: Times in ten that the behavior policy goes right.
    """
    rows: list[tuple[int, int, float, int]] = []
    for s in range(N_STATES):
        for a, tenths in ((LEFT, 10 - tenths_right), (RIGHT, tenths_right)):
            for p, n, r in outcomes(s, a):
                rows += [(s, a, r, n)] * round(10 * tenths * p)
    columns = zip(*rows, strict=True)
    state, action, reward, next_state = (torch.tensor(c, dtype=torch.float64) for c in columns)
    one_hot = torch.eye(N_STATES, dtype=torch.float64)
    terminated = next_state == N_STATES
    return Batch(
        obs=one_hot[state.long()],
        action=action.long(),
        reward=reward,
        # What follows the end must not matter: it is another state here, not zeros.
        next_obs=one_hot[next_state.masked_fill(terminated, 0).long()],
        terminated=terminated.double(),
    )


def softmax(q: Array) -> Array:
    """Softmax over actions, (5, 2)."""
    e = np.exp(q - q.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))
