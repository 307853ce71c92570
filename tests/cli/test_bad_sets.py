"""A bad set in any verb that reads data: one line, exit code 2, no report, no cache."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from lit_offrl.data import cache
from tests.cli.running import Fit, run, tiny
from tests.data.makers import data_file, episode, make_minari

CHECKPOINT = "trained/checkpoints/last.ckpt"
GOOD, BAD = "tests/good-v0", "tests/bad-v0"
COMMANDS = {
    "inspect": ["inspect", BAD, "--behavior_updates", "0"],
    "fit": ["fit", *tiny("IQL", {"data.dataset_id": BAD})],
    "evaluate": ["evaluate", CHECKPOINT, "--dataset_id", BAD],
    "monitor": ["monitor", CHECKPOINT, BAD],
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def single_observation(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["episode_1/observations"]
        file["episode_1/observations"] = 1.0


def huge_rewards(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["episode_1/rewards"][3] = 1e30


def text_actions(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["episode_1/actions"]
        file["episode_1/actions"] = np.array([[b"left", b"up"]] * 9)


def one_episode_too_few(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["episode_3"]


DAMAGES: dict[Callable[[Path], None], str] = {
    cut: "is damaged",
    fifo: "is damaged (main_data.hdf5 is not there, or not a file)",
    single_observation: "episode 1: field `observations` cannot be read (it is a single value",
    huge_rewards: "episode 1, field `rewards`: 1e+30, too large to train on (> 1e+15), at step 3",
    text_actions: "episode 1, field `actions`: text in place of real numbers",
    one_episode_too_few: "episode 3 is missing, but the metadata count 4 episodes",
}


def contents() -> set[Path]:
    """All files and folders here, without the data and the locks of the cache."""
    paths = {path for path in Path().rglob("*") if path.suffix != ".lock"}
    return {path for path in paths if path.parts[0] != "minari"}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_verb_refuses_a_bad_set_and_leaves_nothing(
    damage: Callable[[Path], None],
    fit: Fit,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path("minari").absolute()))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(Path("cache").absolute()))
    episodes = [episode(i, n) for i, n in enumerate((6, 9, 7, 8))]
    make_minari(episodes, GOOD)
    damage(data_file(make_minari(episodes, BAD)))
    assert fit(data__dataset_id=GOOD, run_dir="trained").code == 0
    before = contents()
    assert cache.cache_dir().is_dir()
    for verb, command in COMMANDS.items():
        complaint = run(capsys, command).complaint
        assert f"`{BAD}`" in complaint and DAMAGES[damage] in complaint, verb
        assert contents() == before, verb
