from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from lit_offrl_callbacks.best_and_last import BestAndLast
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from tests.callbacks.training import data_module, fit


class FakeEvaluation(OnlineEvaluation):
    """Claims these returns, one per evaluation, and plays nothing."""

    def __init__(self, returns: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.returns = iter(returns)

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        mean = next(self.returns)
        self.history.append((trainer.global_step, mean))
        return {"eval/return_mean": mean}


class FakeLoss(Callback):
    """Logs these values of ``val/loss`` in place of the true ones, one per epoch."""

    def __init__(self, losses: Sequence[float]) -> None:
        self.losses = iter(losses)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics["val/loss"] = torch.tensor(next(self.losses))


def updates(folder: Path) -> dict[str, int]:
    """Name and update of each checkpoint."""
    return {
        path.stem: torch.load(path, weights_only=True)["global_step"]
        for path in folder.glob("*.ckpt")
    }


@pytest.mark.parametrize("held_out", [0.25, 0.0])
@pytest.mark.parametrize(
    ("returns", "best"), [((3, 2, 1), 10), ((1, 2, 3), 25), ((1, 3, 2), 20), ((-5, -4, -6), 20)]
)
def test_best_is_the_best_return_and_last_the_last(
    tmp_path: Path, returns: Sequence[float], best: int, held_out: float
) -> None:
    evaluation = FakeEvaluation(returns)
    fit(data_module(held_out), evaluation, BestAndLast(str(tmp_path)), steps=25)
    assert updates(tmp_path) == {"best": best, "last": 25}


def test_epochs_that_are_not_evaluated_are_no_candidates(tmp_path: Path) -> None:
    evaluation = FakeEvaluation((2, 1, 3), every_n_epochs=3)
    fit(data_module(), evaluation, BestAndLast(str(tmp_path)), steps=70)
    assert [update for update, _ in evaluation.history] == [30, 60, 70]
    assert updates(tmp_path) == {"best": 70, "last": 70}

    evaluation = FakeEvaluation((3, 2, 1), every_n_epochs=3)
    fit(data_module(), evaluation, BestAndLast(str(tmp_path / "falling")), steps=70)
    assert updates(tmp_path / "falling") == {"best": 30, "last": 70}


@pytest.mark.parametrize(("losses", "best"), [((1, 2, 3), 10), ((3, 1, 2), 20)])
def test_without_evaluation_the_held_out_loss_decides(
    tmp_path: Path, losses: Sequence[float], best: int
) -> None:
    off = OnlineEvaluation(episodes=0)
    fit(data_module(), off, FakeLoss(losses), BestAndLast(str(tmp_path)), steps=30)
    assert updates(tmp_path) == {"best": best, "last": 30}


def test_with_nothing_to_choose_by_the_best_is_the_last(tmp_path: Path) -> None:
    off = OnlineEvaluation(episodes=0)
    fit(data_module(held_out=0.0), off, BestAndLast(str(tmp_path)), steps=30)
    assert updates(tmp_path) == {"best": 30, "last": 30}


def test_what_is_monitored_can_be_named(tmp_path: Path) -> None:
    monitor = BestAndLast(str(tmp_path), monitor="val/nll")
    fit(data_module(), FakeEvaluation((3, 2, 1)), monitor, steps=30)
    assert (monitor.monitor, monitor.mode) == ("val/nll", "min")
    monitor = BestAndLast(str(tmp_path / "max"), monitor="val/nll", mode="max")
    fit(data_module(), FakeEvaluation((3, 2, 1)), monitor, steps=30)
    assert monitor.best_model_score is not None
    assert updates(tmp_path / "max") != {}


def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    fit(data_module(), FakeEvaluation((5, 1)), BestAndLast(str(tmp_path)), steps=20)
    path = str(tmp_path / "last.ckpt")
    again = BestAndLast(str(tmp_path))
    fit(data_module(), FakeEvaluation((2,)), again, steps=30, path=path)
    assert updates(tmp_path) == {"best": 10, "last": 30}


def test_a_run_whose_folder_was_moved_remembers_its_best(tmp_path: Path) -> None:
    first, moved = tmp_path / "first", tmp_path / "moved"
    fit(data_module(), FakeEvaluation((5, 1)), BestAndLast(str(first)), steps=20)
    first.rename(moved)
    again = BestAndLast(str(moved))
    fit(data_module(), FakeEvaluation((2,)), again, steps=30, path=str(moved / "last.ckpt"))
    assert updates(moved) == {"best": 10, "last": 30}
    assert again.best_model_path == str(moved / "best.ckpt")
    assert again.current_score is not None
    assert again.current_score.item() == 5
    assert not first.exists()


def test_a_run_that_goes_on_in_another_folder_finds_its_own_best(tmp_path: Path) -> None:
    fit(data_module(), FakeEvaluation((5, 1)), BestAndLast(str(tmp_path / "first")), steps=20)
    again, path = BestAndLast(str(tmp_path / "other")), str(tmp_path / "first" / "last.ckpt")
    fit(data_module(), FakeEvaluation((2,)), again, steps=30, path=path)
    assert updates(tmp_path / "other") == {"best": 30, "last": 30}


class Rows(DummyLogger):
    """Remembers what was logged, and when a checkpoint was written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.seen.append((step, *sorted(metrics)))


class LogsAtItsEnd(Callback):
    """Logs a number of the epoch without naming the update."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("late", 1.0, prog_bar=True)


def test_what_an_epochs_end_logs_is_logged_once_and_before_the_checkpoint(tmp_path: Path) -> None:
    rows = Rows()

    class Watched(BestAndLast):
        def on_save_checkpoint(self, *arguments: Any) -> None:
            rows.seen.append("saved")
            super().on_save_checkpoint(*arguments)

    monitor = Watched(str(tmp_path), monitor="late")
    trainer = fit(data_module(), LogsAtItsEnd(), monitor, steps=20, logger=rows)
    late = [row for row in rows.seen if row == "saved" or "late" in row]
    # best.ckpt, the row at the last of the three steps of an epoch, last.ckpt
    assert late == ["saved", (2, "epoch", "late"), "saved", (5, "epoch", "late"), "saved"]
    assert trainer.callback_metrics["late"] == trainer.progress_bar_metrics["late"] == 1.0
