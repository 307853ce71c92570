"""Statistics of a training split, and the split as one packed matrix."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.batch import Layout
from lit_offrl.data.columns import Column
from lit_offrl.data.transitions import EpisodeRows, Transitions
from lit_offrl.scaling import Scaling

CHUNK = 1 << 14
"""Rows handled at once, so that no second copy of the data is made."""
RELEASE = 64
"""Chunks after which the pages of a mapped data set are let go."""
SCATTERED = 256
"""Rows handled at once that do not follow each other: each makes up to 2 MB around it resident."""
NEVER = -1e15
"""Stands for minus infinity where no bound is known, and is finite under any discount."""
Rows = NDArray[np.int64] | EpisodeRows


def obs_statistics(
    transitions: Transitions, rows: Rows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the observations in ``rows``, (O,) each, in float64."""
    obs = transitions.obs
    chunks = [obs[c].sum(0, dtype=np.float64) for c in _chunks(transitions, rows)]
    mean = np.sum(chunks, axis=0) / len(rows)
    squares = np.sum([((obs[c] - mean) ** 2).sum(0) for c in _chunks(transitions, rows)], axis=0)
    return mean, np.sqrt(squares / len(rows))


def _chunks(transitions: Transitions, rows: Rows) -> Iterator[NDArray[np.int64]]:
    """Cut rows into chunks of nearly one size, and keep little of mapped data resident."""
    follow = isinstance(rows, EpisodeRows)
    parts = len(rows) // (CHUNK if follow else SCATTERED) + 1
    each, longer = divmod(len(rows), parts)
    stop = 0
    for part in range(parts):
        start, stop = stop, stop + each + (part < longer)
        yield rows[start:stop]
        if not follow or part % RELEASE == RELEASE - 1:
            transitions.release_pages()


def least_after_cut(lowest_reward: float, discount: float) -> float:
    """The least that can be earned after a time limit: ``min(r, 0) / (1 - γ)``.

    A return-to-go with it is a lower bound of what the policy earns, and exact where an episode
    that was cut has the lowest reward throughout, as in sparse tasks without success.

    Args:
        lowest_reward: r, the smallest reward of the log, transformed.
        discount: γ.
    """
    if lowest_reward >= 0:
        return 0.0
    return lowest_reward / (1 - discount) if discount < 1 else NEVER


def pack_rows(
    transitions: Transitions, rows: Rows, layout: Layout, scaling: Scaling, discount: float
) -> Tensor:
    """Scale the given rows and pack them, (len(rows), W).

    Args:
        transitions: Raw data with whole episodes.
        rows: Which rows to pack, in this order.
        layout: Columns of the matrix.
        scaling: What the networks are to see.
        discount: γ of "mc_return".
    """
    packed = torch.empty(len(rows), layout.width)  # (N, W)
    pack_into(packed.numpy(), transitions, rows, layout, scaling, discount)
    return packed


def pack_into(
    packed: Column,
    transitions: Transitions,
    rows: Rows,
    layout: Layout,
    scaling: Scaling,
    discount: float,
) -> None:
    """Write what :func:`pack_rows` returns into ``packed``, chunk after chunk (in place)."""
    mc_return = None
    if "mc_return" in layout.extras:
        reward = scaling.reward_scale * transitions.reward + scaling.reward_shift
        tail = least_after_cut(float(reward.min()), discount)
        mc_return = dataclasses.replace(transitions, reward=reward).mc_returns(discount, tail)
    stop = 0
    for part in _chunks(transitions, rows):
        start, stop = stop, stop + len(part)
        extras = _extras(transitions, part, scaling) if layout.extras else {}
        if mc_return is not None:
            extras["mc_return"] = torch.from_numpy(mc_return[part])
        chunk = layout.pack(
            scaling.normalize_obs(torch.from_numpy(transitions.obs[part])),
            _scaled(transitions.action[part], scaling),
            scaling.transform_reward(torch.from_numpy(transitions.reward[part])),
            scaling.normalize_obs(torch.from_numpy(transitions.next_obs[part])),
            torch.from_numpy(transitions.terminated[part]),
            **{name: extras[name] for name in layout.extras},
        )
        packed[start:stop] = chunk.numpy()


def _extras(
    transitions: Transitions, rows: NDArray[np.int64], scaling: Scaling
) -> dict[str, Tensor]:
    """Fields that need no more than a row and the next, by name."""
    following = np.minimum(rows + 1, len(transitions) - 1)
    goes_on = (rows < following) & (transitions.episode[rows] == transitions.episode[following])
    return {
        "truncated": torch.from_numpy(transitions.truncated[rows]),
        "has_next_action": torch.from_numpy(goes_on),
        "next_action": _scaled(transitions.action[following], scaling),
    }


def _scaled(action: NDArray[Any], scaling: Scaling) -> Tensor:
    """Box actions in [-1, 1], past which rounding may push a bound; discrete ones as they are."""
    scaled = scaling.scale_action(torch.from_numpy(action))
    return scaled.clamp(-1, 1) if scaled.is_floating_point() else scaled
