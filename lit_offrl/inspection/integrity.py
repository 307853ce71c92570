"""What is broken in a log: copies, jumps, dead dimensions, time limits, bad episodes."""

import numpy as np
from gymnasium import spaces
from minari.serialization import deserialize_space
from numpy.typing import NDArray

from lit_offrl.data import Transitions
from lit_offrl.data.spaces import part_spaces
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.inspection.thresholds import (
    CONTINUITY,
    DUPLICATES,
    HUGE,
    SAME_LENGTH,
    SHORT_EPISODE,
    TIME_CORRELATION,
)


def integrity_findings(transitions: Transitions, spec: DatasetSpec) -> list[Finding]:
    """Look for everything that is broken."""
    finite = _finite(transitions)
    if finite.verdict == "fail":  # nothing else can be measured
        return [finite]
    return [
        finite,
        _dimensions(transitions, spec),
        _huge(transitions),
        _duplicates(transitions, spec),
        _continuity(transitions),
        _time_limit(transitions),
        _clock(transitions),
        _bad_episodes(transitions),
    ]


def row_hashes(transitions: Transitions) -> NDArray[np.uint64]:
    """One number per transition, equal for equal ones and almost never otherwise, (N,)."""
    columns = [transitions.obs, transitions.action, transitions.reward, transitions.next_obs]
    total = np.zeros(len(transitions), dtype=np.uint64)
    rng = np.random.default_rng(0)
    for column in columns:
        flat = np.ascontiguousarray(column.reshape(len(column), -1), dtype=np.float32)
        for values in flat.view(np.uint32).T:
            factor = np.uint64(rng.integers(1, 1 << 62) * 2 + 1)
            mixed = (values.astype(np.uint64) + np.uint64(1)) * factor  # modulo 2^64
            total += (mixed ^ (mixed >> np.uint64(29))) * factor
    return total


def _finite(transitions: Transitions) -> Finding:
    bad = ~np.isfinite(transitions.reward)
    for column in (transitions.obs, transitions.next_obs, transitions.action):
        bad |= ~np.isfinite(column.reshape(len(column), -1)).all(1)
    if not bad.any():
        return Finding("finite", "ok", "All numbers are finite.", value=0.0)
    episodes = np.unique(transitions.episode[bad])
    return Finding(
        "finite",
        "fail",
        f"{bad.sum():,} rows of episodes {_listed(episodes)} hold NaN or inf.",
        "Leave these episodes out, or repair them, and inspect again.",
        value=float(bad.sum()),
    )


def _dimensions(transitions: Transitions, spec: DatasetSpec) -> Finding:
    constant = np.flatnonzero(np.ptp(transitions.obs, axis=0) == 0)
    parts = part_spaces(deserialize_space(spec.obs_space))
    if all(isinstance(part, spaces.Discrete | spaces.MultiDiscrete) for part in parts):
        return not_applicable("constant_dims", "Observations are one-hot.")
    return Finding(
        "constant_dims",
        "watch" if len(constant) else "ok",
        f"{len(constant)} of {spec.obs_dim} observation dimensions never change"
        f"{': ' + _listed(constant) if len(constant) else ''}.",
        "Leave them out, or check the recording." if len(constant) else "",
        value=float(len(constant)),
    )


def _huge(transitions: Transitions) -> Finding:
    largest = np.maximum(transitions.obs.max(0), -transitions.obs.min(0))
    huge = np.flatnonzero(largest > HUGE)
    return Finding(
        "huge_dims",
        "watch" if len(huge) else "ok",
        f"The largest observation is {largest.max():.4g}, in dimension {largest.argmax()}.",
        f"Dimensions {_listed(huge)} pass {HUGE:g}: check for error codes and units."
        if len(huge)
        else "",
        value=float(largest.max()),
    )


def _duplicates(transitions: Transitions, spec: DatasetSpec) -> Finding:
    name = "duplicates"
    parts = part_spaces(deserialize_space(spec.obs_space))
    if not any(isinstance(part, spaces.Box) for part in parts):
        return not_applicable(name, "Discrete observations repeat by nature.")
    share = 1 - len(np.unique(row_hashes(transitions))) / len(transitions)
    flagged = share > DUPLICATES
    return Finding(
        name,
        "watch" if flagged else "ok",
        f"{share:.2%} of the rows are exact copies of others.",
        "Remove the copies: they weigh double, and leak between the splits." if flagged else "",
        value=float(share),
    )


def _continuity(transitions: Transitions) -> Finding:
    name, same = "continuity", transitions.episode[1:] == transitions.episode[:-1]
    if not same.any():
        return not_applicable(name, "Every episode has one step.")
    gap = np.abs(transitions.next_obs[:-1] - transitions.obs[1:]).max(1)
    jumps = (gap > CONTINUITY * (1 + np.abs(transitions.obs[1:]).max(1))) & same
    share = float(jumps.sum() / same.sum())
    episodes = np.unique(transitions.episode[1:][jumps])
    return Finding(
        name,
        "fail" if jumps.any() else "ok",
        f"In {share:.2%} of the steps the next row starts elsewhere than this one ended"
        f"{', in episodes ' + _listed(episodes) if jumps.any() else ''}.",
        "Rows are missing or shuffled: export the log again." if jumps.any() else "",
        value=share,
    )


def _time_limit(transitions: Transitions) -> Finding:
    """Many 'terminated' episodes at exactly the longest length, and none truncated there."""
    bounds = transitions.episode_bounds
    lengths, last = np.diff(bounds), bounds[1:] - 1
    longest = lengths == lengths.max()
    ended = longest & transitions.terminated[last]
    cut = longest & transitions.truncated[last] & ~transitions.terminated[last]
    many = lengths.max() > 1 and ended.sum() > max(2, SAME_LENGTH * len(lengths))
    flagged = many and not cut.any()
    return Finding(
        "time_limit",
        "watch" if flagged else "ok",
        f"{ended.sum():,} episodes terminated at the longest length, {lengths.max():,} steps.",
        "If that is a time limit, mark them truncated: values would learn that the world ends."
        if flagged
        else "",
        value=float(ended.mean()),
    )


def _clock(transitions: Transitions) -> Finding:
    """Observations from which the step, and so a time limit, can be read."""
    name, bounds = "time_in_obs", transitions.episode_bounds
    cut = transitions.truncated & ~transitions.terminated
    if cut.sum() < 2 or np.diff(bounds).max() < 3:
        return not_applicable(name, "Fewer than two episodes were truncated, or all are short.")
    step = np.arange(len(transitions)) - bounds[transitions.episode]
    step = (step - step.mean()) / step.std()
    obs = transitions.obs
    std = obs.std(0, dtype=np.float64)
    covariance = (step @ obs) / len(step)  # step has mean zero
    correlation = np.abs(covariance) / np.where(std > 0, std, np.inf)  # (O,)
    clocks = np.flatnonzero(correlation > TIME_CORRELATION)
    return Finding(
        name,
        "watch" if len(clocks) else "ok",
        f"The step explains observation {correlation.argmax()} best, with correlation "
        f"{correlation.max():.3f}.",
        f"Dimensions {_listed(clocks)} are clocks, from which truncation can be read: leave them "
        "out, or mark the time limit as terminal."
        if len(clocks)
        else "",
        value=float(correlation.max()),
    )


def _bad_episodes(transitions: Transitions) -> Finding:
    """Episodes that are far too short without an end, or in which nothing moves."""
    bounds = transitions.episode_bounds
    lengths = np.diff(bounds)
    moves = (transitions.obs != transitions.next_obs).any(1)
    frozen = (np.add.reduceat(moves, bounds[:-1], dtype=np.int64) == 0) & (lengths > 1)
    short = lengths < SHORT_EPISODE * np.median(lengths)
    short &= ~transitions.terminated[bounds[1:] - 1]
    bad = np.flatnonzero(frozen | short)
    return Finding(
        "bad_episodes",
        "watch" if len(bad) else "ok",
        f"{frozen.sum():,} episodes are frozen, {short.sum():,} are cut off at once"
        f"{': ' + _listed(bad) if len(bad) else ''}.",
        "Look at these episodes, and leave them out if the recording failed." if len(bad) else "",
        value=float(len(bad)),
    )


def _listed(numbers: NDArray[np.int64]) -> str:
    """The first ten of some numbers."""
    more = f" and {len(numbers) - 10:,} more" if len(numbers) > 10 else ""
    return ", ".join(map(str, numbers[:10])) + more
