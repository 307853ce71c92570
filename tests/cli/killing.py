"""Runs of the real command line that are killed without warning, and go on."""

import logging
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.running import read, same

MAIN = "from lit_offrl.cli import main; main()"
OPTIONS = {
    "data.batch_size": 32,
    "data.updates_per_epoch": 12,
    "data.updates_per_step": 4,
    "model.hidden": "[16, 16]",
    "trainer.max_steps": 240,
    "trainer.log_every_n_steps": 6,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "evaluation.episodes": 1,
    "evaluation.every_n_epochs": 3,
    "q_values.rows": 64,
    "q_values.starts": 16,
    "kl.rows": 64,
    "gap.episodes": 2,
    "gap.starts": 16,
}
"""Many short epochs, each with diagnoses and checkpoints."""


@dataclass(frozen=True)
class Whole:
    """A run that was left alone.

    Args:
        folder: Its run folder.
        arguments: Verb and what it was called with, without ``--run_dir``.
        seconds: How long it took once it had begun to train.
    """

    folder: Path
    arguments: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Killed:
    """How a run went that was killed and resumed.

    Args:
        updates: Update of the checkpoint that each kill left, 0 for none.
        differences: What is not as in the run that was left alone.
    """

    updates: tuple[int, ...]
    differences: tuple[str, ...]


def run_whole(model: str, options: Mapping[str, Any], folder: Path) -> Whole:
    """Run ``lit-offrl fit`` once from beginning to end."""
    merged = {key: str(value) for key, value in {**OPTIONS, **options}.items()}
    given = (part for key, value in merged.items() for part in (f"--{key}", value))
    return run_verb(("fit", "--model", model, *given), folder)


def run_verb(arguments: tuple[str, ...], folder: Path) -> Whole:
    """Run a verb once from beginning to end."""
    with _started(arguments, folder) as process:
        begun = _wait_for_training(process, folder)
        error = process.communicate()[1]
    assert process.returncode == 0, error
    return Whole(folder, arguments, time.monotonic() - begun)


def run_killed(whole: Whole, folder: Path, kills: int, draw: random.Random) -> Killed:
    """Repeat a run, kill it at random moments, resume it, and compare.

    Args:
        whole: What to repeat.
        folder: Run folder, emptied first.
        kills: How many processes are killed; fewer if one is done before.
        draw: Draws the moments: one in five while starting up, the others while training.
    """
    resume: tuple[str, ...] = ()
    updates: list[int] = []
    shutil.rmtree(folder, ignore_errors=True)
    while len(updates) < kills:
        if _is_killed((*whole.arguments, *resume), folder, whole.seconds, draw):
            updates.append(_saved_update(folder))
            resume = "--ckpt_path", "last"
        elif updates:
            break  # it was done before
        else:
            shutil.rmtree(folder)
    with _started((*whole.arguments, *resume), folder) as process:
        error = process.communicate()[1]
    assert process.returncode == 0, error
    return Killed(tuple(updates), tuple(differences(whole.folder, folder)))


def differences(left: Path, right: Path) -> list[str]:
    """Name what is not the same in two run folders, in checkpoints, metrics and curves."""
    found = []
    for name in ("last", "best"):
        one, other = (_without_paths(read(folder, name), folder) for folder in (left, right))
        keys = sorted(one.keys() | other.keys())
        found += [f"{name}.ckpt: {key}" for key in keys if not same(one.get(key), other.get(key))]
    rows = [(folder / "csv" / "metrics.csv").read_bytes() for folder in (left, right)]
    if rows[0] != rows[1]:
        found.append("metrics.csv")
    if curves(left) != curves(right):
        found.append("tensorboard")
    if leftovers := [path.name for path in right.rglob(".*")]:
        found.append(f"left over: {', '.join(leftovers)}")
    return found


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each scalar, as TensorBoard shows them."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it leaves out
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags: Sequence[str] = events.Tags()["scalars"]
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in tags
        if tag != "hp_metric"  # Lightning writes a placeholder each time a run starts
    }


def _started(arguments: Sequence[str], folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments, "--run_dir", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _is_killed(arguments: Sequence[str], folder: Path, seconds: float, draw: random.Random) -> bool:
    """Start a run and kill it; False if it was done before that."""
    starting_up, share = draw.random() < 0.2, draw.random()
    with _started(arguments, folder) as process:
        if starting_up:
            time.sleep(6 * share)
        else:
            _wait_for_training(process, folder)
            time.sleep(seconds * share)
        process.kill()
        error = process.communicate()[1]
    assert process.returncode in (0, -9), error
    return process.returncode != 0


def _wait_for_training(process: "subprocess.Popen[str]", folder: Path) -> float:
    """Wait until the run has written its configuration, and return the time."""
    path = folder / "config.yaml"
    before = path.stat().st_mtime_ns if path.exists() else 0
    while process.poll() is None:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime_ns > before:
                break
        time.sleep(0.005)
    return time.monotonic()


def _saved_update(folder: Path) -> int:
    path = folder / "checkpoints" / "last.ckpt"
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


def _without_paths(tree: Any, folder: Path) -> Any:
    """A tree of plain values, in which the run's own folder has no name."""
    if isinstance(tree, Mapping):
        return {_without_paths(k, folder): _without_paths(v, folder) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_without_paths(value, folder) for value in tree)
    return tree.replace(str(folder.resolve()), "") if isinstance(tree, str) else tree
