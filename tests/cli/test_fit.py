"""What a run does and leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.running import Outcome, metrics, read, same_training

Fit = Callable[..., Outcome]


def test_a_run_leaves_all_that_the_readme_names(fit: Fit) -> None:
    outcome = fit()
    assert (outcome.code, outcome.err) == (0, "")
    folder = Path("runs/tests-box-v0/iql/seed-0")
    assert read(folder, "last")["global_step"] == read(folder, "best")["global_step"] * 1 == 20
    assert list((folder / "tensorboard").glob("events.*"))
    assert [row["step"] for row in metrics(folder)]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["dataset_id"] == "tests/box-v0"
