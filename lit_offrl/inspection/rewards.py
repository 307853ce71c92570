"""Rewards: sparse, constant, clipped."""

import numpy as np

from lit_offrl.data import Transitions
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.inspection.thresholds import CLIPPED, CONTINUOUS, SPARSE


def reward_findings(transitions: Transitions) -> list[Finding]:
    """Measure sparsity and sign, and look for constant and clipped rewards."""
    reward = transitions.reward
    values, counts = np.unique(reward, return_counts=True)
    zero = float((reward == 0).mean())
    sign = "mixed" if values[0] < 0 < values[-1] else "never negative"
    if values[-1] <= 0:
        sign = "never positive"
    kind = "sparse" if zero >= SPARSE else "dense"
    meaning = (
        f"Rewards are {kind} and {sign}: {zero:.1%} are zero, {len(values):,} values from "
        f"{values[0]:.4g} to {values[-1]:.4g}."
    )
    return [
        Finding("reward_sparsity", "ok", meaning, value=zero),
        _constant(transitions, len(values)),
        _clipped(counts),
    ]


def _constant(transitions: Transitions, unique: int) -> Finding:
    """A constant reward teaches something only where it ends at different times."""
    name = "constant_reward"
    if unique > 1:
        return Finding(name, "ok", "Rewards vary.")
    counts = transitions.reward[0] != 0 and np.ptp(np.diff(transitions.episode_bounds)) > 0
    if counts and transitions.terminated.any():
        return Finding(name, "ok", "All rewards are equal, so that returns count steps.")
    return Finding(
        name,
        "fail",
        f"All rewards are {transitions.reward[0]:.4g}, whatever is done: there is nothing to "
        "learn but imitation.",
        "Record the true reward, or use BC.",
    )


def _clipped(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Finding:
    name = "clipped_reward"
    if len(counts) < CONTINUOUS:
        return not_applicable(name, f"{len(counts)} values of rewards: too few to tell clipping.")
    share = float((counts[0] + counts[-1]) / counts.sum())
    flagged = share > CLIPPED
    return Finding(
        name,
        "watch" if flagged else "ok",
        f"{share:.1%} of the rewards equal the smallest or largest one.",
        "Rewards seem clipped: record them without a clip." if flagged else "",
        value=share,
    )
