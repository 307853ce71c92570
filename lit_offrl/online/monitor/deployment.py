"""Watch a deployed policy: episode by episode, with a bounded rate of false alarms."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

import numpy as np

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.evaluation.logged import logged_data
from lit_offrl.evaluation.target import GreedyPolicy, SampledPolicy
from lit_offrl.online.monitor import acting
from lit_offrl.online.monitor.evidence import hints, test_finding
from lit_offrl.online.monitor.reference import LogModel
from lit_offrl.online.monitor.seen import Prediction, Seen, check_episodes
from lit_offrl.online.monitor.sequential import (
    POWERS,
    ConformalTest,
    Cusum,
    MeanTest,
    Wealth,
    fewest_episodes,
    first_passage,
    power_bets,
    visible_drop,
)
from lit_offrl.online.monitor.verdict import PRECEDENCE, Conclusion, conclude
from lit_offrl.rng import seeded
from lit_offrl.scaling import Scaling

MARGIN = 0.1
"""Nats per transition that dynamics and rewards must be stranger than the log's, where no accepted
episodes tell what the models' errors make of this policy."""


class DeploymentMonitor:
    """Says whether deployment still matches the log, and what changed if not.

    Six tests share the rate of false alarms δ: each may alarm with probability δ/6 at most, ever,
    by Ville's inequality. With calibration episodes of the policy that is exact; without them
    dynamics and rewards are compared with held-out episodes of the log, in its core, with similar
    transitions and by a margin, and shifts of states and TD errors are no alarms.

    Args:
        algorithm: The deployed policy, its critic and γ.
        log: All transitions of the log, raw.
        spec: What is known of the log.
        scaling: What the policy was trained with.
        prediction: Predicted return; None where there is none.
        calibration: Accepted episodes of this policy.
        policy: Whether the greedy or the sampled policy is deployed.
        delta: δ.
        updates: Gradient updates of each of the two models of the log.
        seed: Of the split, the models and the draws.
        progress: Told what is done and the share of it.
    """

    def __init__(
        self,
        algorithm: OfflineAlgorithm,
        log: Transitions,
        spec: DatasetSpec,
        scaling: Scaling,
        *,
        prediction: Prediction | None = None,
        calibration: Transitions | None = None,
        policy: Literal["greedy", "sampled"] = "greedy",
        delta: float = 0.05,
        updates: int = 2000,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> None:
        if not 0 < delta < 1:
            raise InputError(f"`delta` must lie between 0 and 1, not {delta}.")
        self.algorithm, self.log, self.spec, self.scaling = algorithm, log, spec, scaling
        self.prediction, self.delta, self.seed = prediction, delta, seed
        self.threshold = len(PRECEDENCE) / delta
        """Wealth at which a test alarms."""
        self.calibrated = calibration is not None
        n_actions = spec.action_dim if spec.discrete else None
        self.acting: GreedyPolicy | SampledPolicy = (
            GreedyPolicy(algorithm, n_actions) if policy == "greedy" else SampledPolicy(algorithm)
        )
        some = log.select_episodes(np.arange(min(20, log.n_episodes)))
        self.unasked = acting.why_not_asked(self.acting, logged_data(some, scaling, n_actions))
        """Why actions are not compared with the policy's; empty if they are."""
        self.policy_wealth = None if self.unasked else Wealth(len(POWERS))
        if calibration is not None:
            check_episodes(calibration, log)
            if not self.unasked:  # before minutes of work
                own = [logged_data(one, scaling, n_actions) for one in _episodes(calibration)]
                acting.refuse_others(self.acting, own, self.threshold, seed)
        self.bounds = acting.return_bounds(log, spec, float(algorithm.discount))
        """What discounted returns cannot leave."""
        self.model = LogModel(log, scaling, n_actions, updates, seed, progress, self.calibrated)
        source = self.model.held_out if calibration is None else calibration
        self.known = [self._see(one) for one in _episodes(source)]
        """Numbers of the calibration episodes."""
        self.seen: list[Seen] = []
        """Numbers of the episodes that were added."""
        self.differing: list[float] = []
        """Share of the actions of each added episode that are not the greedy ones."""
        self.unpredicted = self._unpredicted()
        """Why returns are not compared with a prediction; empty if they are."""
        self.tests, self.reasons = self._make_tests()
        known = np.array([one.value for one in self.known])
        predicted = None if self.calibrated or self.unpredicted else prediction
        mean = float(known.mean()) if predicted is None else predicted.mean
        self.cusum = Cusum(mean, float(known.std()) or 1.0)

    def add(self, episode: Transitions) -> list[Finding]:
        """Look at the next episode, and return the alarms that it raises.

        Raises:
            InputError: If it is empty, of another shape, not finite or of another reward scale.
        """
        check_episodes(episode, self.log)
        if episode.n_episodes != 1:
            raise InputError(f"Add one episode at a time, not {episode.n_episodes}.")
        before = set(self.alarms)
        seen, data = self._see(episode), self.model.view(episode)
        if self.policy_wealth is not None:
            self.differing.append(acting.differing_share(self._greedy, data))
            p = acting.action_p_value(self.acting, data, self.seed + len(self.seen))
            self.policy_wealth.bet(power_bets(p))
        self.seen.append(seen)
        self.cusum.add(seen.value)
        for name, test in self.tests.items():
            if isinstance(test, MeanTest):
                test.add(*seen.span)
            elif (score := seen.score(name)) is not None:
                test.add(score)
            else:
                test.wealth.skip()
        return [self._finding(name) for name in self.alarms if name not in before]

    @property
    def wealth(self) -> Mapping[str, Wealth]:
        """Evidence of each test that can alarm."""
        found = {} if self.policy_wealth is None else {"policy": self.policy_wealth}
        return found | {name: test.wealth for name, test in self.tests.items()}

    @property
    def alarms(self) -> dict[str, int]:
        """Tests that alarmed, and the episodes until they did."""
        passed = {k: first_passage(w.path, self.threshold) for k, w in self.wealth.items()}
        return {name: after for name, after in passed.items() if after is not None}

    @property
    def conclusion(self) -> Conclusion:
        """What has changed."""
        n, judged, needed = len(self.seen), 0, None
        if "dynamics" in self.tests:  # rewards are scored where dynamics are
            judged = self.tests["dynamics"].wealth.judged
            needed = fewest_episodes(len(self._calibration("dynamics")), self.threshold)
        drop = self._visible_drop(n + max(0, (needed or 0) - judged))
        return conclude(self.alarms, n, judged, needed, drop, self._expected)

    @property
    def _expected(self) -> str:
        """What the episodes are compared with, in words."""
        known = ["the log"]
        if self.calibrated:
            known.append("the accepted episodes")
        if isinstance(self.tests.get("returns"), MeanTest):
            known.append("the prediction")
        return " and ".join(known)

    def _calibration(self, name: str) -> list[float]:
        """What the calibration episodes score in a test."""
        return [score for one in self.known if (score := one.score(name)) is not None]

    def _visible_drop(self, n: int) -> float | None:
        """Drop of the mean return that n episodes would show; None if none would."""
        values = np.array([one.value for one in self.known])
        test = self.tests.get("returns")
        return None if test is None else visible_drop(test, values, n, self.threshold, self.seed)

    def findings(self) -> list[Finding]:
        """Say what each test found."""
        found = [self._finding(name) for name in PRECEDENCE if name in self.wealth]
        found += [not_applicable(f"monitor_{name}", why) for name, why in self.reasons.items()]
        return found + hints(self)

    def _finding(self, name: str) -> Finding:
        return test_finding(self, name, self.wealth[name])

    @property
    def _greedy(self) -> GreedyPolicy:
        return GreedyPolicy(self.algorithm, self.spec.action_dim if self.spec.discrete else None)

    def _make_tests(self) -> tuple[dict[str, ConformalTest | MeanTest], dict[str, str]]:
        """Make the tests that can be made, and say of the others why not."""
        tests: dict[str, ConformalTest | MeanTest] = {}
        reasons = {"policy": self.unasked} if self.unasked else {}
        for name in ("dynamics", "reward", "state", "td_error"):
            scores = self._calibration(name)
            if name in ("state", "td_error") and not self.calibrated:
                reasons[name] = (
                    "The policy meets other states than the log by design: give accepted episodes "
                    "of it as calibration."
                )
            elif not scores:
                reasons[name] = (
                    "The algorithm has no critic." if name == "td_error" else "No episode scores."
                )
            else:
                margin = 0.0 if self.calibrated else MARGIN
                known = [score + margin for score in scores]
                tests[name] = ConformalTest(known, name == "td_error", self.seed)
        if self.prediction is not None and not self.unpredicted:
            low, high = np.clip([self.prediction.low, self.prediction.high], *self.bounds).tolist()
            tests["returns"] = MeanTest((low, high), self.bounds)
        elif self.calibrated:
            values = [one.value for one in self.known]
            tests["returns"] = ConformalTest(values, True, self.seed)
        else:
            reasons["returns"] = (
                f"{self.unpredicted} Give accepted episodes of the policy as calibration."
            )
        return tests, reasons

    def _unpredicted(self) -> str:
        """Say why returns cannot be compared with a prediction."""
        if self.prediction is None:
            return "No evaluation of this policy predicts its return: make one."
        hidden = float(np.mean([low < high for low, high in (one.span for one in self.known)]))
        if hidden > acting.OFTEN_HIDDEN:
            return (
                f"{hidden:.0%} of the {self.whose} are cut off where what is left of the return "
                "still weighs 5 % or more: the prediction holds that part, their returns do not."
            )
        return "" if np.isfinite(self.bounds).all() else "Returns have no bounds."

    @property
    def expects_returns(self) -> bool:
        """Whether anything says what the policy's returns should be."""
        return self.calibrated or not self.unpredicted

    @property
    def whose(self) -> str:
        """What the episodes are compared with."""
        return "accepted episodes" if self.calibrated else "held-out episodes of the log"

    def _see(self, episode: Transitions) -> Seen:
        data, error = self.model.view(episode), None
        with seeded(self.seed):  # a policy may draw its actions
            with suppress(NotApplicableError):
                error = acting.td_error(self.algorithm, data, self.scaling)
            value = acting.episode_return(self.algorithm, episode, data, self.scaling)
        span = acting.return_span(episode, float(self.algorithm.discount), self.bounds)
        return Seen(self.model.scores(episode), value, span, error)


def _episodes(transitions: Transitions) -> list[Transitions]:
    return [transitions.select_episodes(np.array([i])) for i in range(transitions.n_episodes)]
