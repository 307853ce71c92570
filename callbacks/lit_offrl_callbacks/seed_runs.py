"""Each seed of a run of several: its returns, and its checkpoints."""

import copy
import math
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_offrl.algorithms.replicas import Replicas, member_checkpoint, over_seeds
from lit_offrl_callbacks.best_and_last import BestAndLast
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation


class SeedRuns(BestAndLast):
    """Evaluates each member of ``Replicas``, and writes what a run of its seed alone would leave.

    Beside ``last.ckpt`` of all seeds, from which the run goes on, each epoch leaves
    ``seed-S/checkpoints/last.ckpt`` and ``best.ckpt`` (by online return where policies are
    evaluated in their environment, else by held-out loss): ordinary checkpoints, which
    `lit-offrl evaluate` reads and from which a run of one seed goes on.

    Logged Metrics:
        - ``eval/...`` of :class:`OnlineEvaluation`: the mean over seeds, ``/ci95`` and ``/seed-S``.

    Args:
        dirpath: Folder for the checkpoint of all seeds; those of each seed lie beside it.
        evaluation: How each policy is evaluated.
    """

    def __init__(self, dirpath: str, evaluation: OnlineEvaluation) -> None:
        super().__init__(dirpath)
        self.save_top_k = 0  # no best of all seeds at once
        self._evaluation = evaluation
        self.evaluations: dict[int, OnlineEvaluation] = {}
        """The evaluation of each seed."""
        self._best: dict[int, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check early that the policies can be evaluated."""
        assert isinstance(pl_module, Replicas)
        for seed, member in zip(pl_module.seeds, pl_module.algorithms, strict=True):
            self.evaluations.setdefault(seed, copy.deepcopy(self._evaluation))
            self.evaluations[seed].setup(trainer, member, stage)
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate where there are held-out episodes."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._evaluate(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate where there are none, and write the checkpoints."""
        self._evaluate(trainer, pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def write_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write each seed's files, then that of all: what a kill leaves undone is done again."""
        assert isinstance(pl_module, Replicas)
        names = {seed: self._names(trainer, seed) for seed in pl_module.seeds}
        writer = trainer.strategy.checkpoint_io
        whole = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        for i, seed in enumerate(pl_module.seeds):
            evaluation = self.evaluations[seed]
            callbacks = {evaluation.state_key: evaluation.state_dict()}
            own = {**member_checkpoint(whole, i), "callbacks": callbacks}
            for name in names[seed]:
                writer.save_checkpoint(own, self._file(seed, name))
        super().write_last(trainer, pl_module)

    def _file(self, seed: int, name: str) -> Path:
        return Path(str(self.dirpath)).parent / f"seed-{seed}" / "checkpoints" / name

    def _names(self, trainer: Trainer, seed: int) -> list[str]:
        """Files that hold a seed as it is now."""
        if self.monitor is None and not self.evaluations[seed].evaluates_online:
            return ["best.ckpt", "last.ckpt"]  # nothing to choose by
        score = self._score(trainer, seed)
        # not `<=`, which lets NaN be the best
        if score is None or (seed in self._best and not score > self._best[seed]):
            return ["last.ckpt"]
        self._best[seed] = -math.inf if math.isnan(score) else score
        return ["best.ckpt", "last.ckpt"]

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Replicas)
        found = [
            self.evaluations[seed].evaluate_if_due(trainer, member)
            for seed, member in zip(pl_module.seeds, pl_module.algorithms, strict=True)
        ]
        for name in found[0]:
            values = [metrics[name] for metrics in found]
            if name == "eval/episodes_spent":
                pl_module.log(name, sum(values))
            elif name == "step":
                pl_module.log(name, values[0])
            else:
                pl_module.log_dict(over_seeds(name, values, pl_module.seeds))

    def _score(self, trainer: Trainer, seed: int) -> float | None:
        """How good a seed is now, larger is better; None where this epoch does not tell."""
        evaluation = self.evaluations[seed]
        if evaluation.evaluates_online:
            update, mean = evaluation.history[-1] if evaluation.history else (-1, math.nan)
            return mean if update == trainer.global_step else None
        loss = trainer.callback_metrics.get(f"val/loss/seed-{seed}")
        return None if loss is None else -loss.item()

    def state_dict(self) -> dict[str, Any]:
        """Return histories and best scores, in plain types."""
        histories = {str(seed): e.state_dict() for seed, e in self.evaluations.items()}
        best = {str(seed): score for seed, score in self._best.items()}
        return {**super().state_dict(), "best": best, "evaluations": histories}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; in another folder each seed's best begins anew."""
        super().load_state_dict(state_dict)
        best = {int(seed): score for seed, score in state_dict["best"].items()}
        self._best = {s: score for s, score in best.items() if self._file(s, "best.ckpt").is_file()}
        for seed, state in state_dict["evaluations"].items():
            own = self.evaluations.setdefault(int(seed), copy.deepcopy(self._evaluation))
            own.load_state_dict(state)
