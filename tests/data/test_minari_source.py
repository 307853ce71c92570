import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import Space, spaces
from minari.serialization import deserialize_space

from lit_offrl.data import DatasetSpec, builtin, load_dataset
from lit_offrl.data.spaces import unflatten_actions
from tests.data.makers import OBS, data_file, episode, make_minari, small

NESTED = spaces.Dict(
    {
        "goal": spaces.Box(-1, 1, (2, 2), np.float32),
        "count": spaces.Discrete(3, start=1),
        "arm": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
    }
)
OBS_SPACES = [
    OBS,
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 2], start=[1, 0]),
    spaces.Box(-1, 1, (2, 3), np.float32),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Tuple((OBS, spaces.Discrete(2))),
    NESTED,
]


def nth(space: Space[Any], values: Any, t: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: nth(part, values[key], t) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nth(part, values[i], t) for i, part in enumerate(space.spaces))
    return values[t]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_transitions_are_those_that_minari_iterates_over(data_format: str) -> None:
    dataset = small(data_format=data_format)
    transitions, spec = load_dataset("tests/small-v0")
    assert transitions.n_episodes == dataset.total_episodes
    bounds = transitions.episode_bounds
    assert bounds.tolist() == [0, 4, 11, 12, 17]
    for e, expected in enumerate(dataset.iterate_episodes()):
        rows = slice(bounds[e], bounds[e + 1])
        np.testing.assert_array_equal(transitions.obs[rows], np.float32(expected.observations[:-1]))
        np.testing.assert_array_equal(
            transitions.next_obs[rows], np.float32(expected.observations[1:])
        )
        np.testing.assert_array_equal(transitions.action[rows], expected.actions)
        np.testing.assert_array_equal(transitions.reward[rows], np.float32(expected.rewards))
        np.testing.assert_array_equal(transitions.terminated[rows], expected.terminations)
        np.testing.assert_array_equal(transitions.truncated[rows], expected.truncations)
        assert (transitions.episode[rows] == e).all()
    assert (spec.obs_dim, spec.action_dim, spec.discrete) == (3, 2, False)
    assert (spec.action_low, spec.action_high) == ([-2.0, -2.0], [2.0, 2.0])
    assert transitions.obs.dtype == transitions.reward.dtype == np.float32


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("space", OBS_SPACES, ids=str)
def test_observations_are_flattened_as_gymnasium_flattens_them(
    space: Space[Any], data_format: str
) -> None:
    episodes = [episode(i, n, obs_space=space) for i, n in enumerate((3, 4))]
    make_minari(episodes, obs_space=space, data_format=data_format)
    transitions, spec = load_dataset("tests/small-v0")
    for e, buffer in enumerate(episodes):
        start, stop = transitions.episode_bounds[e : e + 2]
        rows = [*transitions.obs[start:stop], transitions.next_obs[stop - 1]]
        for t, row in enumerate(rows):
            expected = spaces.flatten(space, nth(space, buffer.observations, t))
            np.testing.assert_array_equal(row, np.asarray(expected, np.float32))
    assert spec.obs_dim == spaces.flatdim(space)
    assert deserialize_space(spec.obs_space) == space


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("space", "dim"),
    [
        (spaces.Discrete(4, start=2), 4),
        (spaces.MultiDiscrete([2, 3, 2], start=[0, 1, -1]), 12),
        (spaces.Box(-1, 3, (2, 2), np.float32), 4),
    ],
    ids=str,
)
def test_actions_are_flattened_and_come_back(space: Space[Any], dim: int, data_format: str) -> None:
    episodes = [episode(i, 20, action_space=space) for i in range(2)]
    make_minari(episodes, action_space=space, data_format=data_format)
    transitions, spec = load_dataset("tests/small-v0")
    raw = np.concatenate([buffer.actions for buffer in episodes])
    np.testing.assert_array_equal(unflatten_actions(space, transitions.action), raw)
    assert (spec.action_dim, spec.discrete) == (dim, not isinstance(space, spaces.Box))
    if spec.discrete:
        assert transitions.action.dtype == np.int64
        assert transitions.action.min() >= 0
        assert transitions.action.max() < dim


def test_a_multi_discrete_action_is_its_row_major_index() -> None:
    space = spaces.MultiDiscrete([2, 3], start=[0, 5])
    actions = np.array([[0, 5], [0, 7], [1, 5], [1, 7]])
    make_minari([episode(0, 4, action_space=space, actions=actions)], action_space=space)
    transitions, spec = load_dataset("tests/small-v0")
    assert transitions.action.tolist() == [0, 2, 3, 5]
    assert spec.multi_discrete == [2, 3]


# Arrow holds as many infos as observations; HDF5 may hold one less.
@pytest.mark.parametrize(("data_format", "extra"), [("hdf5", 0), ("hdf5", 1), ("arrow", 1)])
def test_logged_propensities_belong_to_the_action_of_their_row(
    data_format: str, extra: int
) -> None:
    infos = {"behavior_log_prob": -np.arange(4.0 + extra), "other": np.zeros(4 + extra)}
    make_minari([episode(0, 4, infos=infos)], data_format=data_format)
    transitions, _ = load_dataset("tests/small-v0")
    assert transitions.behavior_log_prob is not None
    assert transitions.behavior_log_prob.tolist() == [0, -1, -2, -3]


def test_jpeg_images_are_decoded() -> None:
    space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    frames = (
        np.full((3, 32, 32, 3), 10, np.uint8) * np.arange(1, 4, dtype=np.uint8)[:, None, None, None]
    )
    for data_format in ("hdf5", "arrow"):
        name = f"tests/{data_format}-v0"
        buffer = episode(0, 2, obs_space=space, observations=frames)
        make_minari([buffer], name, obs_space=space, data_format=data_format)
        transitions, _ = load_dataset(name)
        seen = transitions.next_observed(np.arange(2))
        np.testing.assert_allclose(seen, frames[1:].reshape(2, -1), atol=1)


def test_integer_rewards_are_cast() -> None:
    make_minari([episode(0, 3, rewards=np.array([1, 0, 2]))])
    assert load_dataset("tests/small-v0")[0].reward.tolist() == [1.0, 0.0, 2.0]


def test_actions_past_their_bounds_by_rounding_are_clipped() -> None:
    actions = np.full((3, 2), 2.00001, np.float32)
    make_minari([episode(0, 3, actions=actions)])
    assert load_dataset("tests/small-v0")[0].action.max() == 2.0


def test_unbounded_actions_take_the_data_s_extremes(caplog: pytest.LogCaptureFixture) -> None:
    space = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32))
    actions = np.array([[0.5, -3], [0, 8], [0, 1]], np.float32)
    make_minari([episode(0, 3, action_space=space, actions=actions)], action_space=space)
    _, spec = load_dataset("tests/small-v0")
    assert (spec.action_low, spec.action_high) == ([-1, -3], [1, 8])
    assert "dimensions [1] have no finite bounds" in caplog.text


def test_reference_scores_and_the_environment_come_from_the_metadata() -> None:
    env = gym.make("CartPole-v1")
    observations = np.zeros((4, 4), np.float32)
    buffer = episode(0, 3, action_space=env.action_space, observations=observations)
    make_minari(
        [buffer],
        obs_space=env.observation_space,
        action_space=env.action_space,
        env=env,
        ref_min_score=1.0,
        ref_max_score=3.5,
    )
    _, spec = load_dataset("tests/small-v0")
    assert (spec.ref_min_score, spec.ref_max_score) == (1.0, 3.5)
    assert spec.env_spec is not None
    assert json.loads(spec.env_spec)["id"] == "CartPole-v1"
    assert DatasetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_spaces_that_are_not_stored_come_from_the_registered_environment() -> None:
    env = gym.make("CartPole-v1")
    observations = np.zeros((4, 4), np.float32)
    dataset = make_minari(
        [episode(0, 3, action_space=env.action_space, observations=observations)],
        obs_space=env.observation_space,
        action_space=env.action_space,
        env=env,
    )
    path = Path(dataset.spec.data_path) / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata))
    assert load_dataset("tests/small-v0")[1].action_dim == 2


def test_an_entry_point_named_by_a_set_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = Path(small().spec.data_path) / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["action_space"]
    metadata["env_spec"] = json.dumps({"id": "evil_module:X-v0", "entry_point": "evil_module:X"})
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="action space is not known"):
        load_dataset("tests/small-v0")


def test_the_content_hash_does_not_depend_on_place_or_name() -> None:
    small(dataset_id="tests/one-v0")
    small(dataset_id="tests/two-v0")
    small((4, 7, 1, 6), dataset_id="tests/other-v0")
    names = ("one", "two", "other")
    one, two, other = (load_dataset(f"tests/{name}-v0")[1].content_hash for name in names)
    assert one == two != other


def test_a_missing_set_is_downloaded_by_minari_s_client(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(dataset_id: str) -> None:
        asked.append(dataset_id)
        small(dataset_id=dataset_id)

    monkeypatch.setattr(minari, "download_dataset", download)
    assert load_dataset("remote/set-v0")[0].n_episodes == 4
    load_dataset("remote/set-v0")
    assert asked == ["remote/set-v0"]


def test_short_names_of_built_in_sets_are_made_on_first_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = "lit_offrl/tiny/mixed-v0"
    monkeypatch.setattr(builtin, "resolve", lambda name: full if name == "tiny/mixed" else None)
    monkeypatch.setattr(builtin, "ensure", lambda name: small(dataset_id=name))
    assert load_dataset("tiny/mixed")[1].dataset_id == full


def test_returns_and_returns_to_go_stay_within_their_episode() -> None:
    small((3, 6, 1))
    transitions, _ = load_dataset("tests/small-v0")
    for discount in (0.0, 0.9, 1.0):
        togo = transitions.mc_returns(discount)
        for start, stop in zip(
            transitions.episode_bounds[:-1], transitions.episode_bounds[1:], strict=True
        ):
            rewards = transitions.reward[start:stop].astype(np.float64)
            for t in range(len(rewards)):
                expected = sum(discount**k * r for k, r in enumerate(rewards[t:]))
                assert togo[start + t] == pytest.approx(expected, abs=1e-6)
    first = transitions.mc_returns(1.0)[transitions.episode_bounds[:-1]]
    np.testing.assert_allclose(transitions.returns(), first, rtol=1e-5)


def test_where_the_log_ends_before_an_episode_does_it_is_truncated() -> None:
    cut = episode(1, 4, truncations=np.zeros(4, np.bool_))
    make_minari([episode(0, 3), cut, episode(2, 2), episode(3, 1)])
    transitions, _ = load_dataset("tests/small-v0")
    assert np.flatnonzero(transitions.terminated).tolist() == [2, 8]
    assert np.flatnonzero(transitions.truncated).tolist() == [6, 9]
    lower = transitions.mc_returns(0.5, after_cut=-8.0)[6]
    assert lower == pytest.approx(transitions.reward[6] - 4.0)


def test_selected_episodes_come_whole_in_the_order_asked_for_and_are_renumbered() -> None:
    small()
    transitions, _ = load_dataset("tests/small-v0")
    picked = transitions.select_episodes(np.array([3, 0]))
    assert picked.episode.tolist() == [0] * 5 + [1] * 4
    np.testing.assert_array_equal(picked.obs[:5], transitions.obs[12:17])
    np.testing.assert_array_equal(picked.next_obs[5:], transitions.next_obs[:4])
    assert len(transitions.select_episodes(np.array([], dtype=np.int64))) == 0


def test_the_hdf5_file_is_only_read() -> None:
    file = data_file(small())
    before = file.read_bytes()
    load_dataset("tests/small-v0")
    assert file.read_bytes() == before
