"""Batches of observations with images."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatten
from torch import Tensor

from lit_offrl.batch import Batch
from lit_offrl.data import OfflineDataModule, load_dataset
from lit_offrl.data.weighting import Sampling
from lit_offrl.encoders import shifted
from lit_offrl.errors import InputError
from tests.data.makers import episode, make_minari
from tests.data.test_datamodule import fit
from tests.data.test_frames import stacks

H, W, PAD = 33, 34, 4
STACK = spaces.Box(0, 255, (4, H, W), np.uint8)
ACTIONS = spaces.Discrete(3)
NAME, MIXED = "tests/stacked-v0", "tests/mixed-v0"
LENGTHS = (5, 8, 1, 6, 7)
CAMERA = spaces.Dict(
    {
        "arm": spaces.Box(-np.inf, np.inf, (2,), np.float32),
        "camera": spaces.Box(0, 255, (H, W, 1), np.uint8),
        "gripper": spaces.Discrete(3),
    }
)


@pytest.fixture(autouse=True)
def data_sets() -> None:
    episodes = [
        episode(i, n, STACK, ACTIONS, observations=stacks(n, i, 4, 0))
        for i, n in enumerate(LENGTHS)
    ]
    make_minari(episodes, NAME, STACK, ACTIONS)
    mixed = [episode(i, n, CAMERA) for i, n in enumerate(LENGTHS)]
    make_minari(mixed, MIXED, CAMERA, jpeg_encoding=False)


def raw(steps: int, index: int) -> Tensor:
    return torch.from_numpy(stacks(steps, index, 4, 0)).flatten(1)


def blocks(data: OfflineDataModule, rank: int = 0, ranks: int = 1) -> list[Batch]:
    """What a trainer would be given in six updates."""
    trainer: Any = SimpleNamespace(
        global_step=0, max_steps=6, global_rank=rank, world_size=ranks, loggers=[]
    )
    data.trainer = trainer
    return [data.on_after_batch_transfer(block, 0) for block in data.train_dataloader()]


def test_a_stored_set_has_each_frame_once_and_the_observations_it_was_given() -> None:
    for transitions, spec in (load_dataset(NAME), load_dataset(NAME)):  # the second from the cache
        (frames,) = transitions.frames
        assert len(frames.frames) == sum(n + 1 for n in LENGTHS)
        assert (spec.obs_dim, spec.images) == (4 * H * W, ((0, 4, H, W),))
        assert transitions.obs.shape == (sum(LENGTHS), 0)
        rows = np.arange(sum(LENGTHS))
        whole = [raw(n, i) for i, n in enumerate(LENGTHS)]
        assert torch.equal(
            torch.tensor(transitions.observed(rows)), torch.cat([w[:-1] for w in whole])
        )
        assert torch.equal(
            torch.tensor(transitions.next_observed(rows)), torch.cat([w[1:] for w in whole])
        )


def test_a_batch_holds_the_images_of_its_rows() -> None:
    data = OfflineDataModule(NAME, 4, updates_per_step=3, held_out=0.0)
    (first, second) = blocks(data)
    assert first.obs.shape == (3, 4, 4 * H * W)
    assert first.obs.dtype == torch.uint8
    whole = {float(r): i for i, r in enumerate(data.train.reward)}
    assert len(whole) == sum(LENGTHS)
    for batch in (first, second):
        for k in range(3):
            rows = np.array([whole[r] for r in batch.at(k).reward.tolist()])
            assert batch.at(k).obs.equal(torch.tensor(data.train.observed(rows)))
            assert batch.at(k).next_obs.equal(torch.tensor(data.train.next_observed(rows)))


def test_shifts_are_of_the_seed_and_the_update_whatever_k() -> None:
    plain, one, three = (
        blocks(OfflineDataModule(NAME, 4, updates_per_step=k, held_out=0.0, random_shift=shift))
        for k, shift in ((1, 0), (1, PAD), (3, PAD))
    )
    for field in ("obs", "next_obs", "reward"):
        together = torch.cat([getattr(batch, field) for batch in one])
        assert together.equal(torch.cat([getattr(batch, field) for batch in three]))
    assert torch.cat([b.reward for b in one]).equal(torch.cat([b.reward for b in plain]))
    moved = [not a.obs.equal(b.obs) for a, b in zip(one, plain, strict=True)]
    assert all(moved)


def test_a_shifted_image_is_one_of_all_that_the_pad_allows() -> None:
    plain, moved = (
        blocks(OfflineDataModule(NAME, 4, updates_per_step=1, held_out=0.0, random_shift=shift))
        for shift in (0, PAD)
    )
    found = set()
    for batch, other in zip(plain, moved, strict=True):
        for field in ("obs", "next_obs"):
            for row, image in zip(getattr(batch, field)[0], getattr(other, field)[0], strict=True):
                matches = []
                for offset in np.ndindex(2 * PAD + 1, 2 * PAD + 1):
                    candidate = row[None].clone()
                    shifted(candidate, (0, 4, H, W), torch.tensor([offset]), PAD)
                    if candidate[0].equal(image):
                        matches.append(offset)
                assert len(matches) == 1
                found.add(matches[0])
    assert len(found) > 24  # 48 draws of 81
    assert {y for y, _ in found} == {x for _, x in found} == set(range(9))


def test_two_ranks_get_the_halves_of_one() -> None:
    options: dict[str, Any] = {"held_out": 0.0, "random_shift": PAD, "updates_per_step": 2}
    one = blocks(OfflineDataModule(NAME, 4, **options))
    halves = [blocks(OfflineDataModule(NAME, 4, **options), rank, 2) for rank in (0, 1)]
    for whole, *parts in zip(one, *halves, strict=True):
        assert whole.obs.equal(torch.cat([part.obs for part in parts], 1))
        assert whole.next_obs.equal(torch.cat([part.next_obs for part in parts], 1))


def test_several_seeds_get_their_own_batches() -> None:
    together = OfflineDataModule(NAME, 4, held_out=0.0, random_shift=PAD)
    together.replica_seeds = (3, 5)
    (both,) = blocks(together)
    for i, seed in enumerate(together.replica_seeds):
        alone = OfflineDataModule(NAME, 4, held_out=0.0, random_shift=PAD)
        alone._seed = seed
        (single,) = blocks(alone)
        assert both.obs[:, i].equal(single.obs)
        assert both.reward[:, i].equal(single.reward)


def test_a_trainer_gets_the_same_images_wherever_it_is_resumed(tmp_path: Path) -> None:
    def data(k: int) -> OfflineDataModule:
        return OfflineDataModule(NAME, 4, k, updates_per_epoch=5, random_shift=PAD)

    whole = fit(tmp_path / "a.ckpt", data(1), max_steps=12)
    fit(tmp_path / "b.ckpt", data(4), max_steps=7)
    rest = fit(tmp_path / "c.ckpt", data(3), tmp_path / "b.ckpt", max_steps=12)
    seen = [torch.stack([batch.obs for batch in run.batches]) for run in (whole, rest)]
    assert seen[1].equal(seen[0][7:])
    assert whole.held_out


def test_held_out_images_are_not_shifted() -> None:
    data = OfflineDataModule(NAME, 4, held_out=0.4, random_shift=PAD)
    batches: list[Any] = [data.on_after_batch_transfer(b, 0) for b in data.val_dataloader()]
    seen = torch.cat([batch.obs[0] for batch in batches])
    rows = np.arange(len(data.held_out_transitions))
    assert seen.equal(torch.tensor(data.held_out_transitions.observed(rows)))
    assert len(data.val_dataloader()) == len(batches)


def test_images_beside_numbers_lie_where_gymnasium_flattens_them() -> None:
    transitions, spec = load_dataset(MIXED)
    assert spec.images == ((2, H, W, 1),)
    assert transitions.obs.shape == (sum(LENGTHS), 5)
    drawn = [episode(i, n, CAMERA) for i, n in enumerate(LENGTHS)]
    rows = np.arange(sum(LENGTHS))
    expected = [
        flatten(CAMERA, {k: v[t] for k, v in one.observations.items()})
        for one, n in zip(drawn, LENGTHS, strict=True)
        for t in range(n)
    ]
    np.testing.assert_allclose(transitions.observed(rows), np.array(expected), rtol=1e-6)


def test_numbers_beside_images_are_normalized_and_pixels_are_not() -> None:
    data = OfflineDataModule(MIXED, 4, held_out=0.0)
    assert data.scaling.obs_mean.shape == (data.obs_dim,)
    rows = np.arange(len(data.train))
    numbers = np.r_[0, 1, 2 + H * W : data.obs_dim]
    raw = torch.tensor(data.train.observed(rows))
    assert data.scaling.obs_mean[2 : 2 + H * W].eq(0).all()
    assert data.scaling.obs_std[2 : 2 + H * W].eq(1).all()
    torch.testing.assert_close(data.scaling.obs_mean[numbers], raw[:, numbers].mean(0))
    (batch,) = blocks(data)
    whole = {float(r): i for i, r in enumerate(data.train.reward)}
    order = [whole[r] for r in batch.at(0).reward.tolist()]
    torch.testing.assert_close(batch.at(0).obs, data.scaling.normalize_obs(raw)[order])
    next_raw = torch.tensor(data.train.next_observed(rows))
    torch.testing.assert_close(batch.at(0).next_obs, data.scaling.normalize_obs(next_raw)[order])


def test_a_shift_moves_the_image_and_leaves_the_numbers() -> None:
    plain, moved = (
        blocks(OfflineDataModule(MIXED, 4, held_out=0.0, random_shift=shift))[0]
        for shift in (0, PAD)
    )
    numbers = np.r_[0, 1, 2 + H * W : plain.obs.shape[-1]]
    assert plain.obs[..., numbers].equal(moved.obs[..., numbers])
    assert not plain.obs.equal(moved.obs)


def test_images_of_another_type_than_the_space_says_are_refused() -> None:
    floats = [episode(0, 3, STACK, ACTIONS, observations=np.zeros((4, 4, H, W), np.float32))]
    make_minari(floats, "tests/floats-v0", STACK, ACTIONS)
    with pytest.raises(InputError, match=r"episode 0, field `observations`: float32 images"):
        load_dataset("tests/floats-v0")


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(InputError, match="`random_shift` must lie in"):
        OfflineDataModule(NAME, random_shift=-1)


def test_mapped_storage_gives_the_same_images() -> None:
    memory, mapped = (
        OfflineDataModule(NAME, 4, held_out=0.4, random_shift=PAD, storage=storage)
        for storage in ("memory", "mapped")
    )
    for one, other in zip(blocks(memory), blocks(mapped), strict=True):
        assert one.obs.equal(other.obs)
        assert one.next_obs.equal(other.next_obs)
        assert one.reward.equal(other.reward)
    rows = np.arange(len(memory.train))
    np.testing.assert_array_equal(mapped.train.observed(rows), memory.train.observed(rows))
    np.testing.assert_array_equal(
        mapped.train.next_observed(rows), memory.train.next_observed(rows)
    )


def test_a_weighting_that_would_need_images_is_refused() -> None:
    with pytest.raises(InputError, match="advantage does not see images"):
        blocks(OfflineDataModule(NAME, 4, sampling=Sampling("advantage")))
