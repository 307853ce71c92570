"""The verbs on a set whose observations are images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from lit_offrl.checkpoint import load
from lit_offrl.data.builtin.recording import Behavior, Card, record
from tests.cli.running import Outcome, run

SIDE, STEPS = 36, 6
NAME = "tests/lamp-v0"


class Lamp(gym.Env[Any, int]):
    """A lamp is lit on the left or on the right; naming its side pays 1."""

    observation_space = spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    action_space: gym.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._lit(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self._side)
        return self._lit(), reward, False, False, {}

    def _lit(self) -> Any:
        self._side = int(self.np_random.integers(2))
        image = self.np_random.integers(0, 60, (SIDE, SIDE), dtype=np.uint8)
        image[:, SIDE // 2 * self._side : SIDE // 2 * (self._side + 1)] += 150
        return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Minari folder with a set of a stacked environment, random actions, and a cache."""
    gym.register("tests/Lamp-v0", "tests.cli.test_images:Lamp", max_episode_steps=STEPS)
    where = tmp_path_factory.mktemp("lamp")
    env = FrameStackObservation(gym.make("tests/Lamp-v0"), 2)
    behavior = Behavior("random", lambda obs, rng: (int(rng.integers(2)), None), 40, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(where / "minari"))
        record(env, [behavior], Card(NAME, "A lamp.", __name__, 3.0, 6.0), scale=1.0)
    yield where


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(folder / "cache"))


Verb = Callable[..., Outcome]


@pytest.fixture
def verb(place: None, capsys: pytest.CaptureFixture[str]) -> Verb:
    return lambda *arguments: run(capsys, [str(argument) for argument in arguments])


@pytest.fixture
def fit(verb: Verb, tmp_path: Path) -> Callable[..., Outcome]:
    def fit(config: str, updates: int, *more: str) -> Outcome:
        return verb(
            *("fit", "-c", f"{config}/atari.yaml", "--data.dataset_id", NAME),
            *("--trainer.max_steps", updates, "--trainer.accelerator", "cpu"),
            *("--model.hidden", "[16]", "--model.lr", "1e-3", "--data.random_shift", "2"),
            *("--evaluation.episodes", "8", "--gap.episodes", "4"),
            *("--run_dir", tmp_path / "run", *more),
        )

    return fit


def test_a_policy_learns_from_pixels_and_acts_on_raw_observations(
    fit: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = fit("dqn", 250, "--model.discount", "0", "--diagnostics", "false")
    assert outcome.code == 0, outcome.err
    policy = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    env = FrameStackObservation(gym.make("tests/Lamp-v0"), 2)
    total = 0.0
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        for _ in range(STEPS):
            obs, reward, *_ = env.step(policy(obs))
            total += float(reward)
    assert total >= 50  # of 60; random play has 30 and a deviation of 4
    batch = np.stack([obs, obs[::-1]])
    assert policy(batch).tolist() == [policy(batch[0]), policy(batch[1])]
    assert policy.spec.images == ((0, 2, SIDE, SIDE),)


@pytest.mark.parametrize("config", ["bc", "dqn", "discrete_cql", "discrete_bcq", "discrete_cal_ql"])
def test_every_config_trains_with_all_diagnostics(
    fit: Callable[..., Outcome], tmp_path: Path, config: str
) -> None:
    outcome = fit(config, 4)
    assert outcome.code == 0, outcome.err
    report = (tmp_path / "run" / "report.html").read_text()
    assert "No behavior policy is fitted to images" in report
    assert ("q_bounds" in report or "Q-values" in report) == (config != "bc")


def test_a_run_goes_on_where_it_was_stopped(fit: Callable[..., Outcome], tmp_path: Path) -> None:
    assert fit("bc", 6, "--diagnostics", "false").code == 0
    whole = load(tmp_path / "run" / "checkpoints" / "last.ckpt").algorithm.state_dict()
    assert fit("bc", 3, "--diagnostics", "false", "--run_dir", str(tmp_path / "b")).code == 0
    again = fit(
        *("bc", 6, "--diagnostics", "false", "--run_dir", str(tmp_path / "b")),
        *("--ckpt_path", "last", "--data.updates_per_step", "1"),
    )
    assert again.code == 0, again.err
    resumed = load(tmp_path / "b" / "checkpoints" / "last.ckpt").algorithm.state_dict()
    assert all(resumed[name].equal(value) for name, value in whole.items())


def test_what_does_not_work_on_images_says_so(
    fit: Callable[..., Outcome], verb: Verb, tmp_path: Path
) -> None:
    assert fit("discrete_cql", 2, "--diagnostics", "false").code == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for who, arguments in {
        "Off-policy evaluation": ("evaluate", checkpoint),
        "Fine-tuning": ("finetune", checkpoint, "--env", "tests/Lamp-v0"),
        "The monitor": ("monitor", checkpoint, NAME),
    }.items():
        complaint = verb(*arguments).complaint
        assert f"{who} does not work on images, which the observations of `{NAME}`" in complaint


def test_an_algorithm_without_an_encoder_is_refused(verb: Verb, folder: Path) -> None:
    from tests.data.makers import ACTION, episode, make_minari

    camera = spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    make_minari([episode(i, 5, camera) for i in range(3)], "tests/arm-v0", camera, ACTION)
    options = ("--data.dataset_id", "tests/arm-v0", "--evaluation.episodes", "0")
    assert "TD3BC takes no images" in verb("fit", "--model", "TD3BC", *options).complaint
    updates = ("--trainer.max_steps", "2", "--data.batch_size", "4", "--model.hidden", "[4]")
    outcome = verb("fit", "--model", "IQL", *options, *updates)
    assert outcome.code == 0, outcome.err


def test_an_inspection_counts_frames_and_sees_thumbnails(verb: Verb, tmp_path: Path) -> None:
    outcome = verb("inspect", NAME, "--out", tmp_path / "seen", "--behavior_updates", "5")
    assert outcome.code == 0, outcome.err
    text = " ".join((tmp_path / "seen" / "report.json").read_text().split())
    frames, rows = 40 * (STEPS + 1), 40 * STEPS
    per_row = (frames * SIDE * SIDE + 2 * rows * 2 * 4) / rows
    assert f"{frames:,} frames are stored once each: {per_row:,.0f} bytes per transition" in text
    assert "configs/discrete_iql/atari.yaml" in text


def test_an_exported_policy_takes_flattened_images(
    fit: Callable[..., Outcome], verb: Verb, tmp_path: Path
) -> None:
    assert fit("discrete_bcq", 3, "--diagnostics", "false").code == 0
    outcome = verb("export", tmp_path / "run" / "checkpoints" / "last.ckpt", "--format", "torch")
    assert outcome.code == 0, outcome.err
    assert "act as the policy does at 1000 observations of the log" in outcome.out
