"""Logs of Chain-5, and foreign policies for tables, as a log evaluator takes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from lightning import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.off_policy import LogEvaluator
from lit_offrl.evaluation.policy_evaluation import OffPolicyOptions, PolicyEvaluation
from lit_offrl.policies import Categorical
from tests.algorithms import chain5
from tests.algorithms.chain5 import N_ACTIONS, N_STATES, Array
from tests.evaluation.estimators.chain5_log import BETA
from tests.evaluation.fakes import identity_scaling, spec_of


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Keep fitted behavior policies in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_OFFRL_CACHE", str(folder))
        yield


def chain_spec() -> DatasetSpec:
    return spec_of(gym.spaces.Discrete(N_STATES), gym.spaces.Discrete(N_ACTIONS))


def chain_log(
    episodes: int, seed: int, table: Array = BETA, logged: bool = True, factor: float = 1.0
) -> Transitions:
    """Episodes of Chain-5, played to their end; what follows an end is state 0.

    Args:
        episodes: Number of them.
        seed: Of the draws.
        table: Who plays, π(a|s), (5, 2).
        logged: Whether the log has the propensities.
        factor: On all rewards.
    """
    rng = np.random.default_rng(seed)
    number, state = np.arange(episodes), rng.choice(N_STATES, episodes, p=chain5.START)
    columns: list[tuple[NDArray[Any], ...]] = []
    while len(number):
        action = (rng.random(len(number)) < table[state, chain5.RIGHT]).astype(np.int64)
        slips = rng.random(len(number)) < 0.1
        right = np.where(slips, 1 - action, action) == chain5.RIGHT
        arrived = np.where(right, state + 1, np.maximum(state - 1, 0))
        columns.append((number, state, action, arrived))
        going_on = arrived < N_STATES
        number, state = number[going_on], arrived[going_on]
    rows = [np.concatenate(column) for column in zip(*columns, strict=True)]
    order = np.argsort(rows[0], kind="stable")
    number, state, action, arrived = (column[order] for column in rows)
    ended = arrived == N_STATES
    one_hot = np.eye(N_STATES, dtype=np.float32)
    return Transitions(
        obs=one_hot[state],
        action=action,
        reward=(factor * np.where(ended, 0.9, -0.1)).astype(np.float32),
        next_obs=one_hot[np.where(ended, 0, arrived)],
        terminated=ended,
        truncated=np.zeros_like(ended),
        episode=number,
        behavior_log_prob=np.log(table[state, action]).astype(np.float32) if logged else None,
    )


def episode_returns(transitions: Transitions, discount: float) -> Array:
    """Discounted return of each episode, (E,), by the sum that it is."""
    bounds = transitions.episode_bounds
    parts = np.split(transitions.reward.astype(np.float64), bounds[1:-1])
    return np.array([(reward * discount ** np.arange(len(reward))).sum() for reward in parts])


class TableModule(LightningModule):
    """A foreign module with the public face of an algorithm, from a table.

    Args:
        table: π(a|s), (S, A).
        q: Q(s, a), (S, A).
    """

    def __init__(self, table: Array, q: Array | None = None) -> None:
        super().__init__()
        self.table = torch.from_numpy(table)
        self.q = torch.from_numpy(np.zeros_like(table) if q is None else q)

    def policy(self, obs: Tensor) -> Categorical:
        return Categorical(self.table[obs.argmax(-1)].log())

    def act(self, obs: Tensor) -> Tensor:
        return self.table[obs.argmax(-1)].argmax(-1)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.q[obs.argmax(-1), action].unsqueeze(0)


def evaluator_of(
    transitions: Transitions, spec: DatasetSpec, discount: float, **options: Any
) -> LogEvaluator:
    chosen = OffPolicyOptions(**options)
    return LogEvaluator(transitions, spec, identity_scaling(spec), discount, chosen)


def evaluate_chain(transitions: Transitions, table: Array, **options: Any) -> PolicyEvaluation:
    """Evaluate a policy of Chain-5, by default the sampled one."""
    options = {"policy": "sampled", "resamples": 300, **options}
    evaluator = evaluator_of(transitions, chain_spec(), chain5.DISCOUNT, **options)
    return evaluator.evaluate(TableModule(table))


def by_name(evaluation: PolicyEvaluation) -> dict[str, Estimate]:
    return {estimate.name: estimate for estimate in evaluation.estimates}


def verdicts(evaluation: PolicyEvaluation) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in evaluation.findings}
