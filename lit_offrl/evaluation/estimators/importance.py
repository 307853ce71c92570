"""Importance sampling: the return of a policy from episodes that another policy recorded.

Rows are episodes, columns are time, ``log w_t = Σ_{k≤t} log π(a_k|s_k) − log β(a_k|s_k)``. After
its end an episode has reward 0 and log-ratio 0: it keeps its weight and stays in every normalizer,
for leaving it out would condition on how long episodes last. Rewards are raw; a truncated episode
counts with the return until its truncation.

``counts`` resamples episodes: row r of (R, n) says how often each episode was drawn, and the
answer is (R,); without it each episode counts once and the answer is ().

IS, PDIS and WIS: Precup, Sutton & Singh (2000), "Eligibility traces for off-policy policy
evaluation"; WPDIS: Thomas (2015), "Safe reinforcement learning", section 3.7.
"""

import numpy as np
from numpy.typing import ArrayLike

from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators.weight_diagnostics import clip_log_weight
from lit_offrl.evaluation.estimators.weights import (
    Array,
    as_counts,
    cumulative_log_weight,
    plain_weight,
    same_shape,
    self_normalized,
)


def importance_sampling(
    log_ratio: ArrayLike, reward: ArrayLike, discount: float, counts: ArrayLike | None = None
) -> Array:
    """IS: ``1/n Σ_i w_T G``, unbiased.

    >>> log_ratio, reward = np.log([[1.5, 2.0], [0.5, 1.0]]), [[0.0, 2.0], [4.0, 0.0]]
    >>> float(importance_sampling(log_ratio, reward, discount=0.5))  # (3 · 1 + 0.5 · 4) / 2
    2.5

    Args:
        log_ratio: ``log π(a|s) − log β(a|s)`` in nats, (n, T); -inf where π never acts so.
        reward: Raw rewards, (n, T).
        discount: γ.
        counts: How often each episode counts, (R, n).
    """
    return mean_of_episodes(weighted_returns(log_ratio, reward, discount), counts)


def weighted_importance_sampling(
    log_ratio: ArrayLike, reward: ArrayLike, discount: float, counts: ArrayLike | None = None
) -> Array:
    """WIS: ``Σ_i w_T G / Σ_i w_T``, biased, consistent, within the range of returns.

    >>> log_ratio, reward = np.log([[1.5, 2.0], [0.5, 1.0]]), [[0.0, 2.0], [4.0, 0.0]]
    >>> round(float(weighted_importance_sampling(log_ratio, reward, 0.5)), 6)  # 5 / 3.5
    1.428571

    The arguments are those of :func:`importance_sampling`.
    """
    log_weight, discounted = _episodes(log_ratio, reward, discount)
    returns = discounted.sum(1, keepdims=True)  # (n, 1)
    return self_normalized(log_weight[:, -1:], returns, counts)[..., 0]


def per_decision(
    log_ratio: ArrayLike, reward: ArrayLike, discount: float, counts: ArrayLike | None = None
) -> Array:
    """PDIS: ``1/n Σ_i Σ_t γ^t w_t r_t``, unbiased; its variance may exceed that of IS.

    >>> log_ratio, reward = np.log([[1.5, 2.0], [0.5, 1.0]]), [[1.0, 2.0], [4.0, 0.0]]
    >>> float(per_decision(log_ratio, reward, discount=0.5))  # (1.5 + 3 + 2) / 2
    3.25

    The arguments are those of :func:`importance_sampling`.
    """
    return mean_of_episodes(per_decision_returns(log_ratio, reward, discount), counts)


def weighted_per_decision(
    log_ratio: ArrayLike, reward: ArrayLike, discount: float, counts: ArrayLike | None = None
) -> Array:
    """WPDIS: ``Σ_t γ^t Σ_i w_t r_t / Σ_i w_t``, biased, consistent.

    >>> log_ratio, reward = np.log([[1.5, 2.0], [0.5, 1.0]]), [[1.0, 2.0], [4.0, 0.0]]
    >>> round(float(weighted_per_decision(log_ratio, reward, 0.5)), 6)  # 3.5 / 2 + 3 / 3.5
    2.607143

    The arguments are those of :func:`importance_sampling`.
    """
    log_weight, discounted = _episodes(log_ratio, reward, discount)
    return np.asarray(self_normalized(log_weight, discounted, counts).sum(-1))


def weighted_returns(log_ratio: ArrayLike, reward: ArrayLike, discount: float) -> Array:
    """Return what each episode adds to IS, ``w_T G``, (n,)."""
    log_weight, discounted = _episodes(log_ratio, reward, discount)
    return np.asarray(plain_weight(log_weight[:, -1]) * discounted.sum(1))


def per_decision_returns(log_ratio: ArrayLike, reward: ArrayLike, discount: float) -> Array:
    """Return what each episode adds to PDIS, ``Σ_t γ^t w_t r_t``, (n,)."""
    log_weight, discounted = _episodes(log_ratio, reward, discount)
    return np.asarray((plain_weight(log_weight) * discounted).sum(1))


def clipped_returns(
    log_ratio: ArrayLike, reward: ArrayLike, discount: float, clip: float, lowest: float
) -> Array:
    """Return ``lowest + min(w_T, clip) (G − lowest)``, (n,): bounded, and on average below J(π).

    Clipping lowers weights, and what they multiply is not negative, so that a lower bound of this
    mean bounds J(π) too. The values lie in ``[lowest, lowest + clip (highest − lowest)]``.

    >>> clipped_returns(np.log([[4.0], [0.5]]), [[1.0], [3.0]], 1.0, clip=2.0, lowest=-1.0)
    array([3., 1.])

    Args:
        log_ratio: As in :func:`importance_sampling`.
        reward: Raw rewards, (n, T).
        discount: γ.
        clip: Largest weight.
        lowest: Lowest return that can be, known before the data.

    Raises:
        InputError: If a return is lower, or ``clip`` is not positive.
    """
    log_weight, discounted = _episodes(log_ratio, reward, discount)
    returns = discounted.sum(1)  # (n,)
    if returns.min() < lowest:
        raise InputError(
            f"An episode returns {returns.min():g}, `lowest` is {lowest:g}: lower `lowest`."
        )
    clipped, _ = clip_log_weight(log_weight[:, -1], clip)
    return np.asarray(lowest + np.exp(clipped) * (returns - lowest))


def discounts(discount: float, n_steps: int) -> Array:
    """Return ``γ^t``, (n_steps,).

    Raises:
        InputError: If γ is not in [0, 1].
    """
    if not 0 <= discount <= 1:
        raise InputError(f"`discount` is {discount}: choose it in [0, 1].")
    return np.asarray(discount ** np.arange(n_steps), dtype=np.float64)


def mean_of_episodes(x: Array, counts: ArrayLike | None = None) -> Array:
    """Average what episodes add, x (n,), once or for each resample, () or (R,)."""
    if counts is None:
        return np.asarray(x.mean())
    draws = as_counts(counts, len(x))
    return np.asarray(draws @ x / draws.sum(-1))


def _episodes(log_ratio: ArrayLike, reward: ArrayLike, discount: float) -> tuple[Array, Array]:
    """Return ``log w_t`` and ``γ^t r_t``, both (n, T)."""
    log_weight = cumulative_log_weight(log_ratio)
    rewards = same_shape("reward", reward, log_weight)
    return log_weight, rewards * discounts(discount, rewards.shape[1])
