"""Which algorithms the rules rank first, one case for every rule."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from lit_offrl.data.spec import DatasetSpec, make_spec
from lit_offrl.evaluation.finding import Finding
from lit_offrl.inspection import Answers
from lit_offrl.inspection.evidence import RULES, Evidence, read_evidence
from lit_offrl.inspection.recommendation import (
    BOX,
    CONSERVATIVE,
    DISCRETE,
    Candidate,
    domain_of,
    ranking,
    recommend,
)
from tests.inspection.test_flags import clean, inspected, lost_row

ROOT = Path(__file__).parents[2]
IMAGE = Box(0, 255, (40, 40, 3), np.uint8)
BOX_LOG = Evidence(
    discrete=False,
    n_actions=3,
    episodes=200,
    zero=0.0,
    quality=0.5,
    spread=0.1,
    good=0.1,
    poor=0.0,
    trend=0.0,
    actions=10.0,
    determinism=0.0,
    answers=Answers(),
)
DISCRETE_LOG = replace(BOX_LOG, discrete=True, actions=2.0)
CHEAP = Answers(can_collect=True, expensive=False, dangerous=False)
DEAR = Answers(can_collect=True, expensive=True)
DANGER = Answers(dangerous=True)

CASES: dict[str, tuple[Evidence, list[str]]] = {
    "uneven": (BOX_LOG, ["IQL", "TD3BC", "ReBRAC"]),
    "tiny": (replace(BOX_LOG, episodes=29), ["BC", "IQL", "AWAC", "ReBRAC"]),
    "tiny, sparse": (
        replace(BOX_LOG, episodes=29, zero=0.95),
        ["BC", "IQL", "ReBRAC", "AWAC"],
    ),
    "sparse": (replace(BOX_LOG, zero=0.95), ["IQL", "CalQL", "ReBRAC", "TD3BC"]),
    "replay": (replace(BOX_LOG, trend=0.5, poor=0.1), ["CQL", "ReBRAC", "IQL", "TD3BC"]),
    "fine": (replace(BOX_LOG, quality=0.8), ["BC", "TD3BC", "ReBRAC"]),
    "alike": (replace(BOX_LOG, spread=0.04), ["TD3BC", "ReBRAC", "IQL"]),
    "few good": (replace(BOX_LOG, spread=0.15), ["IQL", "TD3BC", "AWAC", "ReBRAC"]),
    "many good": (replace(BOX_LOG, spread=0.15, good=0.2), ["TD3BC", "IQL", "ReBRAC"]),
    "dangerous": (replace(BOX_LOG, answers=DANGER), ["BC", "TD3BC", "IQL", "ReBRAC"]),
    "cheap": (replace(BOX_LOG, answers=CHEAP), ["RLPD", "IQL", "TD3BC", "ReBRAC"]),
    "dear": (replace(BOX_LOG, answers=DEAR), ["CalQL", "IQL", "TD3BC", "ReBRAC"]),
    "images": (replace(BOX_LOG, images=True), ["IQL", "BC"]),
    "discrete, varied": (
        replace(DISCRETE_LOG, spread=0.15),
        ["DiscreteCQL", "DiscreteIQL", "DiscreteBCQ", "DQN"],
    ),
    "discrete, one action": (
        replace(DISCRETE_LOG, determinism=0.96),
        ["DiscreteIQL", "DiscreteBCQ", "BC"],
    ),
    "discrete, narrow": (
        replace(DISCRETE_LOG, actions=1.4, quality=0.9),
        ["BC", "DiscreteBCQ", "DiscreteIQL"],
    ),
    "discrete, tiny": (replace(DISCRETE_LOG, episodes=29), ["BC", "DiscreteIQL", "DiscreteBCQ"]),
    "discrete, dangerous": (
        replace(DISCRETE_LOG, answers=DANGER),
        ["BC", "DiscreteBCQ", "DiscreteIQL", "DiscreteCQL"],
    ),
    "discrete, cheap": (
        replace(DISCRETE_LOG, answers=CHEAP),
        ["DQN", "DiscreteCQL", "DiscreteIQL", "DiscreteBCQ"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_log_gets_its_ranking(name: str) -> None:
    evidence, expected = CASES[name]
    assert [one.algorithm for one in ranking(evidence, "classic_control")] == expected


def test_every_rule_decides_some_case() -> None:
    logs = [evidence for evidence, _ in CASES.values()]
    for rule in RULES:
        assert any(rule.holds(log) for log in logs), rule.why
        assert not all(rule.holds(log) for log in logs), rule.why


@pytest.mark.parametrize(
    "changes",
    [
        {"trend": 0.49, "poor": 0.1},
        {"trend": 0.5, "poor": 0.09},  # such as medium followed by expert
    ],
)
def test_a_rising_return_or_poor_episodes_alone_make_no_replay_buffer(
    changes: dict[str, float],
) -> None:
    assert _first(replace(BOX_LOG, **changes)).algorithm == "IQL"  # type: ignore[arg-type]


def test_spread_returns_that_know_failure_are_not_alike() -> None:
    assert replace(BOX_LOG, spread=0.04, poor=0.1).returns == "uneven"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"episodes": 200, "obs_dim": 100}, "advantage"),
        ({"episodes": 199, "obs_dim": 100}, "return"),
        ({"images": True}, "return"),
    ],
)
def test_weights_are_those_that_the_sampler_takes(changes: dict[str, Any], kind: str) -> None:
    first = _first(replace(BOX_LOG, spread=0.15, **changes))
    assert first.config.endswith(f"with `--data.sampling.kind {kind}`")


def test_a_share_that_was_not_measured_is_not_told() -> None:
    narrow = replace(DISCRETE_LOG, actions=1.4)
    assert "stands out" not in _first(narrow).evidence
    assert "one stands out in 97% of" in _first(replace(narrow, determinism=0.97)).evidence


def test_behavior_cloning_has_a_config_of_its_own_for_discrete_actions() -> None:
    assert _first(CASES["tiny"][0]).config == "configs/bc/classic_control.yaml"
    discrete = _first(CASES["discrete, tiny"][0])
    assert discrete.config == "configs/bc/classic_control_discrete.yaml"


def test_actions_that_vary_little_are_narrow_only_where_they_are_discrete() -> None:
    assert replace(DISCRETE_LOG, actions=1.4).narrow
    assert not replace(BOX_LOG, actions=1.4).narrow


def test_a_few_costly_episodes_are_not_proposed_where_they_do_harm() -> None:
    names = [one.algorithm for one in ranking(replace(BOX_LOG, answers=DEAR), "mujoco")]
    harmful = replace(BOX_LOG, answers=replace(DEAR, dangerous=True))
    assert "CalQL" in names
    assert "CalQL" not in [one.algorithm for one in ranking(harmful, "mujoco")]


def test_few_good_episodes_are_to_be_drawn_more_often() -> None:
    assert "--data.sampling.kind advantage" in _first(CASES["few good"][0]).config
    assert "--data" not in _first(CASES["many good"][0]).config


def test_sparse_rewards_move_the_expectile_and_the_discount() -> None:
    starts = {one.algorithm: one.conservatism for one in ranking(CASES["sparse"][0], "antmaze")}
    assert starts["IQL"] == "`expectile` 0.9" and starts["ReBRAC"] == "`discount` 0.999"
    assert _first(BOX_LOG).conservatism == "`expectile` 0.7"


def test_the_evidence_shows_the_numbers_of_all_rules_that_speak_for_an_algorithm() -> None:
    log = replace(BOX_LOG, trend=0.75, poor=0.62, spread=0.34, good=0.15)
    cql, rebrac, *_ = ranking(log, "mujoco")
    assert "0.75" in cql.evidence and "62%" in cql.evidence and "34%" not in cql.evidence
    assert "0.75" in rebrac.evidence and "34%" in rebrac.evidence and "15%" in rebrac.evidence
    assert (cql.confidence, ranking(log, "mujoco")[-1].confidence) == ("medium", "low")


@pytest.mark.parametrize("domain", ["mujoco", "adroit", "antmaze", "classic_control"])
def test_every_config_for_box_actions_exists(domain: str) -> None:
    _check_configs([log for log, _ in CASES.values() if not log.discrete], domain, len(BOX))


@pytest.mark.parametrize("domain", ["gridworld", "classic_control", "atari"])
def test_every_config_for_discrete_actions_exists(domain: str) -> None:
    logs = [replace(log, answers=DEAR) for log, _ in CASES.values() if log.discrete]
    logs += [log for log, _ in CASES.values() if log.discrete]
    _check_configs(logs, domain, len(DISCRETE))


def test_every_algorithm_is_spoken_for_by_a_rule_and_has_its_place() -> None:
    spoken = {name for rule in RULES for name, points in rule.points.items() if points > 0}
    assert spoken == set(BOX) | set(DISCRETE) == set(CONSERVATIVE)


@pytest.mark.parametrize(
    ("dataset_id", "domain"),
    [
        ("door/human-v0", "adroit"),
        ("D4RL/antmaze/umaze-v1", "antmaze"),
        ("lit_offrl/pendulum/mixed-v0", "classic_control"),
        ("hopper/medium-v0", "mujoco"),
    ],
)
def test_the_domain_is_read_from_the_id(dataset_id: str, domain: str) -> None:
    assert domain_of(_spec(dataset_id)) == domain


def test_discrete_domains_follow_the_observations() -> None:
    def discrete(dataset_id: str, obs_space: Box | Discrete) -> DatasetSpec:
        log = replace(clean(), action=np.zeros(1000, np.int64))
        return make_spec(dataset_id, "0" * 8, obs_space, Discrete(2), log)

    vector = Box(-1.0, 1.0, (3,), np.float32)
    assert domain_of(discrete("mine/pen-v0", vector)) == "classic_control"
    assert domain_of(discrete("atari/pong/expert-v0", vector)) == "atari"
    assert domain_of(discrete("mine/rooms-v0", Discrete(3))) == "gridworld"
    assert domain_of(discrete("mine/camera-v0", IMAGE)) == "atari"


def test_images_leave_the_algorithms_that_see_them() -> None:
    ranked = [one.algorithm for one in ranking(replace(BOX_LOG, images=True), "mujoco")]
    assert ranked == ["IQL", "BC"]
    discrete = replace(BOX_LOG, discrete=True, n_actions=3, images=True)
    assert "DiscreteCQL" in [one.algorithm for one in ranking(discrete, "atari")]


def test_values_are_read_from_the_findings_and_missing_ones_speak_for_nothing() -> None:
    names = {
        "episodes": "episodes",
        "zero": "reward_sparsity",
        "quality": "trajectory_quality",
        "spread": "return_spread",
        "good": "expert_share",
        "poor": "poor_share",
        "trend": "return_trend",
        "actions": "actions_per_state",
        "determinism": "determinism",
    }
    values: dict[str, Any] = {field: float(i) for i, field in enumerate(names, start=1)}
    findings = [Finding(names[field], "ok", "", value=value) for field, value in values.items()]
    spec = _spec("hopper/medium-v0")
    evidence = read_evidence(findings, spec, DANGER)
    assert evidence == Evidence(
        discrete=False, n_actions=2, answers=DANGER, obs_dim=spec.obs_dim, **values
    )
    unknown = Finding("return_trend", "not applicable", "")
    assert read_evidence([unknown], spec, DANGER).trend == 0


def test_the_baselines_stand_once_in_every_list() -> None:
    report = inspected(clean())
    for answers in (Answers(), DANGER, CHEAP, DEAR):
        names = [one.algorithm for one in report.recommendation(answers).candidates]
        assert names.count("BC") == names.count("10 % BC") == 1
    assert len(report.recommendation().open_questions) == 4


def test_confounding_and_a_broken_log_stop_the_recommendation() -> None:
    stopped = inspected(clean()).recommendation(Answers(confounding=True))
    assert not stopped.candidates and "confounding" in stopped.sentence
    broken = inspected(lost_row(clean())).recommendation()
    assert not broken.candidates and "continuity" in broken.sentence


def test_online_rl_is_named_only_where_data_are_cheap_and_safe() -> None:
    spec = _spec("hopper/medium-v0")
    assert "Online RL" in recommend([], spec, CHEAP).sentence
    assert "harm" in recommend([], spec, DANGER).sentence
    for change in ("can_collect", "expensive", "dangerous"):
        for answer in (None, not getattr(CHEAP, change)):
            other = replace(CHEAP, **{change: answer})
            advice = recommend([], spec, other)
            assert "Online RL" not in advice.sentence
            assert "RLPD" not in [one.algorithm for one in advice.candidates]


def _first(evidence: Evidence) -> Candidate:
    return ranking(evidence, "classic_control")[0]


def _spec(dataset_id: str) -> DatasetSpec:
    box = Box(-1.0, 1.0, (3,), np.float32)
    return make_spec(dataset_id, "0" * 8, box, Box(-1.0, 1.0, (2,), np.float32), clean())


def _check_configs(logs: list[Evidence], domain: str, count: int) -> None:
    """Every config that the logs lead to is a file, and all algorithms are among them."""
    configs = {one.config.split()[0] for log in logs for one in ranking(log, domain)}
    assert len(configs) == count
    assert [name for name in configs if not (ROOT / name).is_file()] == []
