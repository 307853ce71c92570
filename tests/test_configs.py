"""Every shipped config trains, says where its values come from, and repeats no default."""

import contextlib
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gymnasium.spaces import Discrete

from lit_offrl import algorithms
from lit_offrl.cli import fit
from tests.data.makers import ACTION, episode, make_minari

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.yaml"))
BOX_DOMAINS = ("mujoco", "antmaze", "adroit", "classic_control")
DISCRETE_DOMAINS = ("atari", "classic_control", "gridworld")
BOX, DISCRETE = "tests/box-v0", "tests/discrete-v0"

every_config = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two small sets without an environment, so that nothing is evaluated online."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.setenv("LIT_OFFRL_CACHE", str(folder / "cache"))
        patch.setenv("PL_GLOBAL_SEED", "0")  # what seed_everything sets is taken back at the end
        for dataset_id, actions in ((BOX, ACTION), (DISCRETE, Discrete(3))):
            episodes = [
                episode(i, steps, action_space=actions) for i, steps in enumerate((6, 9, 7))
            ]
            make_minari(episodes, dataset_id, action_space=actions)
        yield


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return config


def header(name: str) -> list[str]:
    """The lines of comment at the top, without the sign."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("# ") for line in lines[:end]]


def algorithm_of(config: dict[str, Any]) -> type[algorithms.OfflineAlgorithm]:
    cls: type[algorithms.OfflineAlgorithm] = getattr(
        algorithms, config["model"]["class_path"].removeprefix("lit_offrl.algorithms.")
    )
    return cls


def fits_discrete_actions(config: dict[str, Any]) -> bool:
    cls = algorithm_of(config)
    if cls is algorithms.BC:  # depends on its policy
        return bool(config["model"]["init_args"]["policy"] == "categorical")
    return cls.actions == "discrete"


@every_config
def test_config_trains_two_updates(name: str, tmp_path: Path) -> None:
    dataset = DISCRETE if fits_discrete_actions(read(name)) else BOX
    options = {
        "--run_dir": tmp_path / "run",
        "--data.dataset_id": dataset,
        "--data.batch_size": 8,
        "--trainer.max_steps": 2,
        "--diagnostics": "false",  # they are the same for all
        "--trainer.accelerator": "cpu",
        "--trainer.logger": "false",
        "--trainer.enable_progress_bar": "false",
    }
    folder = fit.main(
        ["-c", str(ROOT / name), *(f"{key}={value}" for key, value in options.items())]
    )
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


@every_config
def test_config_says_first_where_its_values_come_from(name: str) -> None:
    lines = header(name)
    assert lines[0].startswith(("Reference: ", "Ours"))
    assert any("https://" in line for line in lines)


@every_config
def test_config_names_its_own_file_in_its_usage(name: str) -> None:
    usages = [line.split() for line in header(name) if line.startswith("lit-offrl")]
    assert all(words[:4] == ["lit-offrl", "fit", "-c", f"configs/{name}"] for words in usages)
    if "dataset_id" not in read(name).get("data", {}) and "atari" not in name:
        assert all(words[4] == "--data.dataset_id" for words in usages)
        assert len(usages) == 1


@cache
def defaults(class_path: str) -> dict[str, Any]:
    """Everything `lit-offrl fit` would do if it were given only the algorithm."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        fit.FitCLI([f"--model={class_path}", "--data.dataset_id=none", "--print_config"])
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


def leaves(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


@every_config
def test_config_holds_only_what_differs_from_the_defaults(name: str) -> None:
    config = read(name)
    class_path = config["model"].pop("class_path")
    default = dict(leaves(defaults(class_path)))
    for key, value in leaves(config):
        assert key in default
        assert value != default[key], f"{name}: {key} is the default"


def folder_of(cls: type) -> str:
    return cls.__module__.rpartition(".")[2]


@pytest.mark.parametrize("name", sorted(set(algorithms.__all__) - {"OfflineAlgorithm"}))
def test_every_algorithm_has_a_config_per_domain(name: str) -> None:
    cls = getattr(algorithms, name)
    if cls is algorithms.BC:
        domains = {*BOX_DOMAINS, *DISCRETE_DOMAINS, "mujoco_top10", "classic_control_discrete"}
    else:
        domains = set(BOX_DOMAINS if cls.actions == "box" else DISCRETE_DOMAINS)
    assert {path.stem for path in (ROOT / folder_of(cls)).iterdir()} == domains
