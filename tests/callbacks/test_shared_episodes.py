from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lit_offrl_callbacks.shared_episodes import play_shared
from tests.ranks import on_ranks

SEEDS = range(100, 105)  # no even split


def play_on(rank: int, ranks: int) -> tuple[list[int], dict[str, list[float]]]:
    """Seeds that this rank plays, and the numbers of all that it is told."""
    played: list[int] = []

    def play(seeds: Sequence[int]) -> dict[str, Any]:
        played.extend(seeds)
        return {"seed": np.array(seeds), "half": np.array(seeds) / 2}

    trainer: Any = SimpleNamespace(global_rank=rank, world_size=ranks)
    numbers = play_shared(play, SEEDS, trainer, torch.device("cpu"))
    return played, {name: values.tolist() for name, values in numbers.items()}


def on_gloo(*, devices: int) -> tuple[list[int], dict[str, list[float]]]:
    dist.init_process_group("gloo")
    found = play_on(dist.get_rank(), devices)
    dist.destroy_process_group()
    return found


ALL = {"seed": [float(s) for s in SEEDS], "half": [s / 2 for s in SEEDS]}


def test_one_rank_plays_all_episodes() -> None:
    assert play_on(0, 1) == (list(SEEDS), ALL)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_episodes_and_all_know_all_in_order(tmp_path: Path, ranks: int) -> None:
    found = on_ranks(on_gloo, tmp_path, ranks=ranks)
    assert sorted(seed for played, _ in found for seed in played) == list(SEEDS)
    assert max(len(played) for played, _ in found) == 5 // ranks + 1
    assert all(numbers == ALL for _, numbers in found)
