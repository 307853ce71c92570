"""Several seeds of one algorithm in one run, each as its own run would train it."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule, seed_everything
from scipy import stats
from torch import Tensor, nn
from torch.optim import Adam

from lit_offrl.algorithms.base import OfflineAlgorithm, class_path
from lit_offrl.algorithms.stack import Stack
from lit_offrl.algorithms.steps import count_update, is_logged, log_update
from lit_offrl.algorithms.update_path import worth_compiling
from lit_offrl.batch import Batch
from lit_offrl.compiled import CompiledUpdate
from lit_offrl.errors import InputError
from lit_offrl.rng import run_seed


def over_seeds(name: str, values: Sequence[float], seeds: Sequence[int]) -> dict[str, float]:
    """Name the values of all seeds for the log, with their mean and its 95 % interval.

    Args:
        name: Name of the metric.
        values: One per seed.
        seeds: The seeds.

    Returns:
        ``name`` (the mean), ``name/ci95`` (half the width of Student's interval of it, for two
        seeds and more) and ``name/seed-S`` for each.

    >>> over_seeds("q", [1.0, 3.0], [0, 1])["q"]
    2.0
    """
    n = len(values)
    mean = float(np.mean(values))
    found = {name: mean, **{f"{name}/seed-{s}": v for s, v in zip(seeds, values, strict=True)}}
    if n > 1:
        error = float(np.std(values, ddof=1)) / math.sqrt(n)  # a diverged seed gives NaN
        found[f"{name}/ci95"] = float(stats.t.ppf(0.975, n - 1)) * error
    return found


class Replicas(LightningModule):
    """Trains S algorithms, which differ in their seeds, by one stacked update.

    Args:
        members: The algorithms, freshly made, each with its ``seed``.

    Raises:
        InputError: If there is none, or two of one seed.
    """

    compile_update: bool | Literal["auto"] = "auto"
    """As for one algorithm."""

    def __init__(self, members: Sequence[OfflineAlgorithm]) -> None:
        super().__init__()
        self.seeds = [member.seed for member in members]
        if not members or len(set(self.seeds)) < len(members):
            raise InputError(f"Replicas need seeds that differ, not {self.seeds}.")
        self.automatic_optimization = False
        self.members = nn.ModuleList(members)
        self._stack: Stack | None = None
        self._update: CompiledUpdate | None = None

    @property
    def algorithms(self) -> list[OfflineAlgorithm]:
        """The members, live: their parameters are those that are being trained."""
        return list(self.members)  # type: ignore[arg-type]

    def setup(self, stage: str) -> None:
        """Check that data, precision and devices suit."""
        if self.trainer.world_size > 1:
            raise InputError("Several seeds train in one process: set `trainer.devices` to 1.")
        for member in self.algorithms:
            member.trainer = self.trainer
            member.setup(stage)

    def configure_optimizers(self) -> list[Adam]:
        """Hand the optimizers of all members to Lightning, which checkpoints them."""
        return [o for member in self.algorithms for o in member.configure_optimizers()]

    def on_train_start(self) -> None:
        """Stack the members, where a checkpoint left them."""
        self.start(self.trainer.global_step, self.trainer.max_steps)

    def start(self, update_number: int, max_updates: int) -> None:
        """Get ready for the updates from ``update_number`` on, of ``max_updates`` (-1: no end)."""
        self._stack = Stack(self.algorithms, update_number, max_updates)
        compiles = worth_compiling(self.compile_update, max_updates)
        self._update = CompiledUpdate(self._stack, self.compile_update is True, compiles)

    def train_update(self, batch: Batch) -> dict[str, Tensor]:
        """Do the next update of all members on a batch (S, B, ...); metrics are (S,)."""
        assert self._stack is not None and self._update is not None
        self._stack.anneal()
        metrics = self._update(batch)
        if metrics is None:  # it cannot be compiled
            self._update = CompiledUpdate(self._stack, required=True, compiles=False)
            metrics = self._update(batch)
            assert metrics is not None
        self._stack.count()
        return metrics

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run one update per stacked batch (K, S, B, ...)."""
        for k in range(len(batch.reward)):
            metrics = self.train_update(batch.at(k))
            count_update(self.trainer)
            update = self.trainer.global_step
            if is_logged(self.trainer, update):
                scalars: dict[str, float] = {}
                for name, values in metrics.items():
                    scalars |= over_seeds(name, values.tolist(), self.seeds)
                log_update(self, scalars, update)

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log each member's scores on held-out transitions, which are the same for all."""
        scores = [member.validation_scores(batch.at(0)) for member in self.algorithms]
        size = len(batch.reward[0])
        for name in scores[0]:
            values = [score[name].item() for score in scores]
            self.log_dict(over_seeds(name, values, self.seeds), batch_size=size)
        self.log("step", float(self.trainer.global_step), batch_size=size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what :func:`member_checkpoint` needs."""
        checkpoint["algorithm"] = {
            "class_path": class_path(self.algorithms[0]),
            "seeds": self.seeds,
            "optimizers": len(self.algorithms[0].configure_optimizers()),
        }
        checkpoint["hyper_parameters"] = dict(self.algorithms[0].hparams)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another algorithm or of other seeds."""
        saved = checkpoint.get("algorithm", {})
        own = {"class_path": class_path(self.algorithms[0]), "seeds": self.seeds}
        if {name: saved.get(name) for name in own} != own:
            held = saved.get("seeds", saved.get("seed"))
            raise InputError(
                f"The checkpoint holds {saved.get('class_path', 'another model')} of seeds {held}, "
                f"not {own['class_path']} of seeds {self.seeds}: give the run's own."
            )
        for i, member in enumerate(self.algorithms):
            member.on_load_checkpoint(member_checkpoint(checkpoint, i))


def replicate(model: OfflineAlgorithm, seeds: Sequence[int]) -> Replicas:
    """Make an algorithm anew for each seed, as its own run would.

    Args:
        model: Tells class and arguments.
        seeds: One per member.
    """
    arguments = {k: v for k, v in model.hparams.items() if not k.startswith("_")}
    before = run_seed()
    try:
        members = []
        for seed in seeds:
            seed_everything(seed, verbose=False)
            members.append(type(model)(**arguments))
    finally:
        seed_everything(before, verbose=False)
    return Replicas(members)


def member_checkpoint(checkpoint: dict[str, Any], i: int) -> dict[str, Any]:
    """Make of a checkpoint of :class:`Replicas` the one that member i's own run would have left.

    Args:
        checkpoint: What Lightning saved.
        i: Which member.
    """
    algorithm, prefix = checkpoint["algorithm"], f"members.{i}."
    seed, n = algorithm["seeds"][i], algorithm["optimizers"]
    own = {k: v for k, v in checkpoint.items() if k != "callbacks"}
    for name, state in own.items():
        if isinstance(state, dict) and "split_seed" in state:  # the DataModule's
            own[name] = {**state, "seed": seed}
    return {
        **own,
        "algorithm": {"class_path": algorithm["class_path"], "seed": seed},
        "state_dict": {
            name.removeprefix(prefix): _own(value)
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        },
        "optimizer_states": [
            _own(state) for state in checkpoint.get("optimizer_states", [])[i * n : (i + 1) * n]
        ],
        "callbacks": {},
    }


def _own(value: Any) -> Any:
    """Copy tensors out of the stack, of which a file would hold the whole."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value
