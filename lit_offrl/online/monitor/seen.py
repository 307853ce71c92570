"""Numbers of deployed episodes, and whether they can be compared with a log at all."""

from dataclasses import dataclass

import numpy as np

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.online.monitor.reference import EpisodeScores

OTHER_SCALE = 10.0
"""Factor between largest rewards from which logs are in another unit, not from a changed world."""


@dataclass(frozen=True)
class Prediction:
    """Discounted return that was predicted, in raw reward.

    Args:
        mean: The estimate.
        low: Lower end of its interval.
        high: Upper end.
        source: Where it comes from.
    """

    mean: float
    low: float
    high: float
    source: str = "given"

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low <= self.mean <= self.high):
            raise InputError(
                f"The prediction {self.mean} with the interval {self.low} to {self.high} is none: "
                "give MEAN LOW HIGH with LOW <= MEAN <= HIGH."
            )


@dataclass(frozen=True)
class Seen:
    """Numbers of one episode.

    Args:
        scores: What the log's models say.
        value: Discounted return.
        span: What it lies between, whatever a time limit cut off.
        td_error: Mean TD error; None without a critic.
    """

    scores: EpisodeScores
    value: float
    span: tuple[float, float]
    td_error: float | None

    def score(self, name: str) -> float | None:
        """The number that a test is about."""
        known: dict[str, float | None] = dict(vars(self.scores))
        return {**known, "returns": self.value, "td_error": self.td_error}[name]


def check_episodes(episodes: Transitions, log: Transitions) -> None:
    """See that episodes can be compared with a log.

    Raises:
        InputError: If they are empty, of another shape, not finite or of another reward scale.
    """
    if not len(episodes):
        raise InputError("There are no transitions to monitor: give episodes that have some.")
    shapes = [(t.obs.shape[1:], t.action.shape[1:]) for t in (log, episodes)]
    if shapes[0] != shapes[1] or log.action.dtype.kind != episodes.action.dtype.kind:
        raise InputError(
            f"The episodes have observations {shapes[1][0]} and actions {shapes[1][1]}, the "
            f"log {shapes[0][0]} and {shapes[0][1]}: give episodes of the same task."
        )
    columns = episodes.obs, episodes.next_obs, episodes.reward, episodes.action
    if not all(np.isfinite(column).all() for column in columns):
        raise InputError("The episodes hold numbers that are not finite: repair the recording.")
    largest = float(np.abs(episodes.reward).max())
    known = float(np.abs(log.reward).max())
    if largest > OTHER_SCALE * known:
        raise InputError(
            f"Rewards of the episodes reach {largest:.4g} where the log's reach "
            f"{known:.4g}: they are in another unit. Log raw rewards, as the "
            "training log has them."
        )
