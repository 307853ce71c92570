"""Wrong input: one line, exit code 2, and nothing left behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch

from lit_offrl import load
from lit_offrl.algorithms import BC
from lit_offrl.cli import main
from tests.cli.running import Fit, Outcome, read, tiny
from tests.data.makers import data_file, episode, make_minari


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, clean_place: None) -> Any:
    """Everything of a run would lie in the working folder."""
    yield
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def own_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Minari folder of this test alone, without a server behind it."""

    def download(dataset_id: str) -> None:
        raise ValueError(f"Couldn't find any version\nof {dataset_id}")

    monkeypatch.setattr(minari, "download_dataset", download)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.mark.parametrize("local", [False, True])
def test_an_unknown_data_set_is_answered_with_close_names_each_once(
    fit: Fit, own_minari: Path, local: bool
) -> None:
    if local:  # the built-in set is there already
        make_minari([episode(0, 2)], "lit_offrl/pendulum/mixed-v0")
    complaint = fit(data__dataset_id="pendulm/mixed").complaint
    assert "Unknown data set `pendulm/mixed`" in complaint
    assert complaint.count("`lit_offrl/pendulum/mixed-v0`") == 1
    assert "Couldn't find any version of" in fit(data__dataset_id="no/such/set-v0").complaint


@pytest.mark.slow
def test_without_a_network_there_is_still_only_one_line(own_minari: Path) -> None:
    environment = {
        **os.environ,
        "MINARI_DATASETS_PATH": str(own_minari),
        "MINARI_REMOTE": "hf://farama-minari",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", "from lit_offrl.cli import main; main()", "fit"]
    done = subprocess.run(
        [*command, *tiny("IQL", {"data.dataset_id": "some/walker-v0"})],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Unknown data set `some/walker-v0`" in Outcome(2, "", done.stderr).complaint
    assert done.returncode == 2


NAN = np.array([0.0, np.nan, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rewards": NAN}, "field `rewards`: NaN or inf at step 1"),
        ({"rewards": np.where(np.isnan(NAN), np.inf, 0)}, "field `rewards`: NaN or inf at step 1"),
        ({"observations": np.full((6, 3), np.nan)}, "field `observations`: NaN or inf at step 0"),
        ({"observations": np.zeros((5, 3))}, "5 rows, but 5 steps need 6"),
        ({"actions": np.full((5, 2), 2.5, np.float32)}, "lies outside"),
    ],
)
def test_a_bad_episode_is_refused(
    fit: Fit, own_minari: Path, changes: dict[str, Any], reason: str
) -> None:
    make_minari([episode(0, 4), episode(1, 5, **changes)])
    complaint = fit(data__dataset_id="tests/small-v0").complaint
    assert "`tests/small-v0`, episode 1" in complaint
    assert reason in complaint


def test_a_set_without_rewards_is_refused(fit: Fit, own_minari: Path) -> None:
    with h5py.File(data_file(make_minari([episode(0, 4)])), "a") as file:
        del file["episode_0/rewards"]
    complaint = fit(data__dataset_id="tests/small-v0").complaint
    assert "episode 0: field `rewards` is missing" in complaint


@pytest.mark.parametrize(
    ("model", "dataset", "advice"),
    [
        ("IQL", "tests/discrete-v0", "use DiscreteIQL"),
        ("DiscreteCQL", "tests/box-v0", "use CQL"),
        ("DQN", "tests/box-v0", "use "),
        ("BC", "tests/discrete-v0", "categorical"),
    ],
)
def test_an_algorithm_that_does_not_fit_the_actions_is_refused(
    fit: Fit, model: str, dataset: str, advice: str
) -> None:
    complaint = fit(model=model, data__dataset_id=dataset).complaint
    assert f"{model} does not fit `{dataset}`" in complaint
    assert advice in complaint


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--model.expectil=0.8", "expectil"),
        ("--data.batchsize=8", "batchsize"),
        ("--trainer.max_step=8", "max_step"),
        ("--evaluation.episode=8", "episode"),
        ("--nonsense=8", "nonsense"),
    ],
)
def test_an_unknown_option_is_named(fit: Fit, option: str, named: str) -> None:
    assert named in fit(option).complaint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {class_path: IQL, init_args: {expectil: 0.8}}", "expectil"),
        ("data: {batchsize: 8}", "batchsize"),
        ("trainer: {max_step: 8}", "max_step"),
        ("nonsense: 8", "nonsense"),
        ("model: {class_path: IQLL}", "IQLL"),
        ("data: {batch_size: many}", "many"),
        ("data: [1, 2", "config.yaml"),
        ("- 1", "config.yaml"),
    ],
)
def test_a_wrong_config_is_answered_with_what_is_wrong(
    text: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "config.yaml", "--data.dataset_id", "tests/box-v0"])
    assert end.value.code == 2
    assert named in Outcome(2, *capsys.readouterr()).complaint


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fit", "-c", "no.yaml"], "There is no config file no.yaml"),
        (["fit", "-c"], "-c"),
        (["fot"], "There is no verb `fot`"),
        (["fit", "--data.dataset_id", "tests/box-v0"], "model"),
        (["fit", "--model", "IQL"], "dataset_id"),
        (["fit", "--model", "IQLL"], "There is no algorithm `IQLL`: choose from AWAC"),
        (["fit", "--model", "IQL", "--data.batch_size", "many"], "many"),
        (["fit", "--trainer.plugins", "foo"], "Option `trainer.plugins`: there is no class `foo`"),
        (["fit", "--trainer.callbacks", "foo"], "Option `trainer.callbacks`: there is no class"),
    ],
)
def test_a_wrong_command_is_answered_with_what_is_wrong(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert named in Outcome(2, *capsys.readouterr()).complaint


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data.batch_size", 0),
        ("data.held_out", 1.5),
        ("model.discount", 2),
        ("model.lr", 0),
        ("evaluation.episodes", -1),
        ("evaluation.num_envs", 0),
        ("model.expectile", 1),
        ("model.dropout", "nan"),
        ("model.hidden", "[8, 0]"),
        ("seed_everything", -1),
        ("trainer.check_val_every_n_epoch", 0),
        ("trainer.log_every_n_steps", -1),
        ("trainer.max_epochs", 0),
    ],
)
def test_a_value_out_of_range_is_refused(fit: Fit, option: str, value: Any) -> None:
    words = {"evaluation.num_envs": "OnlineEvaluation", "model.hidden": "Hidden layers"}
    assert words.get(option, option.rpartition(".")[2]) in fit(**{option: value}).complaint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_train_batches", 3),
        ("limit_train_batches", 0),
        ("limit_train_batches", 0.5),
        ("overfit_batches", 1),
        ("val_check_interval", 50),
        ("val_check_interval", "00:00:00:10"),
    ],
)
def test_an_option_that_counts_no_updates_is_refused(fit: Fit, name: str, value: Any) -> None:
    complaint = fit(**{f"trainer.{name}": value}).complaint
    assert f"`trainer.{name}`" in complaint and "leave it out" in complaint


def test_a_run_of_no_updates_is_refused(fit: Fit) -> None:
    assert "With `trainer.max_steps` 0" in fit(model="TD3BC", trainer__max_steps=0).complaint


@pytest.mark.parametrize("precision", ["16", "16-mixed", "16-true", "bf16-true"])
def test_a_precision_that_spoils_training_is_refused(fit: Fit, precision: str) -> None:
    complaint = fit(trainer__precision=precision).complaint
    assert f"Set `trainer.precision` to bf16-mixed, not {precision}: " in complaint


EARLY = "{class_path: EarlyStopping, init_args: {monitor: val/nope}}"


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("trainer.gradient_clip_val", 1.0, "Automatic gradient clipping is not supported"),
        ("trainer.accelerator", "foo", "invalid accelerator name: `accelerator='foo'`."),
        ("trainer.max_steps", -5, "`max_steps` must be a non-negative integer or -1"),
        ("trainer.barebones", True, "logger=[TensorBoardLogger, MetricsLogger])` was passed."),
        ("trainer.callbacks", EARLY, "metric `val/nope` which is not available."),
        ("checkpoint.mode", "foo", "`mode` can be min, max but got foo."),
        ("checkpoint.monitor", "val/nope", "could not find the monitored key"),
    ],
)
def test_what_lightning_refuses_is_told_in_one_line(
    fit: Fit, option: str, value: Any, reason: str
) -> None:
    complaint = fit(**{option: value}).complaint
    assert "Lightning refuses this run's options: " in complaint
    assert reason in complaint


class Mistaken(BC):
    """An algorithm of the user's own, with a mistake."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: tuple[int, ...] = (8,)) -> None:
        raise ValueError("a mistake")


def test_a_mistake_in_an_algorithm_comes_out_bare(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"^a mistake$"):
        fit(model=f"{Mistaken.__module__}.Mistaken")


def test_the_base_class_is_no_algorithm(fit: Fit) -> None:
    complaint = fit(model="OfflineAlgorithm", model__hidden=None).complaint
    assert "There is no algorithm `OfflineAlgorithm`: choose from AWAC" in complaint


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"seeds": 0}, "`--seeds` must lie in [1, inf)"),
        ({"seeds": 2, "seed_everything": 2**32 - 1}, "must lie in [0, 4294967294]"),
        ({"seeds": 2, "checkpoint.monitor": "val/loss"}, "leave out `checkpoint.monitor`"),
        ({"seeds": 2, "checkpoint.mode": "max"}, "leave out `checkpoint.monitor`"),
    ],
)
def test_what_several_seeds_cannot_do_is_refused(
    fit: Fit, options: dict[str, Any], reason: str
) -> None:
    assert reason in fit(**options).complaint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "TD3BC"}, "TD3BC: give the checkpoint of the same algorithm"),
        ({"model.hidden": "[8, 9]"}, "has shape (8, 8), expected (9, 8)"),
        ({"data.dataset_id": "tests/wide-v0"}, "The checkpoint was trained on `tests/box-v0`"),
        ({"data.held_out": 0.3}, "trained with `held_out` 0.1"),
        ({"data.normalize_obs": False}, "another scaling"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    fit: Fit, own_minari: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    make_minari([episode(i, 4 + i) for i in range(4)], "tests/box-v0")
    make_minari([episode(i, 5 + i) for i in range(4)], "tests/wide-v0")
    assert fit(run_dir="first").code == 0
    options = {"ckpt_path": "first/checkpoints/last.ckpt", "run_dir": "second", **change}
    assert reason in fit(**options).complaint
    assert not Path("second").exists()


@pytest.mark.parametrize("name", ["absent.ckpt", "text.ckpt"])
def test_a_file_that_is_no_checkpoint_is_refused(fit: Fit, name: str) -> None:
    Path("text.ckpt").write_text("no checkpoint at all")
    assert "ckpt" in fit(ckpt_path=name).complaint


@pytest.mark.parametrize("content", [{"a": 1}, {"state_dict": {}, "global_step": 3}, [1], NAN])
def test_what_others_saved_with_torch_is_refused(fit: Fit, content: Any) -> None:
    path = Path("run/checkpoints/last.ckpt")
    path.parent.mkdir(parents=True)
    torch.save(torch.tensor(content) if content is NAN else content, path)
    for options in ({"ckpt_path": path}, {"ckpt_path": "last", "run_dir": "run"}):
        assert f"`{path}` is not a checkpoint of lit_offrl" in fit(**options).complaint
    assert list(Path("run").iterdir()) == [path.parent]


def test_an_environment_that_does_not_match_is_refused(fit: Fit) -> None:
    options = {"evaluation.episodes": 1, "evaluation.env_id": "CartPole-v1"}
    complaint = fit(data__dataset_id="pendulum/mixed", **options).complaint
    assert "`CartPole-v1` does not match `lit_offrl/pendulum/mixed-v0`" in complaint
    options["evaluation.env_id"] = "Nothing-v0"
    assert "cannot be made" in fit(data__dataset_id="pendulum/mixed", **options).complaint


def test_a_run_folder_at_or_below_a_file_is_refused(fit: Fit) -> None:
    Path("file").touch()
    for folder in ("file", "file/run"):
        assert "Cannot write to the folder" in fit(run_dir=folder).complaint
    assert Path("file").is_file()


def test_a_read_only_run_folder_is_refused(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir(mode=0o500)
    if os.geteuid() == 0:  # nothing is read-only to root

        def touch(path: Path) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(Path, "touch", touch)
    complaint = fit(run_dir="locked").complaint
    assert "Cannot write to the folder locked (Permission denied)" in complaint
    assert list(Path("locked").iterdir()) == []


def test_a_folder_that_was_there_before_stays(fit: Fit) -> None:
    Path("kept").mkdir()
    (Path("kept") / "notes.txt").write_text("mine")
    assert fit(run_dir="kept", data__dataset_id="tests/discrete-v0").code == 2
    assert [path.name for path in Path("kept").iterdir()] == ["notes.txt"]


def test_a_run_from_the_start_does_not_replace_another(fit: Fit) -> None:
    assert fit(run_dir="run").code == 0
    before = Path("run/checkpoints/last.ckpt").read_bytes()
    assert "run holds the checkpoints of another run" in fit(run_dir="run").complaint
    assert Path("run/checkpoints/last.ckpt").read_bytes() == before


def test_a_full_disk_is_told_in_one_line_and_spares_the_last_checkpoint(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.save
    calls = iter(range(100))

    def save(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if next(calls) >= 2:  # best.ckpt and last.ckpt of the first epoch are whole
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    outcome = fit(run_dir="run")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert line.startswith("lit-offrl: ") and os.strerror(errno.ENOSPC) in line
    assert read("run")["global_step"] == 10
    assert load("run/checkpoints/last.ckpt").info.updates == 10
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
