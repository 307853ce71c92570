import importlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.cli import LightningCLI

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.algorithms.bc import BC
from lit_offrl.algorithms.dqn import DQN
from lit_offrl.checkpoint import load
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.builtin import cartpole, pendulum
from lit_offrl.errors import InputError
from lit_offrl.evaluation import evaluate

SILENT: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="module", autouse=True)
def minari_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("minari")
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        patch.setenv("LIT_OFFRL_CACHE", str(folder / "cache"))
        patch.setenv("PL_GLOBAL_SEED", "5")
        pendulum.make(scale=0.02)
        cartpole.make(scale=0.02)
        yield


def trained(algorithm: type[OfflineAlgorithm], dataset_id: str, path: Path) -> OfflineAlgorithm:
    data = OfflineDataModule(dataset_id, batch_size=16, updates_per_epoch=10, held_out=0.25)
    make: Any = algorithm
    model: OfflineAlgorithm = make(data.obs_dim, data.action_dim, hidden=(8,))
    trainer = Trainer(max_steps=12, **SILENT)
    trainer.fit(model, data)
    trainer.save_checkpoint(path)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bc") / "bc.ckpt"
    trained(BC, pendulum.DATASET_ID, path)
    return path


class Own(BC):
    """A user's own algorithm."""


@pytest.mark.parametrize(
    ("algorithm", "dataset_id"),
    [(BC, pendulum.DATASET_ID), (DQN, cartpole.DATASET_ID), (Own, pendulum.DATASET_ID)],
)
def test_a_loaded_policy_acts_as_the_trained_one(
    algorithm: type[OfflineAlgorithm], dataset_id: str, tmp_path: Path
) -> None:
    model = trained(algorithm, dataset_id, tmp_path / "a.ckpt")
    policy = load(tmp_path / "a.ckpt")

    assert type(policy.algorithm) is algorithm and not policy.algorithm.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, policy.algorithm.state_dict()[key])
    data = OfflineDataModule(dataset_id, held_out=0.25)
    assert policy.spec == data.spec
    assert (policy.info.updates, policy.info.seed) == (12, 5)
    obs = data.train.obs[:7]
    scaled = model.eval().act(data.scaling.normalize_obs(torch.tensor(obs)))
    raw = data.scaling.unscale_action(scaled)
    assert torch.equal(torch.as_tensor(policy(obs)), raw)
    assert len(evaluate(policy, policy.spec, episodes=2).returns) == 2


def test_a_checkpoint_of_the_command_line_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-offrl"])  # pytest's own arguments would be warned of

    class CLI(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            for name in ("obs_dim", "action_dim"):
                parser.link_arguments(
                    f"data.{name}", f"model.init_args.{name}", None, "instantiate"
                )

    fit = ["fit", "--model=lit_offrl.algorithms.bc.BC", "--model.hidden=[8]", "--model.lr=0.01"]
    trainer = ["--trainer.max_steps=2", f"--trainer.default_root_dir={tmp_path}"]
    trainer += [f"--trainer.{key}={str(value).lower()}" for key, value in SILENT.items()]
    cli = CLI(
        OfflineAlgorithm,
        OfflineDataModule,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        args=[*fit, f"--data.dataset_id={pendulum.DATASET_ID}", *trainer],
    )
    cli.trainer.save_checkpoint(tmp_path / "cli.ckpt")

    stored = torch.load(tmp_path / "cli.ckpt", weights_only=True)["hyper_parameters"]
    assert {"_class_path", "_instantiator", "obs_dim", "lr"} <= stored.keys()
    assert load(tmp_path / "cli.ckpt")([1.0, 0.0, 0.0]).shape == (1,)


def test_loading_draws_no_random_numbers(checkpoint: Path) -> None:
    before = torch.get_rng_state()
    load(checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


def edited(checkpoint: Path, tmp_path: Path, **changes: Any) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    content.update(changes)
    torch.save(content, tmp_path / "edited.ckpt")
    return tmp_path / "edited.ckpt"


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("code-was-run",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"algorithm": RunsCode()}, "evil.ckpt")
    Path("evil.pkl").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    for name in ("evil.ckpt", "evil.pkl"):
        with pytest.raises(InputError, match="damaged or not a checkpoint"):
            load(name)
    assert not Path("code-was-run").exists()


def test_a_class_that_is_no_algorithm_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    def load_class(class_path: str) -> None:
        load(edited(checkpoint, tmp_path, algorithm={"class_path": class_path, "seed": 0}))

    for class_path in ("os.mkdir", "lightning.LightningModule", "lit_offrl.checkpoint.load"):
        with pytest.raises(InputError, match="no algorithm of lit_offrl"):
            load_class(class_path)
    for class_path in ("no_such_module.BC", "lit_offrl.algorithms.bc.Nothing", "BC", ""):
        with pytest.raises(InputError, match="cannot be imported"):
            load_class(class_path)


def test_what_is_no_checkpoint_is_one_clear_line(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"algorithm": "ppo", "state_dict": {}}, tmp_path / "other.ckpt")
    torch.save(torch.load(checkpoint) | {"callbacks": [1]}, tmp_path / "callbacks.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "empty.ckpt").touch()
    cases = {
        "missing.ckpt": "not there",
        ".": "a folder",
        "cut.ckpt": "damaged",
        "text.ckpt": "damaged",
        "empty.ckpt": "damaged",
        "foreign.ckpt": "not a checkpoint of lit_offrl",
        "list.ckpt": "not a checkpoint of lit_offrl",
        "other.ckpt": "not a checkpoint of lit_offrl",
        "callbacks.ckpt": "not a checkpoint of lit_offrl",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as raised:
            load(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_stored_arguments_that_do_not_fit_are_input_errors(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="save_hyperparameters"):
        load(edited(checkpoint, tmp_path, hyper_parameters={}))
    sizes = {"obs_dim": 3, "action_dim": 1, "hidden": (9,)}
    with pytest.raises(InputError, match="does not fit"):
        load(edited(checkpoint, tmp_path, hyper_parameters=sizes))


def test_a_module_in_the_working_folder_can_hold_the_algorithm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from lit_offrl.algorithms.bc import BC\nclass Mine(BC):\n    pass\n"
    (tmp_path / "my_algorithms.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    mine: type[OfflineAlgorithm] = importlib.import_module("my_algorithms").Mine
    trained(mine, pendulum.DATASET_ID, tmp_path / "mine.ckpt")
    monkeypatch.delitem(sys.modules, "my_algorithms")
    assert type(load(tmp_path / "mine.ckpt").algorithm).__name__ == "Mine"
