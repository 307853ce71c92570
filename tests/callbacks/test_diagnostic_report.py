"""The report of a run, of a whole one and of one that was interrupted."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger

from lit_offrl.algorithms import IQL
from lit_offrl.errors import RunInterrupted
from lit_offrl.evaluation.finding import SEVERITY
from lit_offrl_callbacks.diagnostic_report import DiagnosticReport
from lit_offrl_callbacks.interruption import Interruption
from lit_offrl_callbacks.kl_divergence import KLDivergence
from lit_offrl_callbacks.offline_online_gap import OfflineOnlineGap
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from lit_offrl_callbacks.q_value_sanity import QValueSanity
from tests.callbacks.training import data_module, fit


class Signal(Callback):
    """Sends SIGTERM to this process after so many updates."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step >= self.update:
            os.kill(os.getpid(), signal.SIGTERM)
            self.update = 10_000


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def train_iql(folder: Path, *callbacks: Callback) -> Trainer:
    data = data_module()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=30,
        default_root_dir=folder,
        callbacks=[*callbacks, DiagnosticReport()],
        logger=TensorBoardLogger(folder, name="tb"),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(IQL(data.obs_dim, data.action_dim, hidden=(8,)), data)
    return trainer


def test_the_report_gathers_findings_curves_and_the_ledger(tmp_path: Path) -> None:
    train_iql(
        tmp_path,
        OnlineEvaluation(episodes=2),
        QValueSanity(rows=100),
        KLDivergence(rows=100),
        OfflineOnlineGap(episodes=3),
    )
    found = report(tmp_path)
    names = {finding["name"] for finding in found["findings"]}
    assert {"q_bounds", "q_vs_mc", "kl_behavior", "gap_critic", "awr_weights"} <= names
    severities = [SEVERITY[finding["verdict"]] for finding in found["findings"]]
    assert severities == sorted(severities, reverse=True)
    assert {SEVERITY["watch"], SEVERITY["not applicable"]} <= set(severities)
    titles = {curve["title"] for curve in found["curves"]}
    assert titles == {
        "Return in the environment",
        "Values over training",
        "Weights of advantage-weighted regression",
        "Distance from the behavior policy",
    }
    assert found["ledger"]["online episodes spent"] == 3 * 2 + 3
    assert found["ledger"]["gradient updates"] == 30
    assert found["conclusion"] in ("do not use", "not shown")
    assert (tmp_path / "report.html").exists()
    assert any(
        "report" in path.name or path.stat().st_size > 20_000 for path in tmp_path.glob("tb/*/*")
    )


def test_values_are_drawn_against_the_returns_that_are_known(tmp_path: Path) -> None:
    watch = QValueSanity(rows=100)
    fit(data_module(), watch)  # BC has no critic
    assert (watch.curves(), watch.scatters()) == ([], [])
    train_iql(tmp_path, watch := QValueSanity(rows=100))
    for scatter in watch.scatters():
        assert len(scatter.x) == len(scatter.y) > 0


def test_an_interrupted_run_leaves_a_report_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        train_iql(tmp_path, QValueSanity(rows=100), Signal(12), Interruption(str(tmp_path)))
    assert report(tmp_path)["why"].startswith("The run was interrupted before its end.")
    assert report(tmp_path)["ledger"]["gradient updates"] == 14


def test_a_report_that_cannot_be_written_does_not_spoil_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    trainer = fit(data_module(), DiagnosticReport(str(tmp_path / "file")))
    assert trainer.global_step == 25
    assert "report could not be written" in caplog.text


def test_without_diagnostics_the_report_says_that_nothing_was_checked(tmp_path: Path) -> None:
    fit(data_module(), DiagnosticReport(str(tmp_path)))
    assert report(tmp_path)["headline"].startswith("Nothing was checked")
