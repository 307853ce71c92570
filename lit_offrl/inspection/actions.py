"""Actions: range, saturation, coverage."""

from typing import Any

import numpy as np
from minari.serialization import deserialize_space
from numpy.typing import NDArray

from lit_offrl.data import Transitions
from lit_offrl.data.spaces import unflatten_actions
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.inspection.thresholds import BINS, COVERED_BINS, SATURATED, SATURATED_SHARE


def scaled_actions(transitions: Transitions, spec: DatasetSpec) -> NDArray[np.float64]:
    """Box actions mapped to [-1, 1], (N, A)."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    scaled: NDArray[np.float64] = 2 * (transitions.action - low) / (high - low) - 1
    return scaled


def action_bins(transitions: Transitions, spec: DatasetSpec) -> NDArray[np.int64]:
    """Bin of each action dimension, (N, A); the action itself, (N, 1), if it is discrete."""
    if spec.discrete:
        return transitions.action[:, None].astype(np.int64)
    bins = np.floor((scaled_actions(transitions, spec) + 1) / 2 * BINS).astype(np.int64)
    return np.clip(bins, 0, BINS - 1)


def action_findings(transitions: Transitions, spec: DatasetSpec) -> list[Finding]:
    """Measure which actions were tried."""
    if spec.discrete:
        reason = "Actions are discrete."
        return [_unused(transitions, spec), not_applicable("action_saturation", reason)]
    return [_range(transitions, spec), _saturation(transitions, spec)]


def _unused(transitions: Transitions, spec: DatasetSpec) -> Finding:
    counts = np.bincount(transitions.action.astype(np.int64), minlength=spec.action_dim)
    never = np.flatnonzero(counts == 0)
    return Finding(
        "action_coverage",
        "watch" if len(never) else "ok",
        f"{spec.action_dim - len(never)} of {spec.action_dim} actions were taken; the rarest of "
        f"them in {counts[counts > 0].min() / counts.sum():.2%} of the rows.",
        f"Actions {_raw(never[:10], spec)} were never tried: forbid them, or use BCQ or BC."
        if len(never)
        else "",
        value=1 - len(never) / spec.action_dim,
    )


def _raw(actions: NDArray[np.int64], spec: DatasetSpec) -> list[Any]:
    """Discrete actions as the environment takes them."""
    raw: list[Any] = unflatten_actions(deserialize_space(spec.action_space), actions).tolist()
    return raw


def _range(transitions: Transitions, spec: DatasetSpec) -> Finding:
    bins = action_bins(transitions, spec)
    covered = np.array([len(np.unique(column)) for column in bins.T])
    narrow = np.flatnonzero(covered < COVERED_BINS)
    return Finding(
        "action_coverage",
        "watch" if len(narrow) else "ok",
        f"Dimensions of actions visit {covered.min()} to {covered.max()} of {BINS} bins.",
        f"Dimensions {narrow[:10].tolist()} hardly move: nothing can be learned of other values."
        if len(narrow)
        else "",
        value=float(covered.mean() / BINS),
    )


def _saturation(transitions: Transitions, spec: DatasetSpec) -> Finding:
    share = (np.abs(scaled_actions(transitions, spec)) > SATURATED).mean(0)  # (A,)
    worst = int(share.argmax())
    flagged = share[worst] > SATURATED_SHARE
    return Finding(
        "action_saturation",
        "watch" if flagged else "ok",
        f"{share.mean():.1%} of the actions are at a bound; in dimension {worst} it is "
        f"{share[worst]:.1%}.",
        "Check the bounds of the action space and the units of the actions." if flagged else "",
        value=float(share.mean()),
    )
