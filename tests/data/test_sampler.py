from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_offrl.data.sampler import SequentialBatches, UpdateBlocks, UpdateSampler
from lit_offrl.errors import InputError

MATRIX = torch.arange(50.0)[:, None] * torch.tensor([1.0, 100.0])


def blocks(k: int, start: int = 0, max_steps: int = -1, epoch: int = 20, batch: int = 6) -> Any:
    trainer: Any = SimpleNamespace(global_step=start, max_steps=max_steps)
    return UpdateBlocks(UpdateSampler(MATRIX, batch, seed=3), trainer, k, epoch)


def test_a_block_gathers_the_rows_of_its_updates() -> None:
    sampler = UpdateSampler(MATRIX, 6, seed=1)
    block = sampler.block(first_update=4, k=3)
    assert block.shape == (3, 6, 2)
    for i in range(3):
        torch.testing.assert_close(block[i], MATRIX[sampler.indices(4 + i)])


def test_every_row_is_drawn_equally_often() -> None:
    sampler = UpdateSampler(MATRIX, 100, seed=0)
    counts = torch.stack([sampler.indices(u) for u in range(1000)]).flatten().bincount(minlength=50)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 85.4  # 99.9 % quantile at 49 degrees of freedom
    assert counts.min() > 0


def test_updates_and_seeds_draw_different_rows() -> None:
    one, two = UpdateSampler(MATRIX, 32, seed=0), UpdateSampler(MATRIX, 32, seed=1)
    draws = [sampler.indices(u) for sampler in (one, two) for u in (0, 1)]
    assert all(not draws[i].equal(draws[j]) for i in range(4) for j in range(i))
    assert one.indices(0).equal(draws[0])  # whatever was drawn in between


def test_the_global_generator_plays_no_part() -> None:
    sampler = UpdateSampler(MATRIX, 32, seed=0)
    torch.manual_seed(1)
    first, state = sampler.indices(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert sampler.indices(0).equal(first)
    torch.manual_seed(1)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("k", [2, 3, 8, 50])
def test_k_changes_nothing(k: int) -> None:
    one = torch.cat(list(blocks(1, max_steps=20)))
    many = list(blocks(k, max_steps=20))
    assert torch.cat(many).equal(one)
    assert [len(block) for block in many] == [k] * (20 // k) + ([20 % k] if 20 % k else [])


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_ranks_slices_make_up_the_batch_of_one_rank(world_size: int) -> None:
    whole = UpdateSampler(MATRIX, 6, seed=5).block(7, 4)
    parts = [
        UpdateSampler(MATRIX, 6, 5, rank, world_size).block(7, 4) for rank in range(world_size)
    ]
    assert torch.cat(parts, dim=1).equal(whole)


def test_a_batch_that_does_not_divide_by_the_ranks_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 4"):
        UpdateSampler(MATRIX, 6, seed=0, rank=0, world_size=4)


@pytest.mark.parametrize("start", [1, 7, 13, 19])
def test_an_epoch_resumed_in_the_middle_goes_on_as_if_nothing_had_been(start: int) -> None:
    whole = torch.cat(list(blocks(4)))
    rest = torch.cat(list(blocks(8, start=start)))
    assert rest.equal(whole[start:])


@pytest.mark.parametrize(
    ("start", "max_steps", "count"),
    [(0, -1, 20), (20, -1, 20), (0, 13, 13), (10, 13, 3), (13, 13, 0), (20, 30, 10), (0, 0, 0)],
)
def test_an_epoch_ends_at_its_multiple_or_at_max_steps(
    start: int, max_steps: int, count: int
) -> None:
    assert sum(len(block) for block in blocks(8, start, max_steps)) == count


def test_sequential_batches_go_through_the_rows_once() -> None:
    batches = SequentialBatches(MATRIX, 16)
    assert [tuple(batch.shape) for batch in batches] == [(1, 16, 2)] * 3 + [(1, 2, 2)]
    assert torch.cat([batch[0] for batch in batches]).equal(MATRIX)
    assert len(batches) == 4
