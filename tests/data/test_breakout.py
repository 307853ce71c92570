"""The built-in set of pixels."""

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("ale_py", reason="Breakout needs the extra `atari`")

from lit_offrl.data import load_dataset
from lit_offrl.data.builtin import BUILTIN, breakout, ensure
from lit_offrl.errors import InputError
from lit_offrl.evaluation.environment import make_env

pytestmark = pytest.mark.slow
NAME = "breakout/mixed"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of each behavior."""
    folder = tmp_path_factory.mktemp("breakout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.setitem(BUILTIN, breakout.DATASET_ID, partial(breakout.make, 0.075))
        ensure(NAME)
    return folder


@pytest.fixture(autouse=True)
def small(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(made / "cache"))
    return made


def test_each_frame_is_stored_once(small: Path) -> None:
    transitions, spec = load_dataset(NAME)
    (frames,) = transitions.frames
    assert transitions.n_episodes == 9
    assert len(frames.frames) == len(transitions) + 9
    assert frames.frames.shape[1] == 84 * 84
    assert spec.images == ((0, 4, 84, 84),)
    assert len(np.unique(frames.frames, axis=0)) > len(transitions) / 2
    kept = sum(path.stat().st_size for path in (small / "cache").rglob("*.npy"))
    assert kept < 7_200 * len(transitions)
    with h5py.File(small / "minari" / breakout.DATASET_ID / "data" / "main_data.hdf5") as file:
        stored = file["episode_0/observations"]
        assert stored.id.get_storage_size() < stored.nbytes / 20


def test_the_controller_plays_better_than_chance() -> None:
    transitions, spec = load_dataset(NAME)
    follow, clumsy, random = transitions.returns().reshape(3, 3).mean(1)
    assert follow > 2 > max(clumsy, random)
    assert spec.ref_max_score is not None and spec.ref_min_score is not None
    assert spec.ref_max_score > 4 * spec.ref_min_score


def test_propensities_are_those_of_the_behaviors() -> None:
    transitions, _ = load_dataset(NAME)
    assert transitions.behavior_log_prob is not None
    chance = np.exp(transitions.behavior_log_prob)
    for number, epsilon in enumerate((0.1, 0.4, 1.0)):
        found = np.unique(chance[transitions.episode // 3 == number].round(4))
        known = np.unique(np.round([epsilon / 4, 1 - 0.75 * epsilon], 4))
        np.testing.assert_allclose(found, known, atol=1e-4)


def test_the_recorded_environment_plays_the_recorded_game() -> None:
    transitions, spec = load_dataset(NAME)
    env = make_env(spec)
    rng = np.random.default_rng([0, 1])
    act = breakout.controller(env, 0.1)
    obs, _ = env.reset(seed=0)
    for row in range(50):
        assert np.array_equal(obs.ravel(), transitions.observed(np.array([row]))[0])
        action, _ = act(obs, rng)
        assert action == transitions.action[row]
        obs, reward, *_ = env.step(action)
        assert reward == transitions.reward[row]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakout, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'ale_py and cv2: run `pip install "lit_offrl\[atari\]"'):
        breakout.make_env()
