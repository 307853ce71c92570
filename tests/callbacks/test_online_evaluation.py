import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_offrl.algorithms.bc import BC
from lit_offrl.checkpoint import load
from lit_offrl.errors import InputError
from lit_offrl.evaluation import evaluate
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from tests.callbacks.training import data_module, fit


@pytest.mark.parametrize("held_out", [0.25, 0.0])
def test_returns_are_logged_at_each_epoch_and_the_end_and_can_be_monitored(
    held_out: float, tmp_path: Path
) -> None:
    evaluation = OnlineEvaluation(episodes=3)
    best = ModelCheckpoint(
        tmp_path, "{step}", "eval/return_mean", mode="max", save_top_k=3, save_weights_only=False
    )
    fit(data_module(held_out), evaluation, best, logger=CSVLogger(tmp_path, "", ""))

    assert [update for update, _ in evaluation.history] == [10, 20, 25]
    assert sorted(Path(path).stem for path in best.best_k_models) == [
        "step=10",
        "step=20",
        "step=25",
    ]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    logged = [row for row in rows if row["eval/return_mean"]]
    assert [int(float(row["step"])) for row in logged] == [10, 20, 25]
    assert [float(row["eval/episodes_spent"]) for row in logged] == [3, 6, 9]
    for row, (update, mean) in zip(logged, evaluation.history, strict=True):
        assert float(row["eval/return_mean"]) == pytest.approx(mean)
        assert float(row["eval/length_mean"]) == 30
        policy = load(tmp_path / f"step={update}.ckpt")
        expected = evaluate(policy, policy.spec, episodes=3)
        assert mean == pytest.approx(expected.mean, rel=1e-5)
        assert float(row["eval/return_std"]) == pytest.approx(expected.std, rel=1e-4)
        low, high = policy.spec.ref_min_score, policy.spec.ref_max_score
        assert low is not None and high is not None
        score = 100 * (mean - low) / (high - low)
        assert float(row["eval/normalized_score"]) == pytest.approx(score, rel=1e-5)


def test_a_set_without_reference_scores_gets_no_score() -> None:
    trainer = fit(data_module(ref_min_score=None), OnlineEvaluation(episodes=1))
    assert "eval/return_mean" in trainer.callback_metrics
    assert "eval/normalized_score" not in trainer.callback_metrics


@pytest.mark.parametrize("held_out", [0.25, 0.0])
def test_some_epochs_may_be_left_out_but_not_the_last(held_out: float) -> None:
    evaluation = OnlineEvaluation(episodes=1, every_n_epochs=2)
    fit(data_module(held_out), evaluation, steps=45)
    assert [update for update, _ in evaluation.history] == [20, 40, 45]
    evaluation = OnlineEvaluation(episodes=1, every_n_epochs=3)
    fit(data_module(held_out), evaluation, steps=-1, max_epochs=4)
    assert [update for update, _ in evaluation.history] == [30, 40]


def test_epochs_without_validation_are_evaluated_too() -> None:
    evaluation = OnlineEvaluation(episodes=1)
    fit(data_module(), evaluation, steps=30, check_val_every_n_epoch=2)
    assert [update for update, _ in evaluation.history] == [10, 20, 30]


def test_evaluating_does_not_change_what_is_trained() -> None:
    weights = [
        fit(data_module(), *callbacks).lightning_module.state_dict()
        for callbacks in ([], [OnlineEvaluation(episodes=2)])
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_resumed_run_goes_on_with_the_history(tmp_path: Path) -> None:
    whole, first, second = (OnlineEvaluation(episodes=2) for _ in range(3))
    fit(data_module(), whole, steps=20)
    fit(data_module(), first, ModelCheckpoint(tmp_path, "{step}"), steps=10)
    path = tmp_path / "step=10.ckpt"
    fit(data_module(), second, ModelCheckpoint(tmp_path, "{step}"), steps=20, path=path)

    assert second.history == whole.history
    assert second.episodes_spent == 4


def test_last_best_and_mean_of_last_are_told_apart() -> None:
    evaluation = OnlineEvaluation(mean_of_last=2)
    assert evaluation.summary() == {}
    history = [(10, 1.0), (20, 9.0), (30, 3.0), (40, 5.0)]
    evaluation.load_state_dict({"history": history, "episodes_spent": 40})
    assert evaluation.summary() == {
        "last": 5.0,
        "best": 9.0,
        "best_update": 20,
        "mean_of_last_k": 4.0,
        "episodes_spent": 40,
    }


def test_an_environment_that_cannot_be_made_fails_before_training() -> None:
    with pytest.raises(InputError, match="cannot be made"):
        fit(data_module(env_spec='{"id": "Nothing-v0"}'), OnlineEvaluation())
    with pytest.raises(InputError, match="does not match"):
        fit(data_module(), OnlineEvaluation(env_id="CartPole-v1"))


def test_without_episodes_no_environment_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*args: Any, **options: Any) -> None:
        raise AssertionError("an environment was made")

    monkeypatch.setattr(gym, "make", make)
    monkeypatch.setattr(gym, "make_vec", make)
    evaluation = OnlineEvaluation(episodes=0)
    trainer = fit(data_module(), evaluation)
    assert evaluation.history == []
    assert not evaluation.evaluates_online
    assert not any(key.startswith("eval/") for key in trainer.callback_metrics)


def test_a_set_without_environment_is_trained_without_evaluation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    evaluation = OnlineEvaluation()
    fit(data_module(env_spec=None), evaluation)
    assert evaluation.history == []
    assert caplog.text.count("not evaluated online") == 1

    named = OnlineEvaluation(episodes=1, env_id="Pendulum-v1")
    fit(data_module(env_spec=None), named, steps=5)
    assert len(named.history) == 1


TWO_RANKS = """
from lightning import Trainer
from lit_offrl.algorithms.bc import BC
from lit_offrl.data import OfflineDataModule
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
import sys, torch

devices = int(sys.argv[1])
data = OfflineDataModule("pendulum/mixed", batch_size=16, updates_per_epoch=10)
torch.manual_seed(0)
model, evaluation = BC(data.obs_dim, data.action_dim, hidden=(8,)), OnlineEvaluation(episodes=3)
trainer = Trainer(
    max_steps=10,
    accelerator="cpu",
    devices=devices,
    strategy="ddp" if devices > 1 else "auto",
    callbacks=[evaluation],
    logger=False,
    enable_checkpointing=False,
)
trainer.fit(model, data)
if trainer.is_global_zero:
    metrics = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("eval/")}
    print("RESULT", sorted(metrics.items()), flush=True)
"""


@pytest.mark.slow
def test_two_ranks_share_the_episodes_and_agree_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "1"])
    exec(TWO_RANKS, {"__name__": "train"})
    (tmp_path / "train.py").write_text(TWO_RANKS)
    subprocess.run([sys.executable, str(tmp_path / "train.py"), "2"], timeout=300, check=True)
    results = re.findall(r"RESULT (.*?\])", capfd.readouterr().out)
    one, two = (dict(ast.literal_eval(result)) for result in results)
    assert one["eval/episodes_spent"] == two["eval/episodes_spent"] == 3
    assert two == pytest.approx(one, rel=1e-4)


def test_wrong_settings_are_input_errors() -> None:
    zeros: list[dict[str, Any]] = [{"every_n_epochs": 0}, {"num_envs": 0}, {"mean_of_last": 0}]
    for wrong in zeros:
        with pytest.raises(InputError, match="at least 1"):
            OnlineEvaluation(**wrong)
    with pytest.raises(InputError, match="negative"):
        OnlineEvaluation(episodes=-1)
    with pytest.raises(InputError, match="OfflineDataModule"):
        OnlineEvaluation().setup(Trainer(accelerator="cpu", logger=False), BC(3, 1), "fit")
