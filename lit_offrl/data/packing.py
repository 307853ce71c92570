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
        layout: Columns of the matrix.
        scaling: What the networks are to see.
        discount: γ of "mc_return".
    """
    following = np.minimum(np.arange(len(transitions)) + 1, len(transitions) - 1)
    extras: dict[str, NDArray[Any]] = {
        "truncated": transitions.truncated,
        "has_next_action": np.append(transitions.episode[1:] == transitions.episode[:-1], False),
    }
    if "mc_return" in layout.extras:
        reward = scaling.reward_scale * transitions.reward + scaling.reward_shift
        transformed = dataclasses.replace(transitions, reward=reward)
        extras["mc_return"] = transformed.mc_returns(discount)
    packed = torch.empty(len(rows), layout.width)  # (N, W)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        own = {
            name: torch.from_numpy(extras[name][part]) for name in layout.extras if name in extras
        }
        if "next_action" in layout.extras:
            own["next_action"] = _scaled(transitions.action[following[part]], scaling)
        packed[start : start + len(part)] = layout.pack(
            scaling.normalize_obs(torch.from_numpy(transitions.obs[part])),
            _scaled(transitions.action[part], scaling),
            scaling.transform_reward(torch.from_numpy(transitions.reward[part])),
            scaling.normalize_obs(torch.from_numpy(transitions.next_obs[part])),
            torch.from_numpy(transitions.terminated[part]),
            **own,
        )
    return packed


def _scaled(action: NDArray[Any], scaling: Scaling) -> Tensor:
    """Box actions in [-1, 1], past which rounding may push a bound; discrete ones as they are."""
    scaled = scaling.scale_action(torch.from_numpy(action))
    return scaled.clamp(-1, 1) if scaled.is_floating_point() else scaled
