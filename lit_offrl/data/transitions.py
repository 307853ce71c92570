"""Transitions: what every source of data is turned into."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_offrl.data.columns import release_pages
from lit_offrl.data.frames import Frames, assemble, frames_of
from lit_offrl.errors import InputError

IMAGES = "images"
"""How the names of stored frames begin."""
GROUP = 1 << 18
"""Rows, about, that are handled at once where whole episodes are."""


class EpisodeRows:
    """Row numbers of some episodes, one after the other, made when asked for.

    Args:
        starts: First row of each episode, (E,).
        lengths: Rows of each, (E,).
    """

    def __init__(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self._stops = np.cumsum(lengths)
        self._shifts = starts + lengths - self._stops

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def __getitem__(self, part: slice) -> NDArray[np.int64]:
        return self.at(np.arange(*part.indices(len(self))))

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers at some places of the sequence."""
        rows: NDArray[np.int64] = self._shifts[np.searchsorted(self._stops, places, side="right")]
        rows += places
        return rows


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
        self.release_pages()
        return totals

    def mc_returns(self, discount: float, after_cut: float = 0.0) -> NDArray[np.float32]:
        """Discounted return-to-go, (N,).

        Args:
            discount: γ.
            after_cut: What is earned after a truncation, of which nothing is known.
        """
        bounds = self.episode_bounds
        returns = np.empty(len(self), np.float32)
        for group in np.array_split(np.arange(self.n_episodes), len(self) // GROUP + 1):
            if len(group):
                rows = slice(bounds[group[0]], bounds[group[-1] + 1])
                cut = self.truncated[rows] & ~self.terminated[rows]
                reward = self.reward[rows] + np.float64(discount * after_cut) * cut
                returns[rows] = _returns_to_go(reward, self.episode[rows], discount)
        return returns

    def episode_rows(self, episodes: NDArray[np.int64]) -> EpisodeRows:
        """Rows of the given episodes, in the order given, without an array of all."""
        bounds = self.episode_bounds
        return EpisodeRows(bounds[episodes], np.diff(bounds)[episodes])

    def rows_of(self, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the given episodes, in the order given."""
        return self.episode_rows(episodes)[:]

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that are there, by name, without images."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "frames"}
        return {name: column for name, column in columns.items() if column is not None}

    def release_pages(self) -> None:
        """Let go of what was read of mapped columns."""
        for column in self.columns().values():
            release_pages(column)
        for images in self.frames:
            release_pages(images.frames)

    def select_episodes(self, episodes: NDArray[np.int64]) -> "Transitions":
        """Copy the given episodes, in the order given; they are numbered anew from 0."""
        rows = self.rows_of(episodes)
        picked: dict[str, Any] = {k: v[rows] for k, v in self.columns().items()}
        picked["frames"] = tuple(images.take(rows) for images in self.frames)
        lengths = np.diff(self.episode_bounds)[episodes]
        picked["episode"] = np.repeat(np.arange(len(episodes)), lengths)
        return Transitions(**picked)

    @classmethod
    def of(cls, **arrays: NDArray[Any]) -> "Transitions":
        """Make transitions of stored columns, those of :class:`Frames` among them."""
        count = len({name.partition("_")[0] for name in arrays if name.startswith(IMAGES)})
        frames = tuple(frames_of(f"{IMAGES}{i}", arrays) for i in range(count))
        return cls(**arrays, frames=frames)


def _returns_to_go(
    reward: NDArray[np.float64], episode: NDArray[np.int64], discount: float
) -> NDArray[np.float64]:
    """Discounted sum of the rewards from each row to the end of its episode, (n,)."""
    togo = reward.copy()
    longest = int(np.bincount(episode - episode[0]).max())
    # After each round, togo sums twice as many steps: G_2n(t) = G_n(t) + γ^n G_n(t + n).
    steps = 1
    while steps < longest:
        same = episode[:-steps] == episode[steps:]
        togo[:-steps] += discount**steps * togo[steps:] * same
        steps *= 2
    return togo
