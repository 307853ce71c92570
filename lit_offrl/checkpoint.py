"""From a checkpoint file to a policy that acts in the environment."""

import contextlib
import importlib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.checkpoint_io import LAST, PREVIOUS
from lit_offrl.data import DatasetSpec
from lit_offrl.errors import InputError
from lit_offrl.evaluation import RawPolicy
from lit_offrl.evaluation.finding import Finding
from lit_offrl.scaling import Scaling

RESUMED: dict[str, type] = {
    "algorithm": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "lr_schedulers": list,
    "optimizer_states": list,
    "pytorch-lightning_version": str,
    "state_dict": dict,
}
"""What training needs of a checkpoint to go on."""


class TrainingInfo(NamedTuple):
    """How a checkpoint came about.

    Args:
        updates: Gradient updates done.
        seed: Seed of the run.
        split_seed: Which episodes were held out.
        held_out: Fraction of the episodes that were.
        online_episodes: Episodes that were played in the environment while training.
        findings: What the diagnostics had found by then.
        online_steps: Environment steps that fine-tuning had collected to train on.
    """

    updates: int
    seed: int
    split_seed: int = 0
    held_out: float = 0.0
    online_episodes: int = 0
    findings: tuple[Finding, ...] = ()
    online_steps: int = 0


class LoadedPolicy(RawPolicy):
    """A trained policy: raw observations in, raw actions out.

    Args:
        algorithm: The algorithm, in evaluation mode, with its ``policy``, ``q_values`` and so on.
        spec: Data set that it was trained on.
        scaling: Scaling that it was trained with.
        info: How the checkpoint came about.
    """

    algorithm: OfflineAlgorithm

    def __init__(
        self, algorithm: OfflineAlgorithm, spec: DatasetSpec, scaling: Scaling, info: TrainingInfo
    ) -> None:
        super().__init__(algorithm, spec, scaling)
        self.info = info


def load(path: str | Path) -> LoadedPolicy:
    """Load a policy from a checkpoint, without running code that the file brings along.

    Args:
        path: A ``.ckpt`` file that training left.

    Raises:
        InputError: If the file is missing, damaged or not a checkpoint of lit_offrl.
    """
    checkpoint = read_checkpoint(Path(path).expanduser())
    stored = checkpoint.get("algorithm")
    if isinstance(stored, dict) and (seeds := stored.get("seeds")):
        raise InputError(
            f"`{path}` holds {len(seeds)} seeds: give one of seed-*/checkpoints/ beside its folder."
        )
    try:
        class_path, seed = checkpoint["algorithm"]["class_path"], checkpoint["algorithm"]["seed"]
        data = _data_state(checkpoint)
        spec, scaling = DatasetSpec.from_dict(data["spec"]), Scaling.from_dict(data["scaling"])
        callbacks: list[dict[str, Any]] = list(checkpoint.get("callbacks", {}).values())
        info = TrainingInfo(
            int(checkpoint["global_step"]),
            int(seed),
            int(data["split_seed"]),
            float(data["held_out"]),
            sum(int(callback.get("episodes_spent", 0)) for callback in callbacks),
            tuple(Finding.from_dict(f) for c in callbacks for f in c.get("findings", ())),
            int(data.get("online", {}).get("env_steps", 0)),
        )
        state = checkpoint["state_dict"]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _foreign(path) from None
    algorithm = _build(_find_class(str(class_path)), checkpoint)
    algorithm.on_load_checkpoint(checkpoint)
    algorithm.load_state_dict(state)
    return LoadedPolicy(algorithm.eval(), spec, scaling, info)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, of plain types and tensors only.

    Raises:
        InputError: If the file is missing or damaged.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise InputError(f"`{path}` is {what}: give the path of a `.ckpt` file.")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise InputError(f"`{path}` may not be read: check its permissions.") from None
    except Exception:  # zip, pickle and torch have errors of their own, of many lines
        raise InputError(
            f"`{path}` is damaged or not a checkpoint: give a `.ckpt` file that `lit-offrl fit` "
            "left."
        ) from None
    return checkpoint if isinstance(checkpoint, dict) else {}


def updates_behind(path: Path) -> int:
    """Read after how many updates a checkpoint was left, from which training can go on.

    Raises:
        InputError: If the file is missing, damaged or not a checkpoint of lit_offrl.
    """
    checkpoint = read_checkpoint(path)
    if not all(isinstance(checkpoint.get(name), kind) for name, kind in RESUMED.items()):
        raise _foreign(path)
    return int(checkpoint["global_step"])


def _foreign(path: str | Path) -> InputError:
    return InputError(
        f"`{path}` is not a checkpoint of lit_offrl, or of another version of it: give one "
        "that `lit-offrl fit` left, whose training had an OfflineDataModule."
    )


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the latest whole checkpoint that a run left, or None if it left none.

    Args:
        folder: The run's folder of checkpoints.

    Returns:
        ``last.ckpt``, or ``previous.ckpt`` where that is missing or damaged.

    Raises:
        InputError: If neither can be read, or a folder is in their place.
    """
    paths = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
    for path in paths:
        if path.is_dir():
            raise InputError(f"`{path}` is a folder: remove it, a checkpoint belongs there.")
        with contextlib.suppress(InputError):
            read_checkpoint(path)
            return path
    if not paths:
        return None
    names = " and ".join(path.name for path in paths)
    raise InputError(
        f"No checkpoint in {folder} can be read ({names}): remove what is damaged to start from "
        "the first update."
    )


def _data_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Find the DataModule's state, which Lightning stores under the name of its class."""
    for state in checkpoint.values():
        if isinstance(state, dict) and {"spec", "scaling"} <= state.keys():
            return state
    raise KeyError("spec")


def _find_class(class_path: str) -> type[OfflineAlgorithm]:
    """Import the class, and nothing but a subclass of :class:`OfflineAlgorithm`."""
    module_name, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(
            f"The checkpoint's algorithm `{class_path}` cannot be imported: start where its module "
            "can be found, or install it."
        ) from None
    if not (isinstance(found, type) and issubclass(found, OfflineAlgorithm)):
        raise InputError(f"The checkpoint's `{class_path}` is no algorithm of lit_offrl.")
    return found


def _build(algorithm: type[OfflineAlgorithm], checkpoint: dict[str, Any]) -> OfflineAlgorithm:
    """Make the algorithm anew from the arguments that Lightning stored."""
    stored = dict(checkpoint.get(algorithm.CHECKPOINT_HYPER_PARAMS_KEY, {}))
    # LightningCLI adds `_class_path` and `_instantiator`, a function to import.
    arguments = {key: value for key, value in stored.items() if not key.startswith("_")}
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then replaced
            return algorithm(**arguments)
    except TypeError as error:
        raise InputError(
            f"{algorithm.__name__} cannot be made from the checkpoint's arguments ({error}): its "
            "`__init__` must call `self.save_hyperparameters()`, and still take the same arguments."
        ) from None
