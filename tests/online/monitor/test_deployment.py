"""Drills: each change is named, the unchanged twin is not, and dynamics come before returns."""

import copy
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from lit_offrl.data import Transitions
from lit_offrl.data.builtin.cartpole import controller
from lit_offrl.errors import InputError
from lit_offrl.online.monitor.deployment import MARGIN, DeploymentMonitor
from lit_offrl.online.monitor.seen import Prediction
from lit_offrl.online.monitor.sequential import ConformalTest, MeanTest
from lit_offrl.online.monitor.verdict import conclude
from tests.algorithms import chain5
from tests.evaluation.fakes import identity_scaling
from tests.online.monitor import worlds

TRUTH = chain5.start_value(chain5.policy_value(chain5.constant_policy(0.9)))
NEAR = Prediction(TRUTH, TRUTH - 0.05, TRUTH + 0.05)
ENOUGH = worlds.chain(20, 6, 0.9)
"""More episodes than a strong change takes."""


def chain_monitor(calibration: Transitions | None = None) -> DeploymentMonitor:
    spec = worlds.chain_spec()
    return DeploymentMonitor(
        worlds.chain_policy(),
        worlds.chain(300, 0, right=0.6),
        spec,
        identity_scaling(spec),
        prediction=NEAR,
        calibration=calibration,
        policy="sampled",
        updates=300,
    )


@pytest.fixture(scope="module")
def from_log() -> DeploymentMonitor:
    return chain_monitor()


@pytest.fixture(scope="module")
def calibrated() -> DeploymentMonitor:
    return chain_monitor(worlds.chain(150, 1, right=0.9))


@pytest.fixture(params=["from_log", "calibrated"])
def monitor(request: pytest.FixtureRequest) -> DeploymentMonitor:
    made: DeploymentMonitor = copy.deepcopy(request.getfixturevalue(request.param))
    return made


def watch(monitor: DeploymentMonitor, episodes: Transitions) -> DeploymentMonitor:
    for episode in worlds.episodes_of(episodes):
        monitor.add(episode)
    return monitor


@pytest.mark.parametrize(
    ("episodes", "change"),
    [
        (worlds.chain(60, 3, 0.9, slip=0.3), "dynamics"),
        (worlds.scaled(worlds.chain(60, 4, 0.9), 2), "reward"),
        (worlds.chain(60, 5, 0.5), "policy support"),
        (worlds.chain(60, 6, 0.9), "none"),
    ],
    ids=["slip", "reward", "random", "unchanged"],
)
def test_each_drill_in_chain5_is_named(
    monitor: DeploymentMonitor, episodes: Transitions, change: str
) -> None:
    found = watch(monitor, episodes).conclusion
    assert found.change == change, found
    assert (found.delay is None) == (change == "none")
    returns = found.alarms.get("returns", 99)
    assert found.delay is None or found.delay < returns


def test_unchanged_replays_do_not_alarm(monitor: DeploymentMonitor) -> None:
    alarms = [
        watch(copy.deepcopy(monitor), worlds.chain(25, 1000 + i, 0.9)).alarms for i in range(10)
    ]
    assert sum(map(bool, alarms)) <= 1  # two or more: 1 % if each had a probability of 1.5 %


def test_few_episodes_are_never_called_unchanged(monitor: DeploymentMonitor) -> None:
    found = watch(monitor, worlds.chain(2, 7, 0.9)).conclusion
    assert found.change == "cannot say yet"
    assert found.needed is not None
    assert f"{found.needed - 2} more would show a strong change" in found.sentence
    assert found.episodes == 2


@pytest.mark.parametrize(("far", "change"), [(40, "cannot say yet"), (15, "none")])
def test_episodes_outside_of_the_support_are_no_evidence_of_none(
    from_log: DeploymentMonitor, far: int, change: str
) -> None:
    monitor = copy.deepcopy(from_log)
    for i, one in enumerate(worlds.episodes_of(worlds.chain(40, 6, 0.9))):
        off = 5 if i < far else 0
        monitor.add(replace(one, obs=one.obs + off, next_obs=one.next_obs + off))
    found = monitor.conclusion
    assert not found.alarms
    assert (found.change, found.judged) == (change, 40 - far)
    assert ("Only 0 of 40 lie within" in found.sentence) == (far == 40)
    assert ("collect there" in found.advice) == (far == 40)


def test_a_prediction_that_there_is_not_is_not_named(from_log: DeploymentMonitor) -> None:
    monitor = copy.deepcopy(from_log)
    assert "from the log and the prediction." in watch(monitor, ENOUGH).conclusion.sentence
    monitor = copy.deepcopy(from_log)
    del monitor.tests["returns"]
    assert "from the log. No drop" in watch(monitor, ENOUGH).conclusion.sentence


def cut_off(episodes: Transitions) -> Transitions:
    """The same, but cut off by a time limit where they ended."""
    return replace(
        episodes, terminated=np.zeros_like(episodes.terminated), truncated=episodes.terminated
    )


def test_what_time_limits_cut_off_is_no_wrong_prediction(from_log: DeploymentMonitor) -> None:
    monitor, log = copy.deepcopy(from_log), worlds.chain(40, 0, 0.6)
    wrong = watch(monitor, cut_off(worlds.chain(40, 8, 0.9)))
    assert "returns" not in wrong.alarms
    spec = worlds.chain_spec()
    often = DeploymentMonitor(
        worlds.chain_policy(), cut_off(log), spec, identity_scaling(spec),
        prediction=NEAR, calibration=cut_off(worlds.chain(60, 1, 0.9)), policy="sampled",
        updates=10,
    )  # fmt: skip
    assert isinstance(often.tests["returns"], ConformalTest)
    assert often.cusum.mean == pytest.approx(np.mean([one.value for one in often.known]))
    often.add(cut_off(worlds.chain(1, 8, 0.9)))
    meaning = next(f.meaning for f in often.findings() if f.name == "monitor_returns")
    assert "Not compared with the prediction: 100% of the accepted episodes" in meaning


@pytest.mark.parametrize("name", ["dynamics", "reward"])
def test_only_without_accepted_episodes_is_there_a_margin(
    from_log: DeploymentMonitor, calibrated: DeploymentMonitor, name: str
) -> None:
    for monitor, larger in ((from_log, True), (calibrated, False)):
        test = copy.deepcopy(monitor.tests[name])
        assert isinstance(test, ConformalTest)
        known = [one.score(name) or 0.0 for one in monitor.known]
        p = test.add(max(known) + MARGIN / 2)  # stranger than all that are known
        assert (p > 1 / (len(known) + 1)) is larger


class Drawing(worlds.Table):
    """Draws what it does, and says no probabilities."""

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(self.table[obs.argmax(-1)], 1).squeeze(-1)


class Exploring(worlds.Table):
    """Has a rule of its own to draw by, as PEX has."""

    draws_from_policy = False

    def explore(self, obs: torch.Tensor) -> torch.Tensor:
        return self.act(obs)


@pytest.mark.parametrize(("kind", "policy"), [(Drawing, "greedy"), (Exploring, "sampled")])
def test_draws_without_probabilities_are_not_told_from_others(
    kind: type[worlds.Table], policy: Literal["greedy", "sampled"]
) -> None:
    spec, table = worlds.chain_spec(), worlds.chain_policy()
    values = []
    for _ in range(2):  # draws follow from the seed
        monitor = DeploymentMonitor(
            kind(table.table.detach().numpy(), table.q.numpy(), 0.95), worlds.chain(40, 0, 0.6),
            spec, identity_scaling(spec), calibration=worlds.chain(30, 1, 0.9), updates=10,
            policy=policy,
        )  # fmt: skip
        watch(monitor, cut_off(worlds.chain(5, 2, 0.1)))
        values.append([(one.value, one.td_error) for one in monitor.seen])
        findings = {finding.name: finding for finding in monitor.findings()}
        assert findings["monitor_policy"].verdict == "not applicable"
        assert "no probabilities" in findings["monitor_policy"].meaning
        assert "policy" not in monitor.wealth
    assert values[0] == values[1]


def test_calibration_episodes_are_the_policy_s_own() -> None:
    with pytest.raises(InputError, match="other actions than the sampled policy's"):
        chain_monitor(worlds.chain(60, 1, right=0.5))


def test_where_no_number_of_episodes_would_do_more_of_them_are_not_asked_for() -> None:
    found = conclude({}, 500, 500, None, None)
    assert found.change == "cannot say yet"
    assert "calibration" in found.sentence and "calibration" in found.advice


def test_a_wrong_prediction_is_not_a_change_of_the_world(from_log: DeploymentMonitor) -> None:
    monitor = copy.deepcopy(from_log)
    test = monitor.tests["returns"]
    assert isinstance(test, MeanTest)
    monitor.tests["returns"] = MeanTest((4.0, 6.0), test.bounds)
    found = watch(monitor, worlds.chain(80, 8, 0.9)).conclusion
    assert found.change == "prediction"
    assert set(found.alarms) == {"returns"}


def test_a_cause_is_named_before_what_it_moves() -> None:
    order = ["policy", "dynamics", "reward", "state", "td_error", "returns"]
    named = [
        conclude({name: 9 - i for i, name in enumerate(order[k:])}, 9, 9, 5, 1.0) for k in range(6)
    ]
    assert [found.change for found in named] == [
        "policy support", "dynamics", "reward", "covariate", "prediction", "prediction",
    ]  # fmt: skip
    assert all(found.delay == 9 for found in named)
    assert next(iter(named[0].alarms)) == "returns"  # the first to alarm


def test_an_alarm_is_told_once(from_log: DeploymentMonitor) -> None:
    monitor = copy.deepcopy(from_log)
    told = [monitor.add(e) for e in worlds.episodes_of(worlds.chain(20, 5, 0.5))]
    alarms = [finding.name for findings in told for finding in findings]
    assert alarms == ["monitor_policy"]
    assert monitor.alarms["policy"] == 1 + next(i for i, findings in enumerate(told) if findings)


def test_shifts_of_states_are_no_alarms_without_calibration(from_log: DeploymentMonitor) -> None:
    names = {finding.name: finding for finding in from_log.findings()}
    for name in ("monitor_state", "monitor_td_error"):
        assert names[name].verdict == "not applicable"
        assert "calibration" in names[name].meaning


def test_the_rate_of_false_alarms_is_split_over_the_tests(calibrated: DeploymentMonitor) -> None:
    assert set(calibrated.wealth) == {
        "policy", "dynamics", "reward", "state", "td_error", "returns",
    }  # fmt: skip
    assert calibrated.threshold == pytest.approx(len(calibrated.wealth) / calibrated.delta)


def test_td_errors_of_exact_values_average_to_zero(calibrated: DeploymentMonitor) -> None:
    errors = [one.td_error for one in calibrated.known]
    assert None not in errors
    mean, error = np.mean(errors), np.std(errors) / len(errors) ** 0.5  # type: ignore[arg-type]
    # Q of the policy is asked for the greedy action next, which is worth no less
    assert abs(mean) < 4 * error + 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("episodes", "changes"),
    [
        (lambda: worlds.cartpole(30, 8000, force_mag=15.0), {"dynamics"}),
        (lambda: worlds.cartpole(30, 8000, controller(epsilon=1.0)), {"policy support"}),
        (lambda: worlds.cartpole(30, 8000, offset=0.1), {"covariate", "dynamics"}),
        (lambda: worlds.cartpole(30, 8000, place=0.1), {"covariate"}),
        (lambda: worlds.scaled(worlds.cartpole(30, 8000), 2), {"reward"}),
        (lambda: worlds.cartpole(30, 8000), {"none"}),
    ],
    ids=["force", "random", "sensor", "place", "reward", "unchanged"],
)
def test_each_drill_in_cartpole_is_named(
    pole: DeploymentMonitor, episodes: worlds.Make, changes: set[str]
) -> None:
    found = watch(copy.deepcopy(pole), episodes()).conclusion
    assert found.change in changes, found
    assert (found.delay or 0) < found.alarms.get("returns", 99)


@pytest.fixture(scope="module")
def pole() -> DeploymentMonitor:
    spec, log = worlds.cartpole_spec(), worlds.cartpole(100, 0, controller(epsilon=0.4))
    scaling = worlds.standard(log, spec)
    return DeploymentMonitor(
        worlds.Balancer(scaling),
        log,
        spec,
        scaling,
        prediction=Prediction(9.98, 9.9, 10.0),
        calibration=worlds.cartpole(60, 5000),
        updates=600,
    )


def one_episode() -> Transitions:
    return worlds.chain(1, 0, 0.9)


@pytest.mark.parametrize(
    ("episode", "complaint"),
    [
        (replace(one_episode(), reward=one_episode().reward * 1000), "in another unit"),
        (replace(one_episode(), reward=one_episode().reward * np.nan), "not finite"),
        (replace(one_episode(), obs=one_episode().obs[:, :4]), "same task"),
        (replace(one_episode(), action=one_episode().action.astype(np.float32)), "same task"),
        (worlds.chain(2, 0, 0.9), "one episode at a time"),
        (worlds.chain(1, 0, 0.9).select_episodes(np.array([], np.int64)), "no transitions"),
    ],
)
def test_wrong_episodes_are_refused_and_not_counted(
    from_log: DeploymentMonitor, episode: Transitions, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        from_log.add(episode)
    assert not from_log.seen and not from_log.cusum.path


@pytest.mark.parametrize("values", [(1, 2, 3), (2, 3, 1), (0, float("nan"), 1)])
def test_a_prediction_lies_in_its_interval(values: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="is none"):
        Prediction(*values)
