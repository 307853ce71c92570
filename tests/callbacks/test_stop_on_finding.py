from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from lit_offrl.errors import InputError
from lit_offrl.evaluation.finding import Finding, Verdict, not_applicable
from lit_offrl_callbacks.best_and_last import BestAndLast
from lit_offrl_callbacks.diagnostic import Diagnostic, findings_of
from lit_offrl_callbacks.stop_on_finding import StopOnFinding
from tests.callbacks.training import data_module, fit


class Scripted(Diagnostic):
    """Finds these verdicts, one per diagnosis, and remembers the weights it saw."""

    def __init__(self, verdicts: Sequence[Verdict], every_n_epochs: int = 1) -> None:
        super().__init__(every_n_epochs)
        self.verdicts = iter(verdicts)
        self.weights: dict[int, torch.Tensor] = {}

    def diagnose(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        self.weights[trainer.global_step] = weights(pl_module)
        assert not pl_module.training
        verdict = next(self.verdicts)
        value = None if verdict == "not applicable" else 0.5
        return [Finding("q_bounds", verdict, "Seen.", "Look.", value), not_applicable("q_x", "No.")]


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def run(tmp_path: Path, stop: StopOnFinding, *verdicts: Verdict, every: int = 1) -> Trainer:
    diagnostic = Scripted(verdicts, every)
    return fit(data_module(), diagnostic, BestAndLast(str(tmp_path)), stop, steps=40, path=None)


def test_a_failing_finding_ends_the_run_after_its_epoch(tmp_path: Path) -> None:
    stop = StopOnFinding(action="stop", dirpath=str(tmp_path))
    trainer = run(tmp_path, stop, "ok", "watch", "fail")
    assert (trainer.global_step, stop.failed) == (30, "q_bounds")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 30


def test_rewinding_leaves_the_last_sound_checkpoint_and_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = StopOnFinding(dirpath=str(tmp_path))
    trainer = run(tmp_path, stop, "ok", "ok", "fail")
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (trainer.global_step, last["global_step"], stop.sound_update) == (30, 20, 20)
    (diagnostic,) = (c for c in trainer.callbacks if isinstance(c, Scripted))  # type: ignore[attr-defined]
    assert torch.equal(weights(trainer.lightning_module), diagnostic.weights[20])
    assert not torch.equal(diagnostic.weights[30], diagnostic.weights[20])
    assert "last.ckpt is now that of update 20" in capsys.readouterr().out


def test_without_a_sound_checkpoint_the_run_stops_where_it_is(tmp_path: Path) -> None:
    trainer = run(tmp_path, StopOnFinding(dirpath=str(tmp_path)), "fail")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 10
    assert trainer.global_step == 10


def test_epochs_without_a_diagnosis_are_not_called_sound(tmp_path: Path) -> None:
    stop = StopOnFinding(dirpath=str(tmp_path))
    run(tmp_path, stop, "ok", "fail", every=2)  # at updates 20 and 40
    assert stop.sound_update == 20


def test_what_could_not_be_judged_is_not_called_sound(tmp_path: Path) -> None:
    stop = StopOnFinding(dirpath=str(tmp_path))
    run(tmp_path, stop, "ok", "not applicable", "fail")  # as q_bounds is where Q is NaN
    assert stop.sound_update == 10


def test_other_findings_do_not_end_the_run(tmp_path: Path) -> None:
    stop = StopOnFinding(["q_drift"], dirpath=str(tmp_path))
    assert run(tmp_path, stop, "fail", "fail", "fail", "fail").global_step == 40


def test_a_run_without_diagnostics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a diagnostic"):
        fit(data_module(), StopOnFinding(dirpath=str(tmp_path)))
    with pytest.raises(InputError, match="at least one"):
        StopOnFinding([])


def test_findings_are_logged_printed_when_they_change_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = CSVLogger(tmp_path)
    diagnostic = Scripted(["ok", "fail", "fail", "ok"])
    trainer = fit(data_module(), diagnostic, steps=40, logger=logger)
    lines = [line for line in capsys.readouterr().out.splitlines() if "q_bounds" in line]
    assert [line.partition(":")[0] for line in lines] == ["update 20", "update 40"]
    header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"q/bounds", "verdict/q_bounds", "verdict/q_x"} <= set(header)
    assert trainer.callback_metrics["verdict/q_bounds"] == 0
    again = Scripted([])
    again.load_state_dict(diagnostic.state_dict())
    assert (again.findings, again.history) == (diagnostic.findings, diagnostic.history)
    assert findings_of(trainer) == diagnostic.findings


class Brief(Diagnostic):
    """Has less to say the second time, as ``kl_behavior`` alone is left where a policy is NaN."""

    def diagnose(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        names = ["kl_behavior", "kl_too_close"][: 1 if self.history else 2]
        return [Finding(name, "watch", "Seen.", "Look.", 0.5) for name in names]


def test_an_answer_that_was_not_given_again_does_not_stay() -> None:
    diagnostic = Brief()
    trainer = fit(data_module(), diagnostic, steps=20)
    verdicts = {name: finding.verdict for name, finding in diagnostic.findings.items()}
    assert verdicts == {"kl_behavior": "watch", "kl_too_close": "not applicable"}
    assert "kl_too_close" in diagnostic.history[0] and "kl_too_close" not in diagnostic.history[1]
    assert trainer.callback_metrics["verdict/kl_too_close"] == -1


def test_a_diagnosis_follows_epochs_without_validation_and_the_last_one() -> None:
    diagnostic = Scripted(["ok"] * 3, every_n_epochs=2)
    fit(data_module(held_out=0.0), diagnostic, steps=30)
    assert [point["update"] for point in diagnostic.history] == [20, 30]
