import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
import yaml
from gymnasium.envs.classic_control import PendulumEnv

from lit_offrl.checkpoint import load
from lit_offrl.cli.finetune import main as finetune
from tests.cli.running import Fit, Outcome, read, run

QUICK = ("--eval_episodes", "2", "--before_episodes", "2", "--progress", "false")
SHORT = ("--steps", "60", "--eval_every", "30", "--batch_size", "16", *QUICK)
Tune = Callable[..., Outcome]


@pytest.fixture
def checkpoint(fit: Fit, tmp_path: Path) -> Path:
    """An IQL of a few updates on Pendulum."""
    folder = tmp_path / "offline"
    run_dir = ("--run_dir", str(folder))
    assert fit(*run_dir, data__dataset_id="pendulum/mixed", trainer__max_steps=4).code == 0
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path) -> Tune:
    def tune(*arguments: str, path: Path = checkpoint) -> Outcome:
        folder = ("--run_dir", str(tmp_path / "run"))
        return run(capsys, ["finetune", str(path), *SHORT, *folder, *arguments])

    return tune


def test_a_run_ends_with_a_table_a_sentence_and_a_policy(tune: Tune, tmp_path: Path) -> None:
    outcome = tune()
    assert outcome.code == 0, outcome.err
    for text in ("offline policy", "worst evaluation", "After 60 environment steps (0 episodes)"):
        assert text in outcome.out
    folder = tmp_path / "run"
    info = load(folder / "checkpoints" / "last.ckpt").info
    assert (info.updates, info.online_steps) == (60, 60)
    options = yaml.safe_load((folder / "config.yaml").read_text())
    assert options["mode"] == "continue" and options["steps"] == 60
    names = {f["name"] for f in json.loads((folder / "report.json").read_text())["findings"]}
    assert {"finetune_dip", "finetune_kl", "q_bounds"} <= names


@pytest.mark.parametrize("mode", ["rlpd", "pex"])
def test_other_modes_run(tune: Tune, tmp_path: Path, mode: str) -> None:
    start = ("--random_steps", "10") if mode == "rlpd" else ("--warmup_steps", "10")
    model = ("--model.n_critics", "3", "--model.hidden", "[8,8]", "--model.critic_hidden", "[8,8]")
    outcome = tune("--mode", mode, *start, *(model if mode == "rlpd" else ()))
    assert outcome.code == 0, outcome.err
    assert read(tmp_path / "run")["global_step"] == 50


def test_modes_have_defaults_of_their_own(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="ends the run before its first update at step 5001"):
        finetune([str(checkpoint), "--mode", "rlpd", "--steps", "100"])


def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(tune: Tune, tmp_path: Path) -> None:
    assert tune("--run_dir", str(tmp_path / "whole"), "--utd", "2").code == 0
    cut = random.Random(0).randrange(10, 110)
    path = tmp_path / "run" / "checkpoints"
    assert tune("--utd", "2", "--steps", str(cut)).code == 0  # ends as one that is stopped there
    for best in path.glob("best*"):
        best.unlink()
    assert tune("--utd", "2", "--ckpt_path", "last").code == 0
    one, other = read(tmp_path / "whole"), read(tmp_path / "run")
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "CartPole-v1"), "does not match"),
        (("--mode", "calql"), "goes on from CQL or DiscreteCQL, not from IQL"),
        (("--mode", "anew"), "Option `mode`"),
        (("--offline_fraction", "2"), "must lie in [0, 1]"),
        (("--offline_fraction", "unoin"), "Option `offline_fraction`"),
        (("--final_fraction", "0.1"), "needs an `offline_fraction` to start from"),
        (("--model.expectille", "0.9"), "unexpected keyword argument 'expectille'"),
        (("--utd", "0"), "`utd` must be positive"),
        (("--seed", "-1"), "`--seed` must lie in [0, 4294967295]"),
        (("--accelerator", "abacus"), "Lightning refuses this run's options"),
        (("--model.expectile", "7"), "`expectile` must lie in (0, 1)"),
        (("--model.inverse_temperature", "warm"), "IQL: "),
        (("--dataset_id", "cartpole/mixed"), "is not the log that the policy was trained on"),
        (("--importance_power", "-1"), "`importance_power`"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    tune: Tune, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in tune(*arguments).complaint
    assert not (tmp_path / "run").exists()


def test_a_run_from_the_start_does_not_replace_another(tune: Tune, tmp_path: Path) -> None:
    assert tune().code == 0
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    for folder in (), ("--run_dir", str(tmp_path / "offline")):
        assert "holds the checkpoints of another run" in tune(*folder).complaint
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_an_environment_that_cannot_start_is_one_line(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: PendulumEnv, **_: object) -> None:
        raise RuntimeError("no power")

    monkeypatch.setattr(PendulumEnv, "reset", failing)
    complaint = tune().complaint
    assert "no power" in complaint and "is kept" not in complaint
    assert not (tmp_path / "run").exists()


def test_a_missing_checkpoint_is_named(tune: Tune, tmp_path: Path) -> None:
    assert "not there" in tune(path=tmp_path / "none.ckpt").complaint


class Failing(gym.Wrapper[Any, Any, Any, Any]):
    """Pendulum that breaks after 600 steps in all: the offline policy's two episodes and more."""

    steps = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        Failing.steps += 1
        if Failing.steps > 600:
            raise RuntimeError("the motor is hot")
        return self.env.step(action)


def test_an_environment_that_fails_keeps_what_was_collected(tune: Tune, tmp_path: Path) -> None:
    if "tests/Hot-v0" not in gym.registry:
        make = lambda **_: Failing(gym.make("Pendulum-v1").unwrapped)  # noqa: E731
        gym.register("tests/Hot-v0", make, max_episode_steps=200)
    Failing.steps = 190
    complaint = tune("--env", "tests/Hot-v0").complaint
    assert "the motor is hot" in complaint and "--ckpt_path last" in complaint
    state = read(tmp_path / "run")["FineTuneDataModule"]["online"]
    assert 0 < state["env_steps"] < 60 and state["buffer"]["count"] == state["env_steps"]
    assert tune("--ckpt_path", "last").code == 0
