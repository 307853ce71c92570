"""The command line as a function."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_offrl.cli import main

TINY = {
    "data.dataset_id": "tests/box-v0",
    "data.batch_size": 8,
    "data.updates_per_epoch": 10,
    "model.hidden": "[8, 8]",
    "trainer.max_steps": 20,
    "trainer.accelerator": "cpu",
    "trainer.log_every_n_steps": 5,
    "evaluation.episodes": 0,
    "diagnostics": "false",
}


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line about wrong input."""
        assert self.code == 2, self.err
        (line,) = self.err.splitlines()
        assert line.startswith("lit-offrl: ")
        return line


Fit = Callable[..., Outcome]
"""``fit(*arguments, model="IQL", only_arguments=False, **options)``, see :func:`tiny`."""


def tiny(model: str, options: Mapping[str, Any]) -> list[str]:
    """Arguments of a run of seconds; ``a__b=c`` stands for ``--a.b c``, None for the default."""
    given = {key.replace("__", "."): value for key, value in options.items()}
    merged = {key: value for key, value in (TINY | given).items() if value is not None}
    return ["--model", model, *(part for k, v in merged.items() for part in (f"--{k}", str(v)))]


def run(
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
) -> Outcome:
    """Run a command and catch what it prints and exits with."""
    capsys.readouterr()
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        code = end.code
    return Outcome(code, *capsys.readouterr())


def read(folder: Path | str, name: str = "last") -> dict[str, Any]:
    """Read a checkpoint of a run."""
    path = Path(folder) / "checkpoints" / f"{name}.ckpt"
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def metrics(folder: Path | str) -> list[dict[str, float]]:
    """Rows of a run's metrics.csv, without empty fields."""
    with (Path(folder) / "csv" / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def same(left: Any, right: Any) -> bool:
    """Whether two trees of tensors and plain values are equal in every bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def same_training(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two checkpoints hold the same weights, optimizers and number of updates."""
    return all(
        same(left[key], right[key]) for key in ("state_dict", "optimizer_states", "global_step")
    )
