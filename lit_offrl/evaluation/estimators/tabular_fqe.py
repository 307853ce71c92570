"""Exact fitted Q evaluation where observations are one-hot, and LSTD-Q for linear features."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lstsq
from scipy.sparse.linalg import splu

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.logged import bootstrap_weights
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.scaling import Scaling

Array = NDArray[np.float64]
LONGEST = 1e9
"""Expected number of steps from which on an episode counts as endless."""


@dataclass(frozen=True)
class TabularFQE:
    """Values of a policy in the empirical model of a log, in raw reward.

    Args:
        value: Mean of V over first states.
        q: Q(s, a), (S, A); 0 where the log never took a in s.
        v: V(s), (S,).
        unseen_mass: Mean probability, over the next states of the log, of actions that it never
            took there. FQE counts them as 0.
    """

    value: float
    q: Array
    v: Array
    unseen_mass: float


@dataclass(frozen=True)
class TabularLog:
    """A log of discrete states and actions.

    Args:
        state: (N,).
        action: (N,).
        reward: Raw rewards, (N,).
        next_state: (N,).
        terminated: Whether the episode ended for good, (N,).
        episode: Number of the episode, 0 to E - 1 in order, (N,).
        n_states: S.
        n_actions: A.
    """

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: Array
    next_state: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    episode: NDArray[np.int64]
    n_states: int
    n_actions: int


def tabular_log(transitions: Transitions, n_actions: int) -> TabularLog:
    """Read states off one-hot observations.

    Raises:
        InputError: If observations are not one-hot, or actions not discrete.
    """
    if transitions.action.ndim != 1:
        raise InputError("Tabular FQE needs discrete actions: fit FQE with networks instead.")
    for obs in (transitions.obs, transitions.next_obs):
        if not (((obs == 0) | (obs == 1)).all() and (obs.sum(1) == 1).all()):
            raise InputError("Observations are not one-hot: fit FQE with networks instead.")
    return TabularLog(
        transitions.obs.argmax(1),
        transitions.action.astype(np.int64),
        transitions.reward.astype(np.float64),
        transitions.next_obs.argmax(1),
        transitions.terminated,
        transitions.episode,
        transitions.obs.shape[1],
        n_actions,
    )


def tabular_probs(policy: TargetPolicy, scaling: Scaling) -> Array:
    """Action probabilities of a policy at each one-hot observation, (S, A)."""
    one_hot = scaling.normalize_obs(torch.eye(len(scaling.obs_mean)))
    return policy.probs(one_hot).double().numpy()


def tabular_fqe(
    log: TabularLog, probs: Array, discount: float, episode_weight: Array | None = None
) -> TabularFQE:
    """Solve the Bellman equation of a policy in the empirical model.

    ``V = R^π + γ P^π V`` with R and P the means over each (s, a) of the log; what FQE converges to.

    Args:
        log: The log.
        probs: π(a|s), (S, A).
        discount: γ.
        episode_weight: How often each episode counts, (E,), for a bootstrap; once if None.

    Raises:
        InputError: If γ = 1 and the log knows states from which the policy never ends.
    """
    weight = np.ones(len(log.reward)) if episode_weight is None else episode_weight[log.episode]
    pair = log.state * log.n_actions + log.action  # (N,)
    n_pairs = log.n_states * log.n_actions
    count = np.bincount(pair, weight, n_pairs)  # (S A,)
    mean = np.divide(1.0, count, out=np.zeros(n_pairs), where=count > 0)
    reward = mean * np.bincount(pair, weight * log.reward, n_pairs)
    going_on = weight * mean[pair] * ~log.terminated
    move = sparse.csr_matrix((going_on, (pair, log.next_state)), (n_pairs, log.n_states))
    act = sparse.csr_matrix(
        (probs.ravel(), (np.arange(n_pairs) // log.n_actions, np.arange(n_pairs)))
    )  # (S, S A)
    v = _solve(act @ move, act @ reward, discount)
    q = reward + discount * (move @ v)  # (S A,)
    first = np.searchsorted(log.episode, np.arange(log.episode[-1] + 1))
    unseen = (probs * (count.reshape(probs.shape) == 0)).sum(1)  # (S,)
    rows = weight * ~log.terminated
    steps_on = float(rows.sum())
    return TabularFQE(
        value=float(np.average(v[log.state[first]], weights=weight[first])),
        q=q.reshape(probs.shape),
        v=v,
        unseen_mass=float(rows @ unseen[log.next_state]) / steps_on if steps_on else 0.0,
    )


def bootstrap_tabular_fqe(
    log: TabularLog, probs: Array, discount: float, resamples: int, seed: int = 0
) -> Array:
    """Estimates of refits to resampled episodes, (resamples,); see :func:`tabular_fqe`."""
    counts = bootstrap_weights(int(log.episode[-1]) + 1, resamples, seed).double().numpy()
    return np.array([tabular_fqe(log, probs, discount, count).value for count in counts])


def lstd_q(
    features: Array,
    next_features: Array,
    reward: Array,
    terminated: NDArray[np.bool_],
    discount: float,
    ridge: float = 0.0,
) -> Array:
    """Weights of a linear Q^π: the fixed point of FQE with these features, (F,).

    ``Σ φ (φ - γ (1 - terminated) φ')ᵀ w = Σ φ r``: Lagoudakis and Parr (2003), section 4.

    Args:
        features: φ(s, a) of the log, (N, F).
        next_features: ``E_{a' ~ π} φ(s', a')``, (N, F).
        reward: Raw rewards, (N,).
        terminated: Whether the episode ended for good, (N,).
        discount: γ.
        ridge: Added to the diagonal, times N.

    >>> one = np.ones((4, 1))
    >>> lstd_q(one, one, np.array([1.0, 1.0, 2.0, 0.0]), np.zeros(4, dtype=bool), 0.5)
    array([2.])
    """
    step = features - discount * ~terminated[:, None] * next_features  # (N, F)
    gram = features.T @ step + ridge * len(features) * np.eye(features.shape[1])
    weights: Array = lstsq(gram, features.T @ reward)[0]
    return weights


def _solve(move: sparse.csr_matrix, reward: Array, discount: float) -> Array:
    """V, (S,), refused where an expected number of steps is infinite."""
    system = sparse.identity(len(reward), format="csc") - discount * move.tocsc()
    try:
        v, steps = splu(system).solve(np.stack([reward, np.ones(len(reward))], 1)).T
    except RuntimeError:  # exactly singular
        steps = np.array([np.inf])
    if not (steps.min() >= 1 - 1e-6 and steps.max() < LONGEST):
        raise InputError(
            "With a discount of 1 this policy never ends an episode in the log: give a discount "
            "below 1."
        )
    return np.ascontiguousarray(v)
