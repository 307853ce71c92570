"""Logged episodes of Chain-5, padded; their exact answers; how often intervals cover them."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lit_offrl.evaluation.estimators import doubly_robust as dr
from lit_offrl.evaluation.estimators import importance as ips
from lit_offrl.evaluation.estimators.intervals import (
    Interval,
    bootstrap_interval,
    student_t_interval,
)
from tests.algorithms import chain5
from tests.algorithms.chain5 import DISCOUNT, N_ACTIONS, N_STATES, RIGHT, Array

BETA, PI = chain5.constant_policy(0.6), chain5.constant_policy(0.9)
LOG_RATIO = np.append(np.log(PI / BETA), np.zeros((1, N_ACTIONS)), 0)  # (6, 2), 0 at the end
V_PI = chain5.policy_value(PI)
Q_PI = chain5.action_values(V_PI)
J_BETA = chain5.start_value(chain5.policy_value(BETA))
J_PI = chain5.start_value(V_PI)


@dataclass(frozen=True)
class Log:
    """Padded episodes, all (n, T)."""

    obs: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: Array
    log_ratio: Array
    alive: NDArray[np.bool_]

    def next_obs(self) -> NDArray[np.int64]:
        """State after each step, 5 after the end."""
        padded = np.pad(self.obs, ((0, 0), (0, 1)), constant_values=N_STATES)
        return padded[:, 1:]

    def of(self, table: Array) -> Array:
        """Values of a table of states or of states and actions along the episodes, 0 after them."""
        padded = np.concatenate([table, np.zeros_like(table[:1])])
        return padded[self.obs] if table.ndim == 1 else padded[self.obs, self.action]

    def split(self, parts: int) -> "list[Log]":
        """Cut the episodes into logs of equal size, and their padding to the longest of each."""
        logs = []
        for rows in np.split(np.arange(len(self.obs)), parts):
            part = np.ix_(rows, np.arange(self.alive[rows].sum(1).max()))
            values = (self.reward[part], self.log_ratio[part], self.alive[part])
            logs.append(Log(self.obs[part], self.action[part], *values))
        return logs


def simulate(n: int, rng: np.random.Generator, slip: float = 0.1) -> Log:
    """Let β run n episodes to their end; a move goes the wrong way with probability ``slip``."""
    state = rng.choice(N_STATES, size=n, p=chain5.START)
    columns: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    while (running := np.flatnonzero(state < N_STATES)).size:
        at = state[running]
        chosen = rng.random(running.size) < BETA[at, RIGHT]
        action = np.zeros(n, dtype=np.int64)
        action[running] = chosen
        columns.append((state, action))
        move = np.where(rng.random(running.size) >= slip, chosen, ~chosen)
        state = state.copy()
        state[running] = np.where(move, at + 1, np.maximum(at - 1, 0))
    obs, actions = (np.stack(column, 1) for column in zip(*columns, strict=True))  # (n, T)
    alive = obs < N_STATES
    ends = np.pad(obs, ((0, 0), (0, 1)), constant_values=N_STATES)[:, 1:] == N_STATES
    reward = np.where(alive, np.where(ends, 0.9, -0.1), 0.0)
    return Log(obs, actions, reward, LOG_RATIO[obs, actions], alive)


def tabular_fqe(log: Log) -> Array:
    """Solve the Bellman equation of π in the empirical MDP, (5, 2)."""
    cell = (log.obs * N_ACTIONS + log.action)[log.alive]
    n_cells = N_STATES * N_ACTIONS
    pair = cell * (N_STATES + 1) + log.next_obs()[log.alive]
    visits = np.bincount(pair, minlength=n_cells * (N_STATES + 1)).reshape(n_cells, -1)
    total = np.maximum(visits.sum(1), 1)
    reward = np.bincount(cell, log.reward[log.alive], minlength=n_cells) / total  # (10,)
    transition = visits[:, :N_STATES] / total[:, None]  # (10, 5)
    policy = np.zeros((N_STATES, n_cells))
    for s in range(N_STATES):
        policy[s, s * N_ACTIONS : (s + 1) * N_ACTIONS] = PI[s]
    q = np.linalg.solve(np.eye(n_cells) - DISCOUNT * transition @ policy, reward)
    return np.asarray(q.reshape(N_STATES, N_ACTIONS), dtype=np.float64)


def fitted_values(log: Log) -> tuple[Array, Array]:
    """Q̂(s_t, a_t) and V̂(s_t) of FQE on the same episodes, (n, T) both."""
    q = tabular_fqe(log)
    return log.of(q), log.of((PI * q).sum(1))


def estimates(log: Log) -> dict[str, float]:
    """All estimates of J(π)."""
    plain = (log.log_ratio, log.reward)
    q, v = fitted_values(log)
    return {
        "IS": float(ips.importance_sampling(*plain, DISCOUNT)),
        "WIS": float(ips.weighted_importance_sampling(*plain, DISCOUNT)),
        "PDIS": float(ips.per_decision(*plain, DISCOUNT)),
        "WPDIS": float(ips.weighted_per_decision(*plain, DISCOUNT)),
        "DR": float(dr.doubly_robust(*plain, q, v, DISCOUNT)),
        "WDR": float(dr.weighted_doubly_robust(*plain, q, v, DISCOUNT)),
    }


def intervals(log: Log, seed: int, resamples: int = 1000) -> dict[str, Interval]:
    """Nominal 95 % intervals of J(π): Student's t for IS, percentile bootstrap for the others."""
    plain = (log.log_ratio, log.reward)
    q, v = fitted_values(log)
    statistics = {
        "WIS": partial(ips.weighted_importance_sampling, *plain, DISCOUNT),
        "PDIS": partial(ips.per_decision, *plain, DISCOUNT),
        "WPDIS": partial(ips.weighted_per_decision, *plain, DISCOUNT),
        "DR": partial(dr.doubly_robust, *plain, q, v, DISCOUNT),
        "WDR": partial(dr.weighted_doubly_robust, *plain, q, v, DISCOUNT),
    }
    n = len(log.obs)
    found = {"IS": student_t_interval(ips.weighted_returns(*plain, DISCOUNT))}
    for name, statistic in statistics.items():
        found[name] = bootstrap_interval(statistic, n, resamples=resamples, seed=seed)
    return found


def coverage(n: int, repetitions: int, seed: int) -> dict[str, float]:
    """Share of repetitions whose interval holds J(π)."""
    hits: dict[str, int] = {}
    rng = np.random.default_rng(seed)
    for repetition in range(repetitions):
        for name, interval in intervals(simulate(n, rng), repetition).items():
            low, high = interval.bounds or (np.inf, -np.inf)
            hits[name] = hits.get(name, 0) + (low <= J_PI <= high)
    return {name: hit / repetitions for name, hit in hits.items()}


def every_episode(horizon: int, start: int = 3) -> tuple[Log, Array, NDArray[np.int64]]:
    """All episodes from one state, cut at the horizon; their chance under β; their last states.

    With these chances for counts an estimator returns its expectation, exactly.
    """
    paths: list[tuple[float, int, list[tuple[int, int, float]]]] = [(1.0, start, [])]
    for _ in range(horizon):
        longer = []
        for chance, state, steps in paths:
            if state == N_STATES:
                longer.append((chance, state, [*steps, (N_STATES, 0, 0.0)]))
                continue
            for action in range(N_ACTIONS):
                for p, after, reward in chain5.outcomes(state, action):
                    step = (state, action, reward)
                    longer.append((chance * BETA[state, action] * p, after, [*steps, step]))
        paths = longer
    cells = np.array([steps for _, _, steps in paths])  # (n, T, 3)
    obs, actions = cells[..., 0].astype(np.int64), cells[..., 1].astype(np.int64)
    log = Log(obs, actions, cells[..., 2], LOG_RATIO[obs, actions], obs < N_STATES)
    chances, ends, _ = zip(*paths, strict=True)
    return log, np.array([chances]), np.array(ends)


def value_within(horizon: int) -> Array:
    """V^π of the reward within so many steps, (5,)."""
    v = np.zeros(N_STATES)
    for _ in range(horizon):
        v = (PI * chain5.action_values(v)).sum(1)
    return v
