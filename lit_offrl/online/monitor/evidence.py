"""What the tests of the monitor found, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy.stats import rankdata

from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.online.monitor.seen import Prediction, Seen
from lit_offrl.online.monitor.sequential import (
    ConformalTest,
    Cusum,
    MeanTest,
    Wealth,
    first_passage,
)
from lit_offrl.online.monitor.verdict import ADVICE, PRECEDENCE


class Watched(Protocol):
    """What is told of a monitor, see :class:`~.deployment.DeploymentMonitor`."""

    threshold: float
    calibrated: bool
    known: list[Seen]
    seen: list[Seen]
    differing: list[float]
    tests: dict[str, ConformalTest | MeanTest]
    cusum: Cusum
    prediction: Prediction | None
    unpredicted: str

    @property
    def expects_returns(self) -> bool:
        """Whether anything says what the policy's returns should be."""


ABOUT = {
    "policy": "that the actions are the policy's",
    "dynamics": "that next observations follow the log's dynamics",
    "reward": "that rewards follow the log's",
    "state": "that states are like the calibration episodes'",
    "td_error": "that TD errors are like the calibration episodes'",
    "returns": "that returns are as predicted",
}
"""What each test bets against; without a prediction the last is :data:`ABOUT_RETURNS`."""
ABOUT_RETURNS = "that returns are like the calibration episodes'"
AUC_WATCH = 0.8
"""AUC of state distances from which a shift is worth a look."""


def test_finding(monitor: Watched, name: str, wealth: Wealth) -> Finding:
    """Say how much one test holds against the assumption that it bets on."""
    after = first_passage(wealth.path, monitor.threshold)
    e_value = float(np.exp(min(wealth.log_peak, 700.0)))
    conformal = isinstance(monitor.tests.get(name), ConformalTest)
    about = ABOUT_RETURNS if name == "returns" and conformal else ABOUT[name]
    meaning = (
        f"Evidence against the assumption {about} reached e = {e_value:.3g} (alarm at "
        f"{monitor.threshold:.3g}){'' if after is None else f', after {counted(after)}'}"
        f"{_detail(monitor, name)}."
    )
    if after is None:
        return Finding(f"monitor_{name}", "ok", meaning, value=e_value)
    return Finding(f"monitor_{name}", "fail", meaning, ADVICE[PRECEDENCE[name]], e_value)


test_finding.__test__ = False  # type: ignore[attr-defined]


def hints(monitor: Watched) -> list[Finding]:
    """Say what is worth a look and never alarms: CUSUM, states, support."""
    if not monitor.seen:
        return []
    return [_cusum(monitor), _states(monitor), _support(monitor)]


def counted(episodes: int) -> str:
    """Say a number of episodes.

    >>> counted(1), counted(2)
    ('1 episode', '2 episodes')
    """
    return f"{episodes:,} episode{'s' * (episodes != 1)}"


def area_under_curve(known: Sequence[float], new: Sequence[float]) -> float:
    """Probability that a new number is larger than a known one; ties count half.

    >>> area_under_curve([0.0, 1.0], [1.0, 2.0])
    0.875
    """
    ranks = rankdata([*known, *new])
    m = len(new)
    return float((ranks[len(known) :].sum() - m * (m + 1) / 2) / (len(known) * m))


def _detail(monitor: Watched, name: str) -> str:
    """The numbers behind a test."""
    if not monitor.seen:
        return ""
    if name == "policy":
        return f"; {np.mean(monitor.differing):.1%} of the actions are not the greedy ones"
    scores = [score for one in monitor.seen if (score := one.score(name)) is not None]
    if not scores:
        return "; no episode could be scored within the log's support"
    text = f"; mean {np.mean(scores):.4g}"
    test = monitor.tests[name]
    if isinstance(test, MeanTest):
        low, high = test.interval
        a, b = test.bounds
        cut = np.mean([one.span[0] < one.span[1] for one in monitor.seen])
        rest = (
            f"; {cut:.0%} of the episodes are cut off, and count as what fits that best"
            if cut
            else ""
        )
        return (
            f"{text}, predicted {low:.4g} to {high:.4g}, bounds {a:.4g} to {b:.4g} from the log's "
            f"rewards{rest}"
        )
    known = [score for one in monitor.known if (score := one.score(name)) is not None]
    text += f", {np.mean(known):.4g} in {len(known)} calibration episodes"
    ratios = [one.scores.ratio for one in monitor.seen if one.scores.ratio is not None]
    if name == "returns" and monitor.prediction is not None:
        text += f". Not compared with the prediction: {monitor.unpredicted.removesuffix('.')}"
    if name == "reward" and ratios:
        text += f"; rewards are {np.mean(ratios):.3g} times those of similar logged transitions"
    return text


def _cusum(monitor: Watched) -> Finding:
    cusum = monitor.cusum
    if not monitor.expects_returns:
        reason = "Returns of the log are those of another policy, and no prediction says its own."
        return not_applicable("monitor_cusum", reason)
    meaning = (
        f"The cumulative sum of standardized returns is at {cusum.path[-1]:+.2f} (limit "
        f"{cusum.h:g}; crossed once in 465 episodes by chance)."
    )
    if cusum.crossed is None:
        return Finding("monitor_cusum", "ok", meaning, value=cusum.path[-1])
    meaning += f" It crossed after {counted(cusum.crossed)}."
    advice = "Look at the returns of the last episodes."
    return Finding("monitor_cusum", "watch", meaning, advice, cusum.path[-1])


def _states(monitor: Watched) -> Finding:
    known = [one.scores.state for one in monitor.known]
    auc = area_under_curve(known, [one.scores.state for one in monitor.seen])
    whose = "calibration episodes" if monitor.calibrated else "held-out episodes of the log"
    meaning = f"Episodes are farther from the log's states than {whose} with AUC {auc:.2f}."
    if auc < AUC_WATCH:
        return Finding("monitor_states", "ok", meaning, value=auc)
    advice = (
        "States have shifted: see the verdict."
        if monitor.calibrated
        else "A learned policy may meet such states by design: calibrate with accepted episodes."
    )
    return Finding("monitor_states", "watch", meaning, advice, auc)


def _support(monitor: Watched) -> Finding:
    outside = float(np.mean([one.scores.outside for one in monitor.seen]))
    known = float(np.mean([one.scores.outside for one in monitor.known]))
    rim = "" if monitor.calibrated else "; without accepted episodes, nor are those at its rim"
    meaning = (
        f"{outside:.1%} of the transitions lie outside the log's support and are not judged "
        f"({known:.1%} in calibration episodes){rim}."
    )
    if outside <= max(2 * known, 0.1):
        return Finding("monitor_support", "ok", meaning, value=outside)
    advice = "The log knows little of what is met: collect there before the next training."
    return Finding("monitor_support", "watch", meaning, advice, outside)
