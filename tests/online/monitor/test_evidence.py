"""What the monitor says of its evidence: numbers, limits, and when something is worth a look."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from lit_offrl.evaluation.finding import Finding
from lit_offrl.online.monitor.evidence import hints
from lit_offrl.online.monitor.evidence import test_finding as finding_of
from lit_offrl.online.monitor.reference import EpisodeScores
from lit_offrl.online.monitor.seen import Prediction, Seen
from lit_offrl.online.monitor.sequential import ConformalTest, Cusum, MeanTest, Wealth


def one(
    state: float = 1.0, outside: float = 0.0, reward: float | None = 0.0, value: float = 5.0,
    span: tuple[float, float] = (5.0, 5.0), ratio: float | None = None,
) -> Seen:  # fmt: skip
    return Seen(EpisodeScores(0.0, reward, state, outside, ratio), value, span, None)


@dataclass
class Watch:
    """A monitor without models: it has seen what it is given."""

    seen: list[Seen] = field(default_factory=list)
    known: list[Seen] = field(default_factory=lambda: [one()])
    threshold: float = 10.0
    calibrated: bool = False
    differing: list[float] = field(default_factory=list)
    tests: dict[str, ConformalTest | MeanTest] = field(default_factory=dict)
    cusum: Cusum = field(default_factory=lambda: Cusum(0.0, 1.0))
    prediction: Prediction | None = None
    unpredicted: str = ""
    expects_returns: bool = True


def wealth_of(*path: float) -> Wealth:
    wealth = Wealth(1)
    wealth.path = np.log(path).tolist()
    return wealth


def hint(name: str, watch: Watch) -> Finding:
    if not watch.cusum.path:
        watch.cusum.add(0.0)
    return next(finding for finding in hints(watch) if finding.name == f"monitor_{name}")


def test_evidence_is_the_peak_and_fails_from_the_alarm_on() -> None:
    below = finding_of(Watch(), "dynamics", wealth_of(2.0, 9.9, 3.0))
    assert (below.verdict, below.advice) == ("ok", "")
    assert below.value == pytest.approx(9.9) and "after" not in below.meaning
    above = finding_of(Watch(), "dynamics", wealth_of(2.0, 10.0, 0.5))
    assert above.verdict == "fail" and above.value == pytest.approx(10.0)
    assert "reached e = 10 (alarm at 10), after 2 episodes" in above.meaning
    assert "Roll back" in above.advice and "relabel" not in above.advice
    assert "relabel" in finding_of(Watch(), "reward", wealth_of(10.0)).advice


def test_the_share_of_other_actions_is_told() -> None:
    watch = Watch(seen=[one(), one()], differing=[0.5, 0.1])
    meaning = finding_of(watch, "policy", wealth_of(1.0)).meaning
    assert "30.0% of the actions are not the greedy ones" in meaning


def test_scores_stand_beside_those_of_the_calibration_episodes() -> None:
    test = ConformalTest([0.0])
    watch = Watch(
        [one(reward=2.0, ratio=3.0), one(reward=None), one(reward=4.0)],
        [one(reward=0.0), one(reward=1.0), one(reward=None)],
        tests={"reward": test},
    )
    meaning = finding_of(watch, "reward", test.wealth).meaning
    assert "mean 3, 0.5 in 2 calibration episodes; rewards are 3 times those" in meaning
    watch.seen = [one(reward=None)]
    assert "could be scored" in finding_of(watch, "reward", test.wealth).meaning


def test_returns_are_compared_with_the_prediction_or_it_is_said_why_not() -> None:
    test = MeanTest((1.0, 2.0), (0.0, 9.0))
    cut = one(value=4.0, span=(4.0, 6.0))
    watch = Watch([one(value=5.0), cut, one(value=6.0), one(value=5.0)], tests={"returns": test})
    meaning = finding_of(watch, "returns", test.wealth).meaning
    assert "that returns are as predicted" in meaning
    assert "mean 5, predicted 1 to 2, bounds 0 to 9" in meaning
    assert "25% of the episodes are cut off" in meaning
    watch.seen = [one()]
    assert "cut off" not in finding_of(watch, "returns", test.wealth).meaning
    other = ConformalTest([5.0])
    watch.tests, watch.prediction = {"returns": other}, Prediction(1.0, 0.0, 2.0)
    watch.unpredicted = "Returns have no bounds."
    meaning = finding_of(watch, "returns", other.wealth).meaning
    assert "like the calibration episodes'" in meaning
    assert meaning.endswith("Not compared with the prediction: Returns have no bounds.")


def test_nothing_is_hinted_at_before_an_episode() -> None:
    assert hints(Watch()) == []


@pytest.mark.parametrize(
    ("states", "auc", "verdict"),
    [((1.0, 3.0), 0.625, "ok"), ((3.0, 3.0, 1.5), 5 / 6, "watch"), ((0.0, 0.0), 0.0, "ok")],
)
def test_states_farther_than_four_of_five_are_worth_a_look(
    states: tuple[float, ...], auc: float, verdict: str
) -> None:
    known = [one(state=1.0), one(state=2.0)] if auc else [one(state=1.0)]
    found = hint("states", Watch([one(state=state) for state in states], known))
    assert found.value == pytest.approx(auc) and found.verdict == verdict
    assert "held-out episodes of the log" in found.meaning
    assert ("calibrate" in found.advice) == (verdict == "watch")
    own = hint("states", Watch([one(state=state) for state in states], known, calibrated=True))
    assert "than calibration episodes" in own.meaning
    assert ("States have shifted" in own.advice) == (verdict == "watch")


@pytest.mark.parametrize(
    ("outside", "known", "verdict"),
    [(0.1, 0.0, "ok"), (0.11, 0.0, "watch"), (0.4, 0.2, "ok"), (0.41, 0.2, "watch")],
)
def test_much_more_outside_of_the_support_than_before_is_worth_a_look(
    outside: float, known: float, verdict: str
) -> None:
    watch = Watch([one(outside=0.0), one(outside=2 * outside)], [one(outside=known)])
    found = hint("support", watch)
    assert found.value == pytest.approx(outside) and found.verdict == verdict
    assert f"{outside:.1%} of the transitions" in found.meaning and f"({known:.1%}" in found.meaning


def test_a_sum_of_returns_that_crosses_its_limit_is_worth_a_look() -> None:
    watch = Watch([one()], cusum=Cusum(0.0, 1.0))
    for x in (-3.0, -2.0, -3.0):
        watch.cusum.add(x)
    found = hint("cusum", watch)
    assert (found.verdict, found.value) == ("watch", -6.5)
    assert "is at -6.50 (limit 5;" in found.meaning and "crossed after 3 episodes" in found.meaning
    watch.cusum = Cusum(0.0, 1.0)
    assert (hint("cusum", watch).verdict, hint("cusum", watch).advice) == ("ok", "")
    watch.expects_returns = False
    assert hint("cusum", watch).verdict == "not applicable"
