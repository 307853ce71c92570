"""Run a function on several ranks, started by torchrun, and bring back what each returns."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

ROOT = Path(__file__).parents[1]
SOURCES = os.pathsep.join([str(ROOT), str(ROOT / "callbacks")])
"""PYTHONPATH of a process of this checkout."""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


def on_ranks(function: Callable[..., Any], folder: Path, *arguments: Any, ranks: int = 2) -> Any:
    """Call ``function(*arguments, devices=ranks)`` on each rank.

    Args:
        function: A function of a test module; it returns tensors and plain types.
        folder: Where the ranks run and leave what they return.
        arguments: Plain types.
        ranks: How many processes.

    Returns:
        What each rank returned, in their order.
    """
    command = [*TORCHRUN, f"--nproc_per_node={ranks}", __file__]
    command += [function.__module__, function.__name__, json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=240, cwd=folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]


def quiet_trainer(devices: int, **options: Any) -> Trainer:
    """Make a trainer in float64 that writes nothing unless ``options`` say so."""
    return Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, "enable_checkpointing": False, **options},
    )


def _main(module: str, name: str, arguments: str) -> None:
    function = getattr(importlib.import_module(module), name)
    world_size, rank = int(os.environ["WORLD_SIZE"]), os.environ["RANK"]
    torch.save(function(*json.loads(arguments), devices=world_size), f"rank{rank}.pt")


if __name__ == "__main__":
    _main(*sys.argv[1:])
