"""Each defect raises exactly its flag, and a clean log raises none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from lit_offrl.data import Transitions
from lit_offrl.data.spec import make_spec
from lit_offrl.inspection import DataReport, inspect_transitions

E, T = 40, 25
ROWS = E * T
ACTION = Box(-1.0, 1.0, (2,), np.float32)


def clean() -> Transitions:
    """Forty random walks of 25 steps, cut by a time limit."""
    rng = np.random.default_rng(0)
    path = rng.normal(size=(E, T + 1, 3)).astype(np.float32)
    return Transitions(
        obs=path[:, :-1].reshape(ROWS, 3).copy(),
        action=rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
        reward=rng.normal(size=ROWS).astype(np.float32),
        next_obs=path[:, 1:].reshape(ROWS, 3).copy(),
        terminated=np.zeros(ROWS, bool),
        truncated=np.arange(ROWS) % T == T - 1,
        episode=np.repeat(np.arange(E), T),
    )


def clean_discrete() -> Transitions:
    """The same walks with three actions, each as likely as the others."""
    return replace(clean(), action=np.random.default_rng(1).integers(0, 3, ROWS))


def inspected(log: Transitions, behavior_updates: int = 0) -> DataReport:
    obs_space = Box(-np.inf, np.inf, (log.obs.shape[1],), np.float32)
    actions = ACTION if log.action.ndim == 2 else Discrete(3)
    spec = make_spec("tests/walks-v0", "0" * 8, obs_space, actions, log)
    return inspect_transitions(log, spec, behavior_updates)


def not_finite(log: Transitions) -> Transitions:
    log.obs[30, 1] = np.nan
    return log


def constant_dimension(log: Transitions) -> Transitions:
    log.obs[:, 2] = log.next_obs[:, 2] = 1.5
    return log


def huge_dimension(log: Transitions) -> Transitions:
    log.obs[:, 0] *= 1e5
    log.next_obs[:, 0] *= 1e5
    return log


def copied_episode(log: Transitions) -> Transitions:
    for column in (log.obs, log.action, log.reward, log.next_obs):
        column[T : 2 * T] = column[:T]
    return log


def lost_row(log: Transitions) -> Transitions:
    log.next_obs[3] += 1e-3
    return log


def limit_as_end(log: Transitions) -> Transitions:
    return replace(log, terminated=log.truncated, truncated=log.terminated)


def clock(log: Transitions) -> Transitions:
    step = np.arange(ROWS, dtype=np.float32) % T
    log.obs[:, 0], log.next_obs[:, 0] = step, step + 1
    return log


def frozen_episode(log: Transitions) -> Transitions:
    log.obs[:T] = log.next_obs[:T] = 0.0
    return log


def few_episodes(log: Transitions) -> Transitions:
    return log.select_episodes(np.arange(29))


def constant_reward(log: Transitions) -> Transitions:
    log.reward[:] = 1.0
    return log


def clipped_reward(log: Transitions) -> Transitions:
    np.clip(log.reward, -1.0, None, out=log.reward)
    return log


def still_action(log: Transitions) -> Transitions:
    log.action[:, 1] = 0.5
    return log


def saturated_action(log: Transitions) -> Transitions:
    free = log.action[:, 0].copy()
    log.action[:, 0] = np.sign(free)
    log.action[::20, 0] = free[::20]
    return log


DEFECTS: dict[str, Callable[[Transitions], Transitions]] = {
    "finite": not_finite,
    "constant_dims": constant_dimension,
    "huge_dims": huge_dimension,
    "duplicates": copied_episode,
    "continuity": lost_row,
    "time_limit": limit_as_end,
    "time_in_obs": clock,
    "bad_episodes": frozen_episode,
    "episodes": few_episodes,
    "constant_reward": constant_reward,
    "clipped_reward": clipped_reward,
    "action_coverage": still_action,
    "action_saturation": saturated_action,
}


def test_a_clean_log_raises_no_flag() -> None:
    assert inspected(clean()).flags == []


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_raises_exactly_its_flag(name: str) -> None:
    flags = inspected(DEFECTS[name](clean())).flags
    assert [one.name for one in flags] == [name]
    assert flags[0].advice


def test_a_clean_log_of_discrete_actions_raises_no_flag() -> None:
    assert inspected(clean_discrete(), behavior_updates=50).flags == []


def test_a_discrete_action_that_was_never_taken_is_named() -> None:
    log = clean_discrete()
    log.action[log.action == 1] = 2
    (flag,) = inspected(log, behavior_updates=50).flags
    assert flag.name == "action_coverage" and "[1]" in flag.advice


def test_a_discrete_action_that_follows_from_the_state_is_determinism() -> None:
    log = clean_discrete()
    log.action[:] = log.episode % 3
    for column in (log.obs, log.next_obs):
        column[:, 0] += 10 * log.action
    (flag,) = inspected(log, behavior_updates=100).flags
    assert flag.name == "determinism" and flag.value == 1


def test_a_constant_reward_that_counts_steps_is_no_defect() -> None:
    log = clean()
    log.reward[:] = 1.0
    kept = np.arange(ROWS) >= 5  # the first episode is shorter, and terminates
    columns: dict[str, Any] = {name: value[kept] for name, value in log.columns().items()}
    log = Transitions(**columns)
    log.terminated[T - 6], log.truncated[T - 6] = True, False
    assert inspected(log).flags == []


def test_rewards_that_are_all_zero_teach_nothing_whatever_the_lengths() -> None:
    log = clean()
    log.reward[:] = 0.0
    kept = np.arange(ROWS) >= 5
    columns: dict[str, Any] = {name: value[kept] for name, value in log.columns().items()}
    log = Transitions(**columns)
    log.terminated[T - 6], log.truncated[T - 6] = True, False
    (flag,) = inspected(log).flags
    assert flag.name == "constant_reward" and flag.verdict == "fail"


def test_rewards_clipped_on_both_sides_count_together() -> None:
    log = clean()
    np.clip(log.reward, *np.quantile(log.reward, [0.03, 0.97]), out=log.reward)
    (flag,) = inspected(log).flags
    assert flag.name == "clipped_reward"
    ends = (log.reward == log.reward.min()) | (log.reward == log.reward.max())
    assert flag.value == pytest.approx(ends.mean()) and ends.mean() < 0.07


def test_episodes_of_one_step_have_no_time_limit() -> None:
    log = clean()
    ends = np.ones(ROWS, bool)
    log = replace(log, terminated=ends, truncated=~ends, episode=np.arange(ROWS))
    assert inspected(log).flags == []


@pytest.mark.parametrize(
    ("space", "named"),
    [(Discrete(3, start=5), "[6]"), (MultiDiscrete([3, 1], start=[2, 9]), "[[3, 9]]")],
)
def test_actions_that_were_never_taken_are_named_as_the_environment_knows_them(
    space: Any, named: str
) -> None:
    log = clean_discrete()
    log.action[log.action == 1] = 2
    spec = make_spec("tests/walks-v0", "0" * 8, Box(-np.inf, np.inf, (3,)), space, log)
    (flag,) = inspect_transitions(log, spec, 0).flags
    assert f"Actions {named} were never tried" in flag.advice


@pytest.mark.parametrize(("low", "high"), [(3.0, 3.0), (3.0, -3.0)])
def test_reference_scores_that_make_no_scale_are_not_used(low: float, high: float) -> None:
    log, space = clean(), Box(-np.inf, np.inf, (3,))
    scores = {"ref_min_score": low, "ref_max_score": high}
    spec = make_spec("tests/walks-v0", "0" * 8, space, ACTION, log, **scores)
    plain = {one.name: one for one in inspected(log).findings}
    found = {one.name: one for one in inspect_transitions(log, spec, 0).findings}
    for name in ("trajectory_quality", "return_spread", "expert_share", "poor_share"):
        assert found[name] == plain[name] and "no reference" in found[name].meaning


@pytest.mark.parametrize("space", [MultiBinary(3), Dict(a=Discrete(2), b=Discrete(1))])
def test_observations_without_a_box_repeat_by_nature(space: Any) -> None:
    log = clean()
    log.obs[:] = log.next_obs[:] = log.action[:] = log.reward[:] = 0.0
    spec = make_spec("tests/walks-v0", "0" * 8, space, ACTION, log)
    assert "duplicates" not in [one.name for one in inspect_transitions(log, spec, 0).flags]


def test_bad_episodes_are_named() -> None:
    finding = next(one for one in inspected(frozen_episode(clean())).flags)
    assert finding.meaning.endswith("at once: 0.")


def test_ends_at_the_longest_length_are_no_time_limit_where_others_are_cut_there() -> None:
    log = clean()
    half = log.truncated & (log.episode % 2 == 0)
    log = replace(log, terminated=half, truncated=log.truncated & ~half)
    assert inspected(log).flags == []


def test_an_episode_that_is_cut_off_at_once_is_named() -> None:
    log = clean()
    long = replace(log, episode=log.episode // 5, truncated=log.truncated & (log.episode % 5 == 4))
    long.next_obs[:-1] = long.obs[1:]
    rows = np.arange(124, ROWS)  # one row is left of the first episode
    columns: dict[str, Any] = {name: value[rows] for name, value in long.columns().items()}
    bad = [one for one in inspected(Transitions(**columns)).flags if one.name == "bad_episodes"]
    assert len(bad) == 1 and bad[0].meaning.endswith("at once: 0.")
