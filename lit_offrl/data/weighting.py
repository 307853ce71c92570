"""How often each logged row is drawn: weights of the sampler, and what is left of the data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lit_offrl.data.transitions import Transitions
from lit_offrl.errors import InputError

Kind = Literal["uniform", "return", "advantage", "stratified", "file"]
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """Which rows of the training split are drawn more often.

    Statistics, behavior policies, off-policy evaluation and reports see the data as they are.

    Args:
        kind: ``uniform``; ``return``, p ∝ exp(G / T) of the row's episode, G its return scaled to
            [0, 1]; ``advantage``, the same of G - V(s0), V a linear fit of the return to the first
            observation (Hong et al. 2023, https://arxiv.org/abs/2306.13085); ``stratified``, each
            quantile of the return, or each label, as often as the others; ``file``, in proportion
            to weights.
        temperature: T.
        strata: Number of quantiles.
        path: A `.npy` file for ``file``: a weight per row or per episode of the data set, not
            negative; for ``stratified``: a label per row or per episode, in place of quantiles.
    """

    kind: Kind = "uniform"
    temperature: float = 0.1
    strata: int = 5
    path: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise InputError(f"`sampling.temperature` must be positive, not {self.temperature}.")
        if self.strata < 1:
            raise InputError(f"`sampling.strata` must be at least 1, not {self.strata}.")
        if self.kind == "file" and self.path is None:
            raise InputError("`sampling.kind` file needs `sampling.path`.")
        if self.kind in ("uniform", "return", "advantage") and self.path is not None:
            raise InputError(f"`sampling.kind` {self.kind} takes no `sampling.path`.")
        weighted, default = ("return", "advantage"), type(self)
        if self.temperature != default.temperature and self.kind not in weighted:
            raise InputError(f"`sampling.kind` {self.kind} takes no `sampling.temperature`.")
        quantiles = self.kind == "stratified" and self.path is None
        if self.strata != default.strata and not quantiles:
            raise InputError("`sampling.strata` is for `sampling.kind` stratified without a path.")


def row_weights(
    sampling: Sampling, transitions: Transitions, episodes: NDArray[np.int64]
) -> Weights | None:
    """Probability of each row of some episodes, (N,), summing to 1; None where all are the same.

    Args:
        sampling: What is asked for.
        transitions: All rows of the data set, in raw units.
        episodes: Those that are trained on, in this order.

    Raises:
        InputError: If a file is missing or does not fit, a fit would need images, or the weights
            have no finite sum.
    """
    if sampling.kind == "uniform":
        return None
    values = None
    if sampling.path is not None:
        values = _per_row(_read(sampling.path), transitions, sampling.path)
        values = values[transitions.rows_of(episodes)]
    lengths = np.diff(transitions.episode_bounds)[episodes]
    if sampling.kind == "file":
        assert values is not None
        if values.dtype.kind not in "biuf":
            raise InputError(f"Weights in {sampling.path} must be numbers, not {values.dtype}.")
        weights = values.astype(np.float64)
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise InputError(f"Weights in {sampling.path} must be finite, not negative, not all 0.")
    elif sampling.kind == "stratified":
        if values is None:
            values = np.repeat(_quantiles(sampling, transitions.returns()[episodes]), lengths)
        weights = _balanced(values)
    else:
        values = transitions.returns()[episodes]
        rounding = 1e-9 * float(np.abs(values).max(initial=0.0))
        if sampling.kind == "advantage":
            if transitions.frames:
                raise InputError("`sampling.kind` advantage does not see images: take return.")
            first = transitions.obs[transitions.episode_bounds[:-1][episodes]]
            values = values - _expected(first, values)
        scaled = _unit(values, rounding)
        # less the largest: exp(1 / T) is infinite where T is small
        with np.errstate(over="ignore"):
            weights = np.exp((scaled - scaled.max()) / sampling.temperature)
        weights = np.repeat(weights, lengths)
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 0 < total < np.inf:
        raise InputError(
            f"Sampling weights sum to {total}: they must be finite, not all 0; scale them."
        )
    return np.asarray(weights / total)


def _unit(values: Weights, rounding: float) -> Weights:
    """Scale to [0, 1]; zeros where all are equal but for rounding."""
    span = values.max() - values.min()
    scaled = (values - values.min()) / span if span > rounding else np.zeros_like(values)
    return np.asarray(scaled)


def _expected(first: NDArray[np.float32], returns: Weights) -> Weights:
    """Least-squares fit of the return to the first observation (E, O) of the episode, (E,)."""
    features = np.column_stack([np.ones(len(first)), first.astype(np.float64)])
    weights, _, rank, _ = np.linalg.lstsq(features, returns, rcond=None)
    if rank == len(first):  # it goes through every return
        raise InputError(
            f"`sampling.kind` advantage: first observations of {features.shape[1] - 1} numbers "
            f"explain the returns of {len(first)} episodes whatever these are: take return."
        )
    return np.asarray(features @ weights)


def _quantiles(sampling: Sampling, returns: Weights) -> NDArray[np.int64]:
    """Quantile that each episode's return lies in, (E,)."""
    edges = np.quantile(returns, np.linspace(0, 1, sampling.strata + 1)[1:-1])
    return np.searchsorted(edges, returns, side="left")


def _balanced(strata: NDArray[Any]) -> Weights:
    """Weights that give each stratum that has rows the same sum, (N,)."""
    _, which, counts = np.unique(strata, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[which])


def _read(path: str) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(Path(path).expanduser(), allow_pickle=False)
        if not isinstance(values, np.ndarray):
            raise ValueError("an archive of arrays")
    except (OSError, ValueError, EOFError, BadZipFile):
        raise InputError(f"{path} cannot be read: give a `.npy` file of numbers.") from None
    return values


def _per_row(values: NDArray[Any], transitions: Transitions, path: str) -> NDArray[Any]:
    """One value per row, from one per row or per episode."""
    rows, episodes = len(transitions), transitions.n_episodes
    if values.shape == (rows,):
        return values
    if values.shape == (episodes,):
        return np.asarray(values[transitions.episode])
    raise InputError(
        f"{path} has shape {values.shape}: give one number per row ({rows}) or per episode "
        f"({episodes}) of the data set."
    )


def effective_share(weights: Weights) -> float:
    """Effective sample size of weights (N,) over their number, ``(Σw)² / (N Σw²)``.

    >>> effective_share(np.array([1.0, 1.0, 0.0, 0.0]))
    0.5
    """
    return float(weights.sum() ** 2 / (len(weights) * np.square(weights).sum()))
