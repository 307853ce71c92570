from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_offrl.data import load_dataset
from tests.data.makers import make_d4rl

# Episodes: rows 0-2 end terminally, 3-5 time out, 6 times out alone, 7-8 are cut by the file's end.
TERMINALS = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0], bool)
TIMEOUTS = np.array([0, 0, 0, 0, 0, 1, 1, 0, 0], bool)


def columns(**changes: Any) -> dict[str, Any]:
    n = len(TERMINALS)
    fields = {
        "observations": np.arange(n, dtype=np.float32)[:, None] + [0, 100],
        "actions": np.linspace(-1, 1, 2 * n).reshape(n, 2).astype(np.float32),
        "rewards": np.arange(n) % 3,
        "terminals": TERMINALS,
        "timeouts": TIMEOUTS,
    } | changes
    return {k: v for k, v in fields.items() if v is not None}


def test_a_file_with_next_observations_keeps_every_row(tmp_path: Path) -> None:
    next_obs = columns()["observations"] + 0.5
    path = make_d4rl(tmp_path / "a.hdf5", **columns(next_observations=next_obs))
    transitions, spec = load_dataset(path)
    np.testing.assert_array_equal(transitions.next_obs, next_obs)
    assert transitions.episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3]
    assert transitions.terminated.tolist() == TERMINALS.tolist()
    assert np.flatnonzero(transitions.truncated).tolist() == [5, 6, 8]
    assert (spec.obs_dim, spec.action_dim, spec.action_low) == (2, 2, [-1, -1])
    assert spec.dataset_id == path
    assert transitions.reward.dtype == np.float32


def test_without_next_observations_no_transition_crosses_episodes(tmp_path: Path) -> None:
    transitions, _ = load_dataset(make_d4rl(tmp_path / "a.hdf5", **columns()))
    rows = transitions.obs[:, 0].astype(int)
    assert rows.tolist() == [0, 1, 2, 3, 4, 7]  # timed-out and cut last rows have no next one
    assert transitions.episode.tolist() == [0, 0, 0, 1, 1, 2]
    assert transitions.terminated.tolist() == [False, False, True, False, False, False]
    assert transitions.truncated.tolist() == [False, False, False, False, True, True]
    following = transitions.next_obs[:, 0].astype(int)
    assert following[~transitions.terminated].tolist() == [1, 2, 4, 5, 8]
    assert following[2] == 2  # the terminal row's own, not the next episode's first


def test_a_step_that_is_terminal_and_timed_out_is_kept_as_both(tmp_path: Path) -> None:
    timeouts = TIMEOUTS.copy()
    timeouts[2] = True
    transitions, _ = load_dataset(make_d4rl(tmp_path / "a.hdf5", **columns(timeouts=timeouts)))
    assert (transitions.terminated[2], transitions.truncated[2]) == (True, True)


def test_without_timeouts_episodes_end_where_the_next_row_starts_elsewhere(tmp_path: Path) -> None:
    next_obs = columns()["observations"] + 1
    next_obs[5] += 50
    path = make_d4rl(tmp_path / "a.hdf5", **columns(timeouts=None, next_observations=next_obs))
    transitions, _ = load_dataset(path)
    assert transitions.episode.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert np.flatnonzero(transitions.truncated).tolist() == [5, 8]


def test_integer_actions_are_discrete(tmp_path: Path) -> None:
    actions = np.array([0, 1, 2] * 3)
    transitions, spec = load_dataset(make_d4rl(tmp_path / "a.hdf5", **columns(actions=actions)))
    assert (spec.discrete, spec.action_dim) == (True, 3)
    assert transitions.action.tolist() == [0, 1, 2, 0, 1, 1]


def test_actions_beyond_one_take_the_data_s_extremes(tmp_path: Path) -> None:
    actions = columns()["actions"] * [2, 3]
    _, spec = load_dataset(make_d4rl(tmp_path / "a.hdf5", **columns(actions=actions)))
    assert spec.action_high is not None
    assert spec.action_high[0] < 2


def test_logged_propensities_are_read(tmp_path: Path) -> None:
    log_prob = -np.arange(9.0)
    path = make_d4rl(tmp_path / "a.hdf5", **columns(), **{"infos/behavior_log_prob": log_prob})
    transitions, _ = load_dataset(path)
    assert transitions.behavior_log_prob is not None
    assert transitions.behavior_log_prob.tolist() == [0, -1, -2, -3, -4, -7]


def test_the_same_file_under_another_name_has_the_same_hash(tmp_path: Path) -> None:
    one = load_dataset(make_d4rl(tmp_path / "a.hdf5", **columns()))[1]
    two = load_dataset(make_d4rl(tmp_path / "b.hdf5", **columns()))[1]
    assert one.content_hash == two.content_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "field `rewards` is missing"),
        ({"observations": None}, "field `observations` is missing"),
        ({"timeouts": None}, "neither `timeouts` nor `next_observations`"),
        ({"rewards": np.array([np.nan] + [0.0] * 8)}, "field `rewards`: NaN or inf in row 0"),
        ({"observations": np.full((9, 2), 1e300)}, "field `observations`: NaN or inf in row 0"),
        ({"actions": np.zeros((4, 2))}, r"field `actions` has shape \(4, 2\)"),
        ({"actions": np.arange(9) - 1}, "field `actions`: integers must be one index per row"),
        ({"timeouts": np.ones(9), "terminals": np.zeros(9)}, "no row has a known next"),
        (
            {k: v[:0] for k, v in columns().items()},
            "has no transitions",
        ),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = make_d4rl(tmp_path / "a.hdf5", **columns(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        load_dataset(str(tmp_path / "none.hdf5"))
    path = Path(make_d4rl(tmp_path / "a.hdf5", **columns()))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="is damaged"):
        load_dataset(str(path))
