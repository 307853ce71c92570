"""Which episodes of a data set are trained on, and which are held out."""

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_offrl.ranges import within

_log = logging.getLogger(__name__)
Episodes = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """How episodes are split, see :class:`~lit_offrl.data.datamodule.OfflineDataModule`."""

    held_out: float
    seed: int
    top_fraction: float

    def __post_init__(self) -> None:
        within("[0, 1)", held_out=self.held_out)
        within("(0, 1]", top_fraction=self.top_fraction)
        within("[0, inf)", split_seed=self.seed)

    def whole(self, n_episodes: int, dataset_id: str) -> tuple[Episodes, Episodes]:
        """Episodes that are not held out and those that are, each in the data's order.

        At least one is held out if any are to be, and at least one is not.
        """
        order = np.random.default_rng(self.seed).permutation(n_episodes)
        n_held_out = 0
        if self.held_out > 0:
            n_held_out = min(max(round(self.held_out * n_episodes), 1), n_episodes - 1)
            if n_episodes == 1:
                _log.warning(
                    "Data set `%s` has one episode: all of it is trained on and none held out.",
                    dataset_id,
                )
        return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])

    def best(self, episodes: Episodes, returns: NDArray[np.float64]) -> Episodes:
        """Those of some episodes with the highest returns, in the data's order.

        Args:
            episodes: Episodes to choose ``top_fraction`` from, (E,).
            returns: Return of every episode of the data set.
        """
        if self.top_fraction == 1:
            return episodes
        best = np.argsort(-returns[episodes], kind="stable")
        return np.sort(episodes[best[: math.ceil(self.top_fraction * len(episodes))]])
