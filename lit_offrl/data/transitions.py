"""Transitions: what every source of data is turned into."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_offrl.data.frames import Frames, assemble, frames_of
from lit_offrl.errors import InputError

IMAGES = "images"
"""How the names of stored frames begin."""


@dataclass(frozen=True)
class Transitions:
    """Flat transitions in raw units, episode after episode.

    Args:
        obs: Flattened observations, (N, O).
        action: Box actions, (N, A), or indices of discrete ones, (N,).
        reward: Rewards, (N,).
        next_obs: What was observed after the action, also where a time limit struck, (N, O).
        terminated: Whether the episode ended for good, (N,).
        truncated: Whether a time limit or the end of the log cut the episode, (N,).
        episode: Number of the episode, 0 to E - 1 in order, (N,).
        behavior_log_prob: Logged log-probability of the action, (N,), where the set has it.
        frames: Images of the observations; ``obs`` and ``next_obs`` hold what is no image.
    """

    obs: NDArray[np.float32]
    action: NDArray[np.float32] | NDArray[np.int64]
    reward: NDArray[np.float32]
    next_obs: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    episode: NDArray[np.int64]
    behavior_log_prob: NDArray[np.float32] | None = None
    frames: tuple[Frames, ...] = ()

    def __post_init__(self) -> None:
        for name in ("reward", "terminated", "truncated", "episode", "behavior_log_prob"):
            column = getattr(self, name)
            if column is not None and column.ndim != 1:  # (N, 1) and (N,) would make (N, N)
                raise InputError(f"`{name}` has shape {column.shape}: it takes one number per row.")

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def n_episodes(self) -> int:
        """Number of episodes E."""
        return int(self.episode[-1]) + 1 if len(self) else 0

    @property
    def episode_bounds(self) -> NDArray[np.int64]:
        """First row of each episode, and N at the end, (E + 1,)."""
        return np.searchsorted(self.episode, np.arange(self.n_episodes + 1)).astype(np.int64)

    def observed(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Observations of some rows with their images, (n, O): bytes if they are images alone."""
        if not self.frames:
            return self.obs[rows]
        return assemble(self.obs[rows], self.frames, [f.images(f.index[rows]) for f in self.frames])

    def next_observed(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Next observations, as :meth:`observed`."""
        if not self.frames:
            return self.next_obs[rows]
        images = [f.images(f.next_index[rows]) for f in self.frames]
        return assemble(self.next_obs[rows], self.frames, images)

    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode, (E,)."""
        totals = np.zeros(self.n_episodes)
        np.add.at(totals, self.episode, self.reward)
        return totals

    def mc_returns(self, discount: float) -> NDArray[np.float32]:
        """Discounted return-to-go within the episode, (N,).

        After a truncation nothing is known and nothing is added.
        """
        togo = self.reward.astype(np.float64)
        longest = int(np.diff(self.episode_bounds).max(initial=0))
        # After each round, togo sums twice as many steps: G_2n(t) = G_n(t) + γ^n G_n(t + n).
        steps = 1
        while steps < longest:
            same = self.episode[:-steps] == self.episode[steps:]
            togo[:-steps] += discount**steps * togo[steps:] * same
            steps *= 2
        return togo.astype(np.float32)

    def rows_of(self, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the given episodes, in the order given."""
        bounds = self.episode_bounds
        rows = [np.arange(bounds[e], bounds[e + 1]) for e in episodes]
        return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)

    def select_episodes(self, episodes: NDArray[np.int64]) -> "Transitions":
        """Copy the given episodes, in the order given; they are numbered anew from 0."""
        rows = self.rows_of(episodes)
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "frames"}
        picked: dict[str, Any] = {k: None if v is None else v[rows] for k, v in columns.items()}
        picked["frames"] = tuple(images.take(rows) for images in self.frames)
        lengths = np.diff(self.episode_bounds)[episodes]
        picked["episode"] = np.repeat(np.arange(len(episodes)), lengths)
        return Transitions(**picked)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All columns and frames by name, for storage."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "frames"}
        found = {name: column for name, column in columns.items() if column is not None}
        for i, images in enumerate(self.frames):
            found |= images.arrays(f"{IMAGES}{i}")
        return found

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]]) -> "Transitions":
        """Undo :meth:`arrays`."""
        rest = dict(arrays)
        count = len({name.partition("_")[0] for name in rest if name.startswith(IMAGES)})
        frames = tuple(frames_of(f"{IMAGES}{i}", rest) for i in range(count))
        return cls(**rest, frames=frames)
