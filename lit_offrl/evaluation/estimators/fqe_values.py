"""FQE as the other estimators need it: exact where states are countable, networks elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.estimators.fitted_q import fit_fqe
from lit_offrl.evaluation.estimators.tabular_fqe import (
    bootstrap_tabular_fqe,
    tabular_fqe,
    tabular_log,
    tabular_probs,
)
from lit_offrl.evaluation.logged import LoggedData
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.scaling import Scaling

Array = NDArray[np.float64]
REFITS = 200
"""Bootstrap refits of tabular FQE."""


@dataclass(frozen=True)
class QValues:
    """An FQE estimate, and the values that doubly robust estimators take from it.

    Args:
        estimate: The estimate.
        q: Q̂(s, a) of each row, (N,).
        v: V̂(s) of each row, (N,).
        tail_v: V̂ of each episode's last observation, 0 if it terminated, (E,).
        state_value: V̂ of normalized observations (B, O): (B,).
    """

    estimate: Estimate
    q: Array
    v: Array
    tail_v: Array
    state_value: Callable[[Tensor], Tensor]


def tabular_values(
    data: LoggedData,
    policy: TargetPolicy,
    scaling: Scaling,
    discount: float,
    level: float = 0.95,
    seed: int = 0,
) -> QValues:
    """Solve FQE exactly for one-hot observations; the interval is a bootstrap of refits.

    Q̂ is fitted on the rows that it is used for: doubly robust intervals are too narrow by that.

    Args:
        data: The log.
        policy: The policy to evaluate.
        scaling: What it was trained with.
        discount: γ.
        level: Of the interval.
        seed: Of the bootstrap.
    """
    assert data.n_actions is not None
    log = tabular_log(data.transitions, data.n_actions)
    probs = tabular_probs(policy, scaling)
    solved = tabular_fqe(log, probs, discount)
    refits = bootstrap_tabular_fqe(log, probs, discount, REFITS, seed)
    tail = (1 - level) / 2
    low, high = np.quantile(refits, [tail, 1 - tail]).tolist()
    last = data.transitions.episode_bounds[1:] - 1
    estimate = Estimate(
        "FQE",
        "FQE",
        solved.value,
        (low, high),
        float(refits.std(ddof=1)),
        reason="Solved exactly on the table of states and actions.",
        details={"unseen_mass": solved.unseen_mass},
    )
    return QValues(
        estimate,
        q=solved.q[log.state, log.action],
        v=solved.v[log.state],
        tail_v=np.where(log.terminated[last], 0.0, solved.v[log.next_state[last]]),
        state_value=lambda obs: torch.from_numpy(solved.v)[
            (obs * scaling.obs_std + scaling.obs_mean).argmax(-1)
        ],
    )


def network_values(
    data: LoggedData,
    policy: TargetPolicy,
    discount: float,
    updates: int,
    members: int,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> QValues:
    """Fit FQE with networks; see :func:`~lit_offrl.evaluation.estimators.fitted_q.fit_fqe`."""
    fitted = fit_fqe(data, policy, discount, updates, members, seed, progress=progress)
    return QValues(
        fitted.estimate(level),
        q=fitted.q.double().numpy(),
        v=fitted.v.double().numpy(),
        tail_v=fitted.tail_v.double().numpy(),
        state_value=fitted.state_value,
    )
