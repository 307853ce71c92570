"""Each defect of a file gets one line with set, episode and field, and leaves no cache."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from gymnasium import spaces

from lit_offrl.data import (
    DatasetSpec,
    OfflineDataModule,
    Transitions,
    cache,
    load_dataset,
    loading,
    minari_storage,
)
from lit_offrl.errors import InputError
from tests.data.makers import data_file, episode, make_d4rl, make_minari

SET = "tests/small-v0"
GOOD = [episode(0, 4), episode(1, 5)]
DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
Damage = Callable[[Any], None]


def cached_files() -> list[Path]:
    """What lies in the cache folder beside the locks, which hold nothing."""
    folder = cache.cache_dir()
    return [path for path in folder.rglob("*") if path.suffix != ".lock"]


def refusal(dataset_id: str = SET) -> str:
    """The one line that a set is refused with, after which the cache is empty."""
    with pytest.raises(InputError) as caught:
        load_dataset(dataset_id)
    message = str(caught.value)
    assert "\n" not in message
    assert f"`{dataset_id}`" in message
    assert cached_files() == []
    return message


def in_hdf5(*damages: Damage, obs_space: Any = None, **kwargs: Any) -> None:
    """Store two episodes and change the file."""
    own = {} if obs_space is None else {"obs_space": obs_space}
    made = make_minari([episode(i, 4 + i, **own) for i in range(2)], **own, **kwargs)
    with h5py.File(data_file(made), "a") as file:
        for damage in damages:
            damage(file)


def put(field: str, values: Any, index: int = 1) -> Damage:
    """Replace a field of an episode."""

    def damage(file: Any) -> None:
        drop(f"episode_{index}/{field}")(file)
        file[f"episode_{index}/{field}"] = values

    return damage


def drop(name: str) -> Damage:
    """Remove a member."""

    def damage(file: Any) -> None:
        if name in file:
            del file[name]

    return damage


def group(name: str) -> Damage:
    """Put an empty group in the place of an array."""

    def damage(file: Any) -> None:
        drop(name)(file)
        file.create_group(name)

    return damage


def vast(name: str, *shape: int) -> Damage:
    """Claim a shape of which nothing is stored."""

    def damage(file: Any) -> None:
        drop(name)(file)
        file.create_dataset(name, shape, "f8", chunks=(1000, *shape[1:]))

    return damage


NO_NUMBERS = "in place of real numbers"


@pytest.mark.parametrize(
    ("field", "values", "reason"),
    [
        ("rewards", np.ones((5, 2)), "shape (5, 2), where each step has one number"),
        ("rewards", np.array([b"1"] * 5), f"text {NO_NUMBERS}"),
        ("rewards", np.array(["a"] * 5, object), f"text, lists or other objects {NO_NUMBERS}"),
        ("rewards", np.ones(5) * 1j, f"complex numbers {NO_NUMBERS}"),
        ("rewards", np.zeros(5, [("a", "f4")]), f"records {NO_NUMBERS}"),
        ("rewards", np.full(5, 1e30), "1e+30, too large to train on (> 1e+15), at step 0"),
        ("observations", np.full((6, 3), -1e38), "-1e+38, too large to train on"),
        ("observations", np.zeros(6), "1 numbers per step, but Box"),
        ("observations", np.array([[b"1"] * 3] * 6), f"text {NO_NUMBERS}"),
        ("observations", np.ones((6, 3)) * 1j, f"complex numbers {NO_NUMBERS}"),
        ("actions", np.array([[b"1"] * 2] * 5), f"text {NO_NUMBERS}"),
        ("actions", np.zeros((5, 3)), "3 numbers per step, but Box"),
        ("terminations", np.array([0, 0, 0, 0, 7]), "7 at step 4 is neither 0 nor 1"),
        ("truncations", np.array([0, 0, 0.5, 0, 0]), "0.5 at step 2 is neither 0 nor 1"),
        ("terminations", np.array([0, 1, 0, 0, 1]), "the episode ends at step 1, but 5 steps"),
        ("terminations", np.array([b"False"] * 5), f"text {NO_NUMBERS}"),
        ("terminations", np.zeros(4, bool), "4 rows, but 5 steps need 5"),
    ],
)
def test_values_that_cannot_be_learned_from_are_named(field: str, values: Any, reason: str) -> None:
    in_hdf5(put(field, values))
    assert f"`{SET}`, episode 1, field `{field}`: {reason}" in refusal()


@pytest.mark.parametrize("field", ["rewards", "observations", "actions", "truncations"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.0, "it is a single value"),
        (h5py.Empty("f8"), "it is a single value"),
        ("text", "it is a single value"),
        (h5py.SoftLink("/nowhere"), "component not found"),
    ],
    ids=["0-d", "nothing", "text", "dangling"],
)
def test_what_is_no_array_is_named(field: str, value: Any, reason: str) -> None:
    in_hdf5(put(field, value))
    message = refusal()
    assert f"episode 1: field `{field}` cannot be read" in message and reason in message


@pytest.mark.parametrize("field", ["rewards", "observations", "terminations"])
def test_a_group_in_place_of_an_array_is_named(field: str) -> None:
    in_hdf5(group(f"episode_1/{field}"))
    assert f"episode 1: field `{field}` cannot be read (it is a group" in refusal()


@pytest.mark.parametrize(("field", "width"), [("rewards", ()), ("observations", (3,))])
def test_a_shape_that_no_memory_holds_is_named(field: str, width: tuple[int, ...]) -> None:
    in_hdf5(vast(f"episode_1/{field}", 10**13, *width))
    assert f"episode 1: field `{field}` cannot be read (it claims " in refusal()


def test_a_set_that_does_not_fit_into_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(key: str, source: Any, needed: bool) -> Transitions:
        raise MemoryError("Unable to allocate 1. TiB")

    in_hdf5()
    monkeypatch.setattr(loading, "cached", build)
    assert "does not fit into memory (Unable to allocate 1. TiB)" in refusal()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop("episode_1/observations/b"), "episode 1: field `observations` (`b`) is missing"),
        (put("observations", np.zeros((6, 5))), "field `observations` (`a`) is missing"),
        (group("episode_1/observations/b"), "field `observations` cannot be read (it is a group"),
        (put("observations/a", np.zeros((5, 2))), "field `observations`: 5 or 6 rows, but 5"),
        (put("observations/a", 0.0), "field `observations` cannot be read (it is a single"),
        (put("observations/b", np.full(6, 3)), "field `observations`: 3 at step 0 lies outside"),
        (put("observations/b", np.full(6, 0.5)), "field `observations`: 0.5 at step 0 lies"),
        (put("observations/b", np.full(6, np.nan)), "field `observations`: nan at step 0 lies"),
        (put("observations/b", np.array([b"1"] * 6)), f"field `observations`: text {NO_NUMBERS}"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")  # which would be a second line
def test_nested_observations_are_checked_part_by_part(damage: Damage, reason: str) -> None:
    in_hdf5(damage, obs_space=DICT)
    message = refusal()
    assert "episode 1" in message and reason in message


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("total", "reason"),
    [
        (3, "episode 2 is missing, but the metadata count 3 episodes"),
        (1, "episode 1 is stored, but the metadata count 1 episodes"),
    ],
)
def test_a_wrong_number_of_episodes_is_told(data_format: str, total: int, reason: str) -> None:
    metadata(make_minari(GOOD, data_format=data_format), total_episodes=total)
    assert reason in refusal()


@pytest.mark.parametrize("index", [0, 1])
def test_a_missing_episode_is_named(index: int) -> None:
    in_hdf5(drop(f"episode_{index}"))
    assert f"episode {index} is missing, but the metadata count 2 episodes" in refusal()


def metadata(dataset: Any, *without: str, **changes: Any) -> Path:
    """Change a set's metadata."""
    path = Path(dataset.spec.data_path) / "metadata.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if k not in without}
    path.write_text(json.dumps(values | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ref_min_score": "none"}, "`ref_min_score` in its metadata is 'none', not a number"),
        ({"ref_max_score": float("nan")}, "`ref_max_score` in its metadata is nan"),
        ({"ref_max_score": [1]}, "`ref_max_score` in its metadata is [1]"),
        ({"total_episodes": float("inf")}, "is damaged (cannot convert float infinity"),
        ({"total_episodes": None}, "is damaged (int() argument"),
    ],
)
def test_wrong_metadata_are_named(changes: dict[str, Any], reason: str) -> None:
    metadata(make_minari(GOOD), **changes)
    assert reason in refusal()


def test_propensities_of_later_episodes_alone_are_refused() -> None:
    in_hdf5(put("infos/behavior_log_prob", np.zeros(5)))
    assert "episode 0: field `infos/behavior_log_prob` is missing: others have it" in refusal()


def test_propensities_that_are_there_but_damaged_are_not_done_without() -> None:
    in_hdf5(put("infos/behavior_log_prob", 0.0, 0), put("infos/behavior_log_prob", np.zeros(5), 1))
    assert "episode 0: field `infos/behavior_log_prob` cannot be read" in refusal()


def loaded(dataset_id: str = SET) -> tuple[Transitions, DatasetSpec]:
    """Load a legal set and see that a policy can be trained on it."""
    transitions, spec = load_dataset(dataset_id)
    assert len(transitions) == 9
    assert bool(np.isfinite(OfflineDataModule(dataset_id).train_matrix.numpy()).all())
    return transitions, spec


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("rewards", np.arange(5)),
        ("rewards", np.arange(5.0)[:, None]),
        ("rewards", np.arange(5, dtype=np.float16)),
        ("rewards", np.array([0, 1, 2, 3, 4], np.uint64)),
    ],
    ids=["integers", "column", "half", "unsigned"],
)
def test_numbers_of_any_kind_are_rewards(field: str, values: Any) -> None:
    in_hdf5(put(field, values))
    np.testing.assert_array_equal(loaded()[0].reward[4:], np.arange(5, dtype=np.float32))


def test_boolean_rewards_and_integer_flags_are_zeros_and_ones() -> None:
    in_hdf5(
        put("rewards", np.array([0, 1, 0, 0, 1], bool)),
        put("terminations", np.array([0, 0, 0, 0, 1])),
        put("truncations", np.array([0.0, 0, 0, 0, 1])),
    )
    transitions, _ = loaded()
    assert transitions.reward[4:].tolist() == [0, 1, 0, 0, 1]
    assert transitions.terminated[4:].tolist() == [False] * 4 + [True]
    assert transitions.truncated[4:].tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(
    "infos",
    [
        put("infos/note", np.array([b"a"] * 6)),
        put("infos/note", np.array(["a"] * 5, dtype=object)),
        put("infos/number", 1.0),
        put("infos", np.zeros(3)),
        put("observations_of_another_kind", np.zeros(1)),
    ],
)
def test_what_is_not_asked_for_may_be_anything(infos: Damage) -> None:
    in_hdf5(infos)
    loaded()


def test_strings_in_the_infos_of_an_arrow_set_do_no_harm() -> None:
    infos = [{"note": ["a"] * n} for n in (5, 6)]
    make_minari([episode(i, 4 + i, infos=infos[i]) for i in range(2)], data_format="arrow")
    loaded()


def test_only_four_metadata_are_needed() -> None:
    needed = {"total_episodes", "data_format", "observation_space", "action_space"}
    made = make_minari(GOOD, ref_min_score=1.0)
    path = Path(made.spec.data_path) / "metadata.json"
    metadata(made, *(set(json.loads(path.read_text())) - needed))
    assert loaded()[1].ref_min_score is None


@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_not_waited_for(name: str, kind: Callable[[Path], None]) -> None:
    path = Path(make_minari(GOOD).spec.data_path) / name
    path.unlink()
    kind(path)
    assert f"is damaged ({name} is not there, or not a file)" in refusal()


def test_a_closed_file_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    file = data_file(make_minari(GOOD))
    opened = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == file:
            raise PermissionError(13, os.strerror(13), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    message = refusal()
    assert "Permission denied" in message and message.endswith("make its files readable.")


def rewritten(field: str, values: Any) -> None:
    """Store two episodes as Arrow, the second with another column."""
    folder = Path(make_minari(GOOD, data_format="arrow").spec.data_path) / "1"
    path = folder / "part-0.arrow"
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    table = table.set_column(table.schema.get_field_index(field), field, pa.array(values))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("field", "values", "reason"),
    [
        ("rewards", ["1"] * 6, NO_NUMBERS),
        ("rewards", [[1.0, 2.0], [1.0]] * 3, NO_NUMBERS),
        ("rewards", [1.0, None] * 3, "NaN or inf at step 1"),
        ("rewards", [1e30] * 6, "too large to train on"),
        ("terminations", [0, 0, 0, 0, 2, 0], "2 at step 4 is neither 0 nor 1"),
        ("observations", ["a"] * 6, NO_NUMBERS),
        ("observations", [1.0] * 6, "1 numbers per step"),
    ],
)
def test_bad_columns_of_an_arrow_set_are_named(field: str, values: Any, reason: str) -> None:
    rewritten(field, values)
    message = refusal()
    assert f"episode 1, field `{field}`" in message and reason in message


def test_an_arrow_column_of_text_has_no_parts() -> None:
    table = pa.table({"infos": ["a", "b"]})
    with pytest.raises(KeyError):
        minari_storage._arrow_child(table.column("infos").combine_chunks(), "behavior_log_prob")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"total_steps": 3}', "field `observations`: 6 rows, but 3 steps need 4"),
        ('{"total_steps": 1000000000}', "6 rows, but 1000000000 steps need 1000000001"),
        ('{"total_steps": 10000000000000}', "10,000,000,000,000 steps cannot be"),
        ('{"total_steps": Infinity}', "cannot be read"),
        ("[1]", "cannot be read"),
    ],
)
def test_a_wrong_number_of_steps_of_an_arrow_episode_is_told(text: str, reason: str) -> None:
    path = Path(make_minari(GOOD, data_format="arrow").spec.data_path)
    (path / "1" / "metadata.json").write_text(text)
    message = refusal()
    assert "episode 1" in message and reason in message


def d4rl(tmp_path: Path, *damages: Damage, **changes: Any) -> str:
    """Write a D4RL file of 9 rows and change it."""
    flags = np.arange(9) % 3 == 2
    columns: dict[str, Any] = {
        "observations": np.arange(18.0).reshape(9, 2),
        "actions": np.zeros((9, 2)),
        "rewards": np.arange(9),
        "terminals": flags,
        "timeouts": np.zeros(9, bool),
    }
    path = make_d4rl(tmp_path / "set.hdf5", **(columns | changes))
    with h5py.File(path, "a") as file:
        for damage in damages:
            damage(file)
    return path


@pytest.mark.parametrize(
    ("field", "values", "reason"),
    [
        ("rewards", np.ones((9, 2)), "has shape (9, 2) in place of (9, 1)"),
        ("rewards", 1.0, "it is a single value"),
        ("rewards", h5py.Empty("f8"), "it is a single value"),
        ("rewards", np.array([b"1"] * 9), f"text {NO_NUMBERS}"),
        ("rewards", np.array(["a"] * 9, dtype=object), NO_NUMBERS),
        ("rewards", np.ones(9) * 1j, f"complex numbers {NO_NUMBERS}"),
        ("rewards", np.zeros(9, [("a", "f4")]), f"records {NO_NUMBERS}"),
        ("rewards", np.full(9, 1e30), "1e+30, too large to train on (> 1e+15), in row 0"),
        ("observations", np.full((9, 2), -1e38), "-1e+38, too large to train on"),
        ("observations", np.zeros((9, 0)), "has shape (9, 0) in place of (9, at least one)"),
        ("observations", np.array([[b"a"] * 2] * 9), f"text {NO_NUMBERS}"),
        ("actions", np.zeros((9, 0)), "has shape (9, 0)"),
        ("actions", np.full(9, 2**40), "less than 16777216"),
        ("actions", h5py.Empty("i8"), "it is a single value"),
        ("terminals", np.full(9, 0.5), "0.5 at step 0 is neither 0 nor 1"),
        ("timeouts", np.array([0] * 8 + [7]), "7 at step 8 is neither 0 nor 1"),
        ("terminals", np.array([b"x"] * 9), f"text {NO_NUMBERS}"),
        ("next_observations", np.zeros((9, 3)), "has shape (9, 3) in place of (9, 2)"),
        ("infos/behavior_log_prob", np.array([b"a"] * 9), f"text {NO_NUMBERS}"),
    ],
)
def test_bad_fields_of_a_d4rl_file_are_named(
    tmp_path: Path, field: str, values: Any, reason: str
) -> None:
    message = refusal(d4rl(tmp_path, **{field: values}))
    assert f"field `{field}`" in message and reason in message


def test_next_observations_of_another_width_are_named_without_timeouts(tmp_path: Path) -> None:
    path = d4rl(tmp_path, drop("timeouts"), next_observations=np.zeros((9, 3)))
    assert "field `next_observations` has shape (9, 3) in place of (9, 2)" in refusal(path)


@pytest.mark.parametrize("field", ["rewards", "observations", "actions", "terminals", "timeouts"])
def test_a_group_in_place_of_a_field_of_a_d4rl_file_is_named(tmp_path: Path, field: str) -> None:
    assert f"field `{field}` cannot be read (it is a group" in refusal(d4rl(tmp_path, group(field)))


def test_a_vast_shape_in_a_d4rl_file_is_named(tmp_path: Path) -> None:
    assert "field `rewards` cannot be read (it claims " in refusal(
        d4rl(tmp_path, vast("rewards", 10**13))
    )


def test_a_d4rl_file_may_hold_columns_of_one_text_metadata_and_integers(tmp_path: Path) -> None:
    path = d4rl(
        tmp_path,
        rewards=np.arange(9)[:, None],
        terminals=np.arange(9) % 3 // 2,
        **{"infos/note": np.array([b"a"] * 9), "metadata/algorithm": "SAC"},
    )
    assert loaded(path)[0].returns().tolist() == [3, 12, 21]


def test_a_place_of_a_d4rl_file_that_cannot_be_looked_up_is_told() -> None:
    assert "cannot be read" in refusal("~nobody_of_this_name/set.hdf5")


def damaged(content: bytes) -> Iterator[bytes]:
    """Cut a file at 20 places, change one byte at 50 places, and 50 bytes at once 30 times."""
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=20):
        yield content[:place]
    for n in [1] * 50 + [50] * 30:
        changed = bytearray(content)
        for place in rng.integers(len(content), size=n):
            changed[place] ^= int(rng.integers(1, 256))
        yield bytes(changed)


@pytest.mark.parametrize("kind", ["hdf5", "arrow", "metadata", "d4rl"])
def test_a_file_damaged_anywhere_is_loaded_or_refused(kind: str, tmp_path: Path) -> None:
    if kind == "d4rl":
        dataset_id = d4rl(tmp_path)
        file = Path(dataset_id)
    else:
        dataset_id = SET
        data_format = "arrow" if kind == "arrow" else "hdf5"
        folder = Path(make_minari(GOOD, data_format=data_format).spec.data_path)
        names = {"hdf5": "main_data.hdf5", "arrow": "1/part-0.arrow", "metadata": "metadata.json"}
        file = folder / names[kind]
    refused = 0
    for content in damaged(file.read_bytes()):
        file.unlink()  # Arrow may still map the one before
        file.write_bytes(content)
        try:
            load_dataset(dataset_id)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
            assert cached_files() == []
        shutil.rmtree(cache.cache_dir(), ignore_errors=True)
    assert refused >= 20
