"""From alarms to a cause: which comes first, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Change = Literal[
    "none", "policy support", "dynamics", "reward", "covariate", "prediction", "cannot say yet"
]
PRECEDENCE: dict[str, Change] = {
    "policy": "policy support",
    "dynamics": "dynamics",
    "reward": "reward",
    "state": "covariate",
    "td_error": "prediction",
    "returns": "prediction",
}
"""Tests, each before those that its cause also moves.

Whether actions are the policy's is judged at the states that were met, so that nothing but another
policy alters it. Dynamics are judged given (s, a), so that neither the policy nor the reward alter
them; rewards given (s, a, s'), so that dynamics do not. All three move the states that are met, and
with them TD errors and returns: those name the cause only where nothing before them changed.
"""
MEANING: dict[Change, str] = {
    "none": "Nothing differs from",
    "policy support": "The actions in the logs are not those of this checkpoint.",
    "dynamics": "The same actions in the same states lead elsewhere than in the log.",
    "reward": "The same transitions earn other rewards than in the log.",
    "covariate": "Other states are met than before, though they answer to actions as before.",
    "prediction": "The world is as in the log, but the policy does not earn what was expected.",
    "cannot say yet": "Too few episodes were judged to rule a change out.",
}
ADVICE: dict[Change, str] = {
    "none": "Go on.",
    "policy support": "Check what is deployed, and roll back to the evaluated checkpoint.",
    "dynamics": "Roll back to what is known to be safe, collect episodes in the changed world and "
    "retrain on them: values learned before do not hold there.",
    "reward": "Check the reward's unit and definition; if it is meant, relabel the log and "
    "retrain, otherwise repair it.",
    "covariate": "Check sensors and who or what is now served; collect episodes there and retrain "
    "if returns fall.",
    "prediction": "Trust the returns, not what was expected: roll back if they are too low, "
    "collect these episodes and evaluate again.",
    "cannot say yet": "Collect more episodes before trusting it.",
}
UNKNOWN_TO_THE_LOG = (
    "More episodes like these will not do: collect there before the next training, and calibrate "
    "with accepted episodes of the policy."
)
"""Advice where most episodes lie outside the log's support."""
CALIBRATE = "Give accepted episodes of the policy as calibration, or more of them."
"""Advice where no number of episodes would do."""


@dataclass(frozen=True)
class Conclusion:
    """What has changed.

    Args:
        change: The cause.
        delay: Episodes until the test that names it alarmed; None if none did.
        alarms: All tests that alarmed, and after how many episodes each.
        episodes: Episodes seen.
        judged: Those of them whose dynamics and rewards were judged.
        needed: Judged episodes without an alarm after which ``none`` is said; None if never.
        drop: Drop of the mean return that as many would show, in raw reward; None if none would.
        expected: What the episodes are compared with.
    """

    change: Change
    delay: int | None
    alarms: Mapping[str, int]
    episodes: int
    judged: int
    needed: int | None
    drop: float | None
    expected: str = "the log"

    @property
    def sentence(self) -> str:
        """The conclusion in words."""
        words = MEANING[self.change]
        if self.alarms:
            others = ", ".join(f"{name} {after}" for name, after in self.alarms.items())
            return f"{words} Episodes until each alarm: {others}."
        if self.change == "none":
            return f"{words} {self.expected}. {self._drop} would probably have shown by now."
        if self.needed is None:
            return f"{words} With so few calibration episodes in the log's support no number would."
        if self._unknown:
            return (
                f"{words} Only {self.judged} of {self.episodes} lie within the log's support, "
                f"and {self.needed} must."
            )
        more = self.needed - self.judged
        return f"{words} {more} more would show a strong change. {self._drop} probably would."

    @property
    def _unknown(self) -> bool:
        """Whether most episodes lie where the log knows nothing."""
        return 2 * self.judged < self.episodes

    @property
    def _drop(self) -> str:
        if self.drop is None:
            return "No drop of the return"
        return f"A drop of the mean return by {self.drop:.3g}"

    @property
    def advice(self) -> str:
        """What to do."""
        if self.change == "cannot say yet" and self.needed is None:
            return CALIBRATE
        if self.change == "cannot say yet" and self._unknown:
            return UNKNOWN_TO_THE_LOG
        return ADVICE[self.change]


def conclude(
    alarms: Mapping[str, int],
    episodes: int,
    judged: int,
    needed: int | None,
    drop: float | None,
    expected: str = "the log",
) -> Conclusion:
    """Name the cause of alarms, or say whether their absence means anything.

    Args:
        alarms: Test to episodes until it alarmed.
        episodes: Episodes seen.
        judged: Those of them whose dynamics and rewards were judged.
        needed: Judged episodes that it takes to see a strong change; None if none suffice.
        drop: Drop of the mean return that as many would show.
        expected: What the episodes are compared with.

    >>> conclude({"returns": 3, "dynamics": 9}, 12, 12, 5, None).change
    'dynamics'
    >>> conclude({}, 60, 3, 5, 2.0).change
    'cannot say yet'
    """
    first = next((name for name in PRECEDENCE if name in alarms), None)
    ordered = dict(sorted(alarms.items(), key=lambda item: item[1]))
    if first is not None:
        change, delay = PRECEDENCE[first], alarms[first]
        return Conclusion(change, delay, ordered, episodes, judged, needed, drop, expected)
    change = "none" if needed is not None and judged >= needed else "cannot say yet"
    return Conclusion(change, None, {}, episodes, judged, needed, drop, expected)
