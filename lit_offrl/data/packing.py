"""Statistics of a training split, and the split as one packed matrix."""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.batch import Layout
from lit_offrl.data.transitions import Transitions
from lit_offrl.scaling import Scaling

CHUNK = 1 << 14
"""Rows handled at once, so that no second copy of the data is made."""


def obs_statistics(
    transitions: Transitions, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the observations in ``rows``, (O,) each, in float64."""
    chunks = np.array_split(rows, len(rows) // CHUNK + 1)
    total = np.sum([transitions.obs[c].sum(0, dtype=np.float64) for c in chunks], axis=0)
    mean = total / len(rows)
    squares = np.sum([((transitions.obs[c] - mean) ** 2).sum(0) for c in chunks], axis=0)
    return mean, np.sqrt(squares / len(rows))


def pack_rows(
    transitions: Transitions,
    rows: NDArray[np.int64],
    layout: Layout,
    scaling: Scaling,
    discount: float,
) -> Tensor:
    """Scale the given rows and pack them, (len(rows), W).

    Args:
        transitions: Raw data with whole episodes.
        rows: Which rows to pack, in this order.
        layout: Columns of the matrix; its extras may be "truncated" and "mc_return".
        scaling: What the networks are to see.
        discount: γ of "mc_return".
    """
    extras: dict[str, NDArray[Any]] = {"truncated": transitions.truncated}
    if "mc_return" in layout.extras:
        reward = scaling.reward_scale * transitions.reward + scaling.reward_shift
        transformed = dataclasses.replace(transitions, reward=reward)
        extras["mc_return"] = transformed.mc_returns(discount)
    packed = torch.empty(len(rows), layout.width)  # (N, W)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        action = torch.from_numpy(transitions.action[part])
        if not layout.discrete:  # rounding may push a bound past 1
            action = scaling.scale_action(action).clamp(-1, 1)
        packed[start : start + len(part)] = layout.pack(
            scaling.normalize_obs(torch.from_numpy(transitions.obs[part])),
            action,
            scaling.transform_reward(torch.from_numpy(transitions.reward[part])),
            scaling.normalize_obs(torch.from_numpy(transitions.next_obs[part])),
            torch.from_numpy(transitions.terminated[part]),
            **{name: torch.from_numpy(extras[name][part]) for name in layout.extras},
        )
    return packed
