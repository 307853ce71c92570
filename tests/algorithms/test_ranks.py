"""N ranks train what one does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.algorithms.ranks_worker import (
    ALGORITHMS,
    BOX,
    DISCRETE,
    DROPOUT,
    compile_all,
    make_data,
    resume_all,
    save_all,
    train_all,
)
from tests.ranks import on_ranks

RESUMED = ["BC", "BCQ", "CQL lagrange, max backup", "DQN double, period", "IQL", "TD3BC"]
Runs = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    make_data()


def assert_same_weights(left: Runs, right: Runs, tolerance: float = 1e-8) -> None:
    assert left.keys() == right.keys()
    for name in left:
        mine, theirs = left[name]["weights"], right[name]["weights"]
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert value.dtype == torch.float64
            difference = float((value - theirs[key]).abs().max())
            assert difference <= tolerance, f"{name}: {key} differs by {difference}"


def assert_moved(runs: Runs) -> None:
    for name, run in runs.items():
        torch.manual_seed(0)
        start = ALGORITHMS[name](3, 3 if name in DISCRETE else 2).state_dict()
        still = {key for key, v in run["weights"].items() if torch.equal(start[key].double(), v)}
        assert still <= {"log_multiplier.value"}, name  # which only `lagrange_gap` tunes


def assert_same_logs(left: Runs, right: Runs) -> None:
    for name in left:
        mine, theirs = left[name]["logged"], right[name]["logged"]
        assert [row["step"] for row in mine] == [row["step"] for row in theirs]
        assert {row["step"] for row in mine} >= set(range(5, 51, 5))
        for row, other in zip(mine, theirs, strict=True):
            one, two = ({k: v for k, v in r.items() if k != "awr/ess"} for r in (row, other))
            rel = 1e-5 if "val/loss" in one else 1e-8  # Lightning's own sums are in float32
            assert one == pytest.approx(two, rel=rel, abs=rel), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [list(BOX), list(DISCRETE), list(DROPOUT)], ids=["box", "discrete", "dropout"]
)
def test_two_ranks_train_and_log_what_one_does(tmp_path: Path, names: list[str]) -> None:
    one = train_all(names, devices=1)
    first, second = on_ranks(train_all, tmp_path, names)
    assert_moved(one)
    assert_same_weights(first, second, tolerance=0.0)
    assert_same_weights(first, one)
    assert_same_logs(first, one)


@pytest.mark.slow
def test_two_compiled_ranks_train_what_one_does_uncompiled(tmp_path: Path) -> None:
    names = ["IQL", "TD3BC", "CQL lagrange, max backup"]
    one = train_all(names, devices=1)
    first, second = on_ranks(compile_all, tmp_path, names)
    assert_same_weights(first, second, tolerance=0.0)
    assert_same_weights(first, one)
    assert_same_logs(first, one)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    one = save_all(RESUMED, str(tmp_path / "one"), devices=1)
    two = on_ranks(save_all, tmp_path, RESUMED, str(tmp_path / "two"))
    assert_same_weights(resume_all(RESUMED, str(tmp_path / "two"), devices=1), one)
    for resumed in on_ranks(resume_all, tmp_path, RESUMED, str(tmp_path / "one")):
        assert_same_weights(resumed, one)
    assert_same_weights(two[0], one)
