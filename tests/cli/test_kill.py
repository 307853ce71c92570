import random
from pathlib import Path

import pytest

from tests.cli.killing import run_killed, run_whole


@pytest.mark.slow
@pytest.mark.parametrize(("model", "held_out", "kills"), [("BC", 0.25, 1), ("IQL", 0, 2)])
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(
    tmp_path: Path, model: str, held_out: float, kills: int
) -> None:
    options = {"data.dataset_id": "pendulum/mixed", "data.held_out": held_out}
    whole = run_whole(model, options, tmp_path / "whole")
    killed = run_killed(whole, tmp_path / "run", kills, random.Random(kills))
    assert killed.updates
    assert killed.differences == ()
