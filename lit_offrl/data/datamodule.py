"""The DataModule: a data set, its split and scaling, and the batches of every update."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.batch import Batch, Layout
from lit_offrl.data.fitted_scaling import RewardTransform, fitted_scaling, of_numbers
from lit_offrl.data.frames import Frames
from lit_offrl.data.loading import load_dataset
from lit_offrl.data.mapped import as_tensor, drawn_from, mapped_episodes, mapped_matrix
from lit_offrl.data.packing import Rows, pack_rows
from lit_offrl.data.pixels import PixelBlock, PixelSampler, SequentialPixels, assembled
from lit_offrl.data.resuming import refuse_other_data
from lit_offrl.data.sampler import (
    BlockSource,
    ReplicaSampler,
    SequentialBatches,
    UpdateBlocks,
    UpdateSampler,
    check_epochs,
)
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.data.split import Episodes, Split
from lit_offrl.data.transitions import Transitions
from lit_offrl.data.weighting import Sampling, effective_share, row_weights
from lit_offrl.encoders import Image
from lit_offrl.errors import InputError
from lit_offrl.ranges import within
from lit_offrl.rng import run_seed
from lit_offrl.scaling import Scaling

EXTRAS = ("truncated", "mc_return", "next_action", "has_next_action")
MAX_HELD_OUT_BATCHES = 20


class OfflineDataModule(LightningDataModule):
    """Transitions of a fixed data set, split by episode, scaled and batched.

    Args:
        dataset_id: Id of a Minari set (`mujoco/hopper/medium-v0`) or a built-in one
            (`pendulum/mixed`), or path of a D4RL `.hdf5` file.
        batch_size: Size of the global batch, over all devices.
        updates_per_step: K, the updates that one `training_step` runs; changes speed, not results.
        updates_per_epoch: Updates between validations.
        held_out: Fraction of the episodes kept out of training.
        split_seed: Which episodes those are.
        normalize_obs: Whether observations are standardized with the training split's statistics.
        reward_range: If set, rewards are scaled so that the training split's best and worst return
            differ by this (IQL on MuJoCo: 1000).
        reward_scale: Factor on rewards, after `reward_range`.
        reward_shift: Added to rewards, after both.
        top_fraction: Fraction of the training episodes, by return, that is kept (top-k% BC).
        extras: More fields of a batch: `truncated`, `mc_return`, `next_action`, `has_next_action`.
        discount: γ of `mc_return`; nothing else uses it.
        sampling: Which rows are drawn more often; uniform if null.
        random_shift: Pixels by which images are shifted at random, the edge repeated; DrQ has 4.
        storage: `memory` packs the training split in memory, `mapped` into a file of the cache,
            for sets that memory has no room for. Batches are the same.
    """

    def __init__(
        self,
        dataset_id: str,
        batch_size: int = 256,
        updates_per_step: int = 8,
        updates_per_epoch: int = 5000,
        held_out: float = 0.1,
        split_seed: int = 0,
        normalize_obs: bool = True,
        reward_range: float | None = None,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        top_fraction: float = 1.0,
        extras: tuple[str, ...] = (),
        discount: float = 0.99,
        sampling: Sampling | None = None,
        random_shift: int = 0,
        storage: Literal["memory", "mapped"] = "memory",
    ) -> None:
        super().__init__()
        self.dataset_id = dataset_id
        self.batch_size = batch_size
        self.updates_per_step, self.updates_per_epoch = updates_per_step, updates_per_epoch
        self.held_out = held_out
        self.split_seed = split_seed
        self.normalize_obs = normalize_obs
        self.reward_range = reward_range
        self.reward_scale = reward_scale
        self.reward_shift = reward_shift
        self.top_fraction = top_fraction
        self.extras = tuple(extras)
        self.discount = discount
        self.sampling = sampling or Sampling()
        self.random_shift = random_shift
        self.storage = storage
        self._seed: int | None = None
        self.replica_seeds: Sequence[int] = ()
        """Seeds that train at once, each on batches of its own, (K, S, B, W); else one does."""
        self._check_ranges()

    def _check_ranges(self) -> None:
        for name in ("batch_size", "updates_per_step", "updates_per_epoch"):
            within("[1, inf)", **{name: getattr(self, name)})
        within("[0, 1]", discount=self.discount)
        within("[0, inf)", random_shift=self.random_shift)
        _ = self._how_to_split, self._rewards
        if self.storage not in ("memory", "mapped"):
            raise InputError(f"`storage` may be memory or mapped, not {self.storage}.")
        if unknown := [name for name in self.extras if name not in EXTRAS]:
            raise InputError(f"`extras` may be {', '.join(EXTRAS)}, not {', '.join(unknown)}.")

    # What is known of the data, loaded when first asked for.

    @cached_property
    def _loaded(self) -> tuple[Transitions, DatasetSpec]:
        return load_dataset(self.dataset_id, mapped=self.storage == "mapped")

    @property
    def spec(self) -> DatasetSpec:
        """Identity, dimensions and environment of the data set."""
        return self._loaded[1]

    @property
    def obs_dim(self) -> int:
        """Number of observation features O."""
        return self.spec.obs_dim

    @property
    def action_dim(self) -> int:
        """Number of action dimensions A, or of discrete actions."""
        return self.spec.action_dim

    @property
    def discrete(self) -> bool:
        """Whether an action is one index."""
        return self.spec.discrete

    @property
    def images(self) -> tuple[Image, ...]:
        """Where images lie in an observation."""
        return self.spec.images

    @property
    def layout(self) -> Layout:
        """Columns of a packed batch: all but images."""
        numbers = self._loaded[0].obs.shape[1]
        return Layout(numbers, self.action_dim, self.discrete, self.extras)

    @cached_property
    def _whole_split(self) -> tuple[Episodes, Episodes]:
        """Episodes that are not held out and those that are."""
        return self._how_to_split.whole(self._loaded[0].n_episodes, self.dataset_id)

    @cached_property
    def _split(self) -> tuple[Episodes, Episodes]:
        """The same with the best of the former alone, if ``top_fraction`` asks for that."""
        train, held_out = self._whole_split
        return self._how_to_split.best(train, self._loaded[0].returns()), held_out

    @cached_property
    def logged(self) -> Transitions:
        """All transitions that are not held out, whatever ``top_fraction`` is: for statistics."""
        return self._select(self._whole_split[0])

    @cached_property
    def train(self) -> Transitions:
        """Transitions that are trained on, in raw units."""
        return self._select(self._split[0])

    @cached_property
    def held_out_transitions(self) -> Transitions:
        """Transitions of the held-out episodes, in raw units."""
        return self._select(self._split[1])

    def _select(self, episodes: Episodes) -> Transitions:
        transitions, spec = self._loaded
        if self.storage == "mapped":
            return mapped_episodes(spec.content_hash, transitions, episodes)
        return transitions.select_episodes(episodes)

    @property
    def train_returns(self) -> NDArray[np.float64]:
        """Return of each training episode, (E,), without a copy of :attr:`train`."""
        returns: NDArray[np.float64] = self._loaded[0].returns()[self._split[0]]
        return returns

    @property
    def _how_to_split(self) -> Split:
        return Split(self.held_out, self.split_seed, self.top_fraction)

    @property
    def _rewards(self) -> RewardTransform:
        return RewardTransform(self.reward_range, self.reward_scale, self.reward_shift)

    @cached_property
    def scaling(self) -> Scaling:
        """Observation statistics and reward transform of the training split, action bounds."""
        return fitted_scaling(
            self._loaded[0], self.spec, self._split[0], self.normalize_obs, self._rewards
        )

    @cached_property
    def train_matrix(self) -> Tensor:
        """The training split, scaled and packed, (N, W); read-only if it is mapped."""
        if self.storage == "mapped":
            return as_tensor(self._mapped)
        return self._pack(self._loaded[0].episode_rows(self._split[0]))

    @cached_property
    def _mapped(self) -> NDArray[np.float32]:
        return mapped_matrix(
            self.spec.content_hash,
            self._loaded[0],
            self._split[0],
            self.layout,
            of_numbers(self.scaling, self.spec),
            self.discount,
        )

    @cached_property
    def held_out_matrix(self) -> Tensor:
        """At most 20 batches of held-out transitions, evenly spread, scaled and packed."""
        return self._pack(self._held_out_rows)

    @cached_property
    def _held_out_rows(self) -> NDArray[np.int64]:
        """At most 20 batches of held-out rows, evenly spread."""
        rows = self._loaded[0].episode_rows(self._split[1])
        if len(rows) > (most := MAX_HELD_OUT_BATCHES * self.batch_size):
            return rows.at(np.linspace(0, len(rows) - 1, most).astype(np.int64))
        return rows[:]

    def _frames(self, rows: NDArray[np.int64]) -> tuple[Frames, ...]:
        return tuple(frames.take(rows) for frames in self._loaded[0].frames)

    def _pack(self, rows: Rows) -> Tensor:
        return pack_rows(
            self._loaded[0], rows, self.layout, of_numbers(self.scaling, self.spec), self.discount
        )

    # Lightning.

    def prepare_data(self) -> None:
        """Get the data set and fill the cache, once per machine."""
        _ = self._loaded

    def setup(self, stage: str) -> None:
        """Pack the splits."""
        if self.trainer is not None and stage == "fit":
            check_epochs(self.trainer)
        _ = self.train_matrix, self.held_out_matrix

    @property
    def seed(self) -> int:
        """Seed of the batches: the checkpoint's, else that of ``seed_everything``, else 0."""
        if self._seed is None:
            self._seed = run_seed()
        return self._seed

    def train_dataloader(self) -> UpdateBlocks:
        """Blocks of K stacked packed batches (K, B, W), from ``trainer.global_step`` on."""
        assert self.trainer is not None  # Lightning attaches it before it asks
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        weights = self._train_weights()
        matrix = drawn_from(self._mapped) if self.storage == "mapped" else self.train_matrix
        drawing = [
            UpdateSampler(matrix, self.batch_size, seed, rank, ranks, weights)
            for seed in self.replica_seeds or [self.seed]
        ]
        samplers: Sequence[BlockSource] = drawing
        if self.images:
            frames = self._frames(self._loaded[0].rows_of(self._split[0]))
            samplers = [PixelSampler(one, frames, self.random_shift) for one in drawing]
        sampler = ReplicaSampler(samplers) if self.replica_seeds else samplers[0]
        # fast_dev_run counts blocks
        k = 1 if getattr(self.trainer, "fast_dev_run", False) else self.updates_per_step
        return UpdateBlocks(sampler, self.trainer, k, self.updates_per_epoch)

    def _train_weights(self) -> Tensor | None:
        """Probabilities of the training rows, (N,); a new run's log gets their effective share."""
        weights = row_weights(self.sampling, self._loaded[0], self._split[0])
        if weights is None:
            return None
        assert self.trainer is not None
        if self.trainer.global_step == 0:  # a run that goes on has it
            share = {"data/effective_share": effective_share(weights)}
            for logger in self.trainer.loggers:
                logger.log_metrics(share, step=0)
        return torch.from_numpy(weights)

    def val_dataloader(self) -> SequentialBatches | SequentialPixels | list[Tensor]:
        """Held-out batches (1, B, W), the same on every rank; none without held-out episodes."""
        if len(self.held_out_matrix):
            if self.images:
                frames = self._frames(self._held_out_rows)
                return SequentialPixels(self.held_out_matrix, frames, self.batch_size)
            return SequentialBatches(self.held_out_matrix, self.batch_size)
        # Lightning asks whether that is meant: it is.
        warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return []

    def on_after_batch_transfer(self, batch: Tensor | PixelBlock, dataloader_idx: int) -> Batch:
        """Split packed columns into the fields of a batch; shift images."""
        if isinstance(batch, Tensor):
            return self.layout.unpack(batch)
        return assembled(batch, self.layout, self._loaded[0].frames, self.random_shift)

    def state_dict(self) -> dict[str, Any]:
        """What a policy needs to act, and what resuming must find unchanged; plain types."""
        return {
            "spec": self.spec.to_dict(),
            "scaling": self.scaling.to_dict(),
            "seed": self.seed,
            "split_seed": self.split_seed,
            "held_out": self.held_out,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed, and refuse a checkpoint of other data, split or scaling."""
        refuse_other_data(state_dict, OfflineDataModule.state_dict(self))
        self._seed = int(state_dict["seed"])
