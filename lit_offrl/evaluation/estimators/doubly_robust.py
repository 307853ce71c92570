"""Doubly robust estimates: importance sampling of what a model of Q leaves unexplained.

DR: Jiang & Li (2016), https://arxiv.org/abs/1511.03722; WDR and MAGIC: Thomas & Brunskill (2016),
https://arxiv.org/abs/1604.00923. Arrays are padded as in :mod:`~.importance`;
Q̂ and V̂ are in raw reward, and 0 after an episode's end.

``γ^t [w_t (r_t − Q̂(s_t, a_t)) + w_{t−1} V̂(s_t)]`` summed over time is
``V̂(s_0) + Σ_t γ^t w_t [r_t + γ V̂(s_{t+1}) − Q̂(s_t, a_t)]``: temporal differences, each with the
weight of the step it belongs to. Up to time j it is the j-step return of MAGIC.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.estimators.importance import discounts, mean_of_episodes
from lit_offrl.evaluation.estimators.intervals import bootstrap_interval
from lit_offrl.evaluation.estimators.weights import (
    Array,
    cumulative_log_weight,
    plain_weight,
    same_shape,
    self_normalized,
)


def doubly_robust(
    log_ratio: ArrayLike,
    reward: ArrayLike,
    q: ArrayLike,
    v: ArrayLike,
    discount: float,
    counts: ArrayLike | None = None,
) -> Array:
    """DR: ``1/n Σ_i Σ_t γ^t [w_t (r_t − Q̂_t) + w_{t−1} V̂_t]``, unbiased if Q̂ is of other data.

    >>> log_ratio, reward = np.log([[1.5, 2.0], [0.5, 1.0]]), [[1.0, 2.0], [4.0, 0.0]]
    >>> q, v = [[1.0, 2.0], [3.0, 0.0]], [[1.5, 2.0], [2.0, 0.0]]
    >>> float(doubly_robust(log_ratio, reward, q, v, discount=0.5))  # (3 + 2.5) / 2
    2.75

    Args:
        log_ratio: ``log π(a|s) − log β(a|s)`` in nats, (n, T); -inf where π never acts so.
        reward: Raw rewards, (n, T).
        q: ``Q̂(s_t, a_t)``, (n, T).
        v: ``V̂(s_t) = E_π Q̂(s_t, ·)``, (n, T), or (n, T + 1) as :func:`with_tail` makes it.
        discount: γ.
        counts: How often each episode counts, (R, n).

    Returns:
        Estimates, (R,), or () without ``counts``.
    """
    return mean_of_episodes(doubly_robust_returns(log_ratio, reward, q, v, discount), counts)


def weighted_doubly_robust(
    log_ratio: ArrayLike,
    reward: ArrayLike,
    q: ArrayLike,
    v: ArrayLike,
    discount: float,
    counts: ArrayLike | None = None,
) -> Array:
    """WDR: DR with ``w_t / Σ_i w_t`` for ``w_t / n``; biased, consistent.

    >>> log_ratio, reward = np.log([[1.5, 2.0], [0.5, 1.0]]), [[1.0, 2.0], [4.0, 0.0]]
    >>> q, v = [[1.0, 2.0], [3.0, 0.0]], [[1.5, 2.0], [2.0, 0.0]]
    >>> float(weighted_doubly_robust(log_ratio, reward, q, v, 0.5))  # 1.75 + (1.5 + 0.5) / 2
    2.75

    The arguments are those of :func:`doubly_robust`.
    """
    log_weight, terms = _terms(log_ratio, reward, q, v, discount)
    return np.asarray(self_normalized(log_weight, terms, counts).sum(-1))


def doubly_robust_returns(
    log_ratio: ArrayLike, reward: ArrayLike, q: ArrayLike, v: ArrayLike, discount: float
) -> Array:
    """Return what each episode adds to DR, (n,).

    With Q̂ fitted to other episodes than the row's (cross-fitting), rows are independent given Q̂
    and Student's t holds for their mean.
    """
    log_weight, terms = _terms(log_ratio, reward, q, v, discount)
    return np.asarray((plain_weight(log_weight) * terms).sum(1))


def with_tail(v: ArrayLike, length: ArrayLike, tail_v: ArrayLike) -> Array:
    """Put V̂ of the last observation of truncated episodes behind their end, (n, T + 1).

    It adds ``γ^T w_{T−1} V̂(s_T)``: the estimate is then of the return without truncation. Without
    it DR estimates the return until the recorded truncation, and Q̂ must be of that horizon.

    >>> with_tail([[2.0, 0.0], [3.0, 4.0]], length=[1, 2], tail_v=[9.0, 0.0])
    array([[2., 9., 0.],
           [3., 4., 0.]])

    Args:
        v: ``V̂(s_t)``, (n, T), 0 after the end.
        length: Number of steps of each episode, (n,).
        tail_v: ``V̂(s_T)`` of truncated episodes, 0 for terminated ones, (n,).
    """
    values = np.asarray(v, dtype=np.float64)
    longer = np.pad(values, ((0, 0), (0, 1)))  # (n, T + 1)
    longer[np.arange(len(longer)), np.asarray(length, dtype=np.int64)] = tail_v
    return longer


@dataclass(frozen=True)
class Magic:
    """The blend that MAGIC chose.

    Args:
        value: The estimate.
        std_error: Its standard error, the blend taken as given.
        steps: Number of steps with importance weights, j + 1, of each return, (J,): 0 is the
            model's V̂ alone, T is WDR.
        share: Share of each in the blend, (J,).
    """

    value: float
    std_error: float
    steps: tuple[int, ...]
    share: tuple[float, ...]


def magic(
    log_ratio: ArrayLike,
    reward: ArrayLike,
    q: ArrayLike,
    v: ArrayLike,
    discount: float,
    n_returns: int = 20,
    seed: int = 0,
) -> Magic:
    """MAGIC: the blend of j-step WDR returns with the least estimated ``bias² + variance``.

    The bias of a return is its distance from the 90 % bootstrap interval of WDR, the last of them.
    Steps j grow geometrically from −1 (the model alone) to T − 1 (WDR).

    Args:
        log_ratio: As in :func:`doubly_robust`, like ``reward``, ``q``, ``v`` and ``discount``.
        reward: Raw rewards, (n, T).
        q: ``Q̂(s_t, a_t)``, (n, T).
        v: ``V̂(s_t)``, (n, T) or (n, T + 1).
        discount: γ.
        n_returns: Largest number of j-step returns.
        seed: Seed of the bootstrap.

    Raises:
        NotApplicableError: With one episode.
    """
    log_weight, terms = _terms(log_ratio, reward, q, v, discount)
    n, n_columns = terms.shape
    if n < 2:
        raise NotApplicableError("MAGIC weighs bias against variance: it needs 2 episodes or more.")
    weight = np.exp(log_weight - log_weight.max(0))  # (n, T + 1)
    parts = np.cumsum(weight / weight.sum(0) * terms, axis=1)  # (n, T + 1)
    steps = np.unique(np.geomspace(1, n_columns, n_returns).round().astype(np.int64)) - 1
    parts = parts[:, steps]  # (n, J)
    returns = parts.sum(0)  # (J,)
    interval = bootstrap_interval(
        lambda counts: self_normalized(log_weight, terms, counts).sum(-1), n, 0.9, 200, seed
    )
    low, high = interval.bounds or (returns[-1], returns[-1])
    bias = returns - np.clip(returns, min(low, returns[-1]), max(high, returns[-1]))  # (J,)
    deviation = (parts - parts.mean(0)) * np.sqrt(n / (n - 1))  # (n, J)
    share = least_squares_on_simplex(np.vstack([deviation, bias]))
    return Magic(
        value=float(share @ returns),
        std_error=float(np.linalg.norm(deviation @ share)),
        steps=tuple(steps.tolist()),
        share=tuple(share.tolist()),
    )


def least_squares_on_simplex(a: Array) -> Array:
    """Return ``argmin_x |a x|²`` over ``x >= 0, Σ x = 1``, (J,).

    Non-negative least squares of ``|a x|² + (Σ x − 1)²`` has the same direction, since for each
    direction the best length leaves ``m / (1 + m)`` of ``m = |a x|²`` at Σ x = 1.

    >>> least_squares_on_simplex(np.diag([1.0, 2.0])).round(6)  # in proportion to 1/1 and 1/4
    array([0.8, 0.2])
    """
    scale = np.linalg.norm(a) or 1.0
    stacked = np.vstack([a / scale, np.ones(a.shape[1])])
    x, _ = nnls(stacked, np.append(np.zeros(len(a)), 1.0))
    return np.asarray(x / x.sum(), dtype=np.float64)


def _terms(
    log_ratio: ArrayLike, reward: ArrayLike, q: ArrayLike, v: ArrayLike, discount: float
) -> tuple[Array, Array]:
    """Return log weights and V̂(s_0), then the discounted temporal differences, (n, T + 1) both."""
    log_weight = cumulative_log_weight(log_ratio)
    n, n_steps = log_weight.shape
    values = np.asarray(v, dtype=np.float64)
    if values.shape == (n, n_steps):
        values = np.pad(values, ((0, 0), (0, 1)))
    if values.shape != (n, n_steps + 1) or not np.isfinite(values).all():
        raise InputError(
            f"`v` has shape {values.shape} or holds NaN or inf: pass finite values of "
            f"shape ({n}, {n_steps}), or one column more for truncated ends."
        )
    rest = same_shape("reward", reward, log_weight) - same_shape("q", q, log_weight)
    difference = rest + discount * values[:, 1:]  # (n, T)
    terms = np.hstack([values[:, :1], discounts(discount, n_steps) * difference])
    return np.pad(log_weight, ((0, 0), (1, 0))), terms
