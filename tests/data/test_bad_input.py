import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from lit_offrl.data import OfflineDataModule, load_dataset
from lit_offrl.errors import InputError
from tests.data.makers import data_file, episode, make_minari, small

GOOD = [episode(0, 4), episode(1, 5)]


def with_nan(values: Any, step: int, value: float = np.nan) -> Any:
    values = np.array(values, dtype=np.float64)
    values[step] = value
    return values


def refusal(dataset_id: str = "tests/small-v0") -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(dataset_id)
    message = str(caught.value)
    assert "\n" not in message
    assert dataset_id in message
    return message


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"rewards": with_nan(np.zeros(5), 3)}, "rewards", "NaN or inf at step 3"),
        ({"rewards": with_nan(np.zeros(5), 2, np.inf)}, "rewards", "NaN or inf at step 2"),
        ({"observations": with_nan(np.zeros((6, 3)), 5)}, "observations", "NaN or inf at step 5"),
        (
            {"observations": with_nan(np.zeros((6, 3)), 1, 1e300)},  # overflows float32
            "observations",
            "NaN or inf at step 1",
        ),
        ({"actions": with_nan(np.zeros((5, 2)), 4)}, "actions", "NaN or inf at step 4"),
        (
            {"actions": with_nan(np.zeros((5, 2)), 2, 2.1)},
            "actions",
            "2.1 in dimension 0 at step 2 lies",
        ),
        ({"observations": np.zeros((5, 3))}, "observations", "5 rows, but 5 steps need 6"),
    ],
)
def test_a_bad_episode_is_refused_with_set_episode_and_field(
    changes: dict[str, Any], field: str, message: str, data_format: str
) -> None:
    changes = {k: v.astype(np.float32) if k == "actions" else v for k, v in changes.items()}
    make_minari([GOOD[0], episode(1, 5, **changes)], data_format=data_format)
    with pytest.raises(InputError, match=message):
        load_dataset("tests/small-v0")
    assert f"`tests/small-v0`, episode 1, field `{field}`" in refusal()


@pytest.mark.parametrize("field", ["rewards", "observations", "actions", "terminations"])
def test_a_missing_field_is_named(field: str) -> None:
    with h5py.File(data_file(make_minari(GOOD)), "a") as file:
        del file[f"episode_1/{field}"]
    assert f"episode 1: field `{field}` is missing" in refusal()


def test_too_many_actions_for_the_rewards_are_refused() -> None:
    make_minari([GOOD[0], episode(1, 5, actions=np.zeros((6, 2), np.float32))])
    assert "field `actions`: 6 rows, but 5 steps need 5" in refusal()


def test_nan_in_logged_propensities_is_refused() -> None:
    infos = {"behavior_log_prob": with_nan(np.zeros(5), 1)}
    make_minari([episode(0, 4, infos=infos)])
    assert "field `infos/behavior_log_prob`: NaN or inf at step 1" in refusal()


def test_propensities_of_some_episodes_only_are_refused() -> None:
    make_minari([episode(0, 4, infos={"behavior_log_prob": np.zeros(5)}), GOOD[1]])
    assert "episode 1: field `infos/behavior_log_prob`" in refusal()


def test_an_empty_episode_is_refused() -> None:
    with h5py.File(data_file(make_minari(GOOD)), "a") as file:
        for name in ("rewards", "actions", "terminations", "truncations"):
            file[f"episode_1/{name}"].resize(0, axis=0)
    assert "episode 1 is empty" in refusal()


def test_a_set_without_episodes_is_refused() -> None:
    make_minari([])
    assert "has no episodes" in refusal()


@pytest.mark.parametrize(
    ("space", "actions"),
    [(spaces.Discrete(3, start=1), [1, 4, 2, 3]), (spaces.MultiDiscrete([2, 2]), [[0, 2]] * 4)],
    ids=str,
)
def test_a_discrete_action_outside_its_space_is_refused(space: Any, actions: Any) -> None:
    make_minari([episode(0, 4, action_space=space, actions=np.array(actions))], action_space=space)
    assert "lies outside the space" in refusal()


def test_a_discrete_observation_outside_its_space_is_refused() -> None:
    space = spaces.Discrete(3)
    make_minari([episode(0, 2, space, observations=np.array([0, 1, 3]))], obs_space=space)
    assert "3 at step 2 lies outside the space" in refusal()


def test_spaces_without_a_flat_form_are_refused() -> None:
    space = spaces.Text(3)
    buffer = episode(0, 2, observations=["a", "b", "c"])
    make_minari([buffer], obs_space=space)
    assert "cannot be flattened" in refusal()
    space_of_actions = spaces.MultiBinary(2)
    make_minari(
        [episode(0, 4, action_space=space_of_actions)],
        "tests/binary-v0",
        action_space=space_of_actions,
    )
    assert "are not supported" in refusal("tests/binary-v0")


def test_equal_action_bounds_are_refused() -> None:
    space = spaces.Box(np.array([0, -1], np.float32), np.array([0, 1], np.float32))
    make_minari([episode(0, 4, action_space=space)], action_space=space)
    assert "dimension 0 of the action space has equal bounds" in refusal()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def scribble(file: Path) -> None:
    file.write_bytes(b"not HDF5 at all" * 100)


@pytest.mark.parametrize("damage", [truncate, scribble, Path.unlink])
def test_a_damaged_file_is_refused(damage: Callable[[Path], None]) -> None:
    damage(data_file(make_minari(GOOD)))
    assert "damaged" in refusal()


def test_damaged_numbers_inside_a_sound_file_are_located() -> None:
    file = data_file(make_minari(GOOD))
    with h5py.File(file, "a") as handle:
        rewards = handle["episode_1/rewards"][()]
        del handle["episode_1/rewards"]
        kept = handle["episode_1"].create_dataset("rewards", data=rewards, fletcher32=True)
        place = kept.id.get_chunk_info(0).byte_offset
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert "episode 1: field `rewards` cannot be read" in refusal()


@pytest.mark.parametrize("text", ["{", "{}", '{"total_episodes": 1, "data_format": "zip"}'])
def test_damaged_metadata_is_refused(text: str) -> None:
    path = Path(make_minari(GOOD).spec.data_path) / "metadata.json"
    path.write_text(text)
    refusal()


def test_an_unknown_storage_format_is_refused() -> None:
    path = Path(make_minari(GOOD).spec.data_path) / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_format": "zip"}))
    assert "storage format `zip` is not known" in refusal()


def test_an_unknown_id_is_answered_with_close_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(dataset_id: str) -> None:
        raise ValueError(f"Couldn't find\nany version for {dataset_id}")

    monkeypatch.setattr(minari, "download_dataset", download)
    small(dataset_id="robots/walker-v0")
    assert "Did you mean `robots/walker-v0`" in refusal("robots/walkr-v0")
    assert "Did you mean `robots/walker-v0`" in refusal("robots/walker")
    assert "`lit_offrl/pendulum/mixed-v0`" in refusal("pendulum/mixd-v0")
    assert "There are " in refusal("zzzzzz")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0),
        ("updates_per_step", 0),
        ("updates_per_epoch", -1),
        ("held_out", 1.0),
        ("held_out", -0.1),
        ("top_fraction", 0.0),
        ("top_fraction", 1.5),
        ("reward_range", 0.0),
        ("reward_range", float("nan")),
        ("reward_scale", 0.0),
        ("reward_shift", float("inf")),
        ("split_seed", -1),
        ("discount", 1.1),
        ("extras", ("steps",)),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(
    option: str, value: Any
) -> None:
    with pytest.raises(InputError, match=f"`{option}`"):
        OfflineDataModule("tests/no_such_set-v0", **{option: value})


def test_rewards_that_never_differ_cannot_be_scaled_by_their_range() -> None:
    make_minari([episode(i, 3, rewards=np.ones(3)) for i in range(3)])
    with pytest.raises(InputError, match="same return"):
        _ = OfflineDataModule("tests/small-v0", reward_range=1000).scaling


def test_observations_of_another_width_are_refused() -> None:
    path = Path(make_minari(GOOD).spec.data_path) / "metadata.json"
    space = minari.serialization.serialize_space(spaces.Box(-1, 1, (4,)))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"observation_space": space}))
    assert "3 numbers per step" in refusal()
