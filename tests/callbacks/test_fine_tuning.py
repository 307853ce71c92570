from pathlib import Path

import pytest
from lightning import Trainer

from lit_offrl.algorithms.iql import IQL
from lit_offrl.checkpoint import read_checkpoint
from lit_offrl.errors import EnvironmentFailed, InputError
from lit_offrl.evaluation import RawPolicy, evaluate
from lit_offrl.evaluation.diagnosis.divergence import gaussian_kl
from lit_offrl.evaluation.environment import watched
from lit_offrl.online.datamodule import FineTuneDataModule
from lit_offrl.online.environments import Environments
from lit_offrl.online.measures import outcome
from lit_offrl.online.modes import frozen
from lit_offrl_callbacks.dip_guard import DipGuard
from lit_offrl_callbacks.fine_tuning import FineTuning
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from tests.callbacks import training
from tests.online.runs import fit, make_data, make_model


def tuned(path: Path, steps: int = 80) -> tuple[FineTuneDataModule, IQL, FineTuning, Trainer]:
    data = make_data(path, steps=steps)
    model = IQL(data.obs_dim, data.action_dim, hidden=(8, 8), cosine_schedule=False, lr=1e-3)
    data.offline = frozen(model)
    measured = FineTuning(episodes=4, rows=64)
    trainer = fit(data, model, OnlineEvaluation(episodes=2), measured)
    return data, model, measured, trainer


def test_what_was_measured_is_what_a_look_at_the_parts_gives(tmp_path: Path) -> None:
    data, model, measured, trainer = tuned(tmp_path, steps=200)
    offline = data.offline
    assert isinstance(offline, IQL)
    played = evaluate(RawPolicy(offline, data.spec, data.scaling), data.spec, 4, 30_000)
    assert measured.before["return"] == played.mean
    history = measured.evaluation.history
    assert [update for update, _ in history] == [40, 80, 120, 160, 200]
    points = [(update, mean) for update, mean in history]  # one update per step
    wanted = outcome(played.mean, points, measured.before["random"], data.spec.ref_max_score)
    assert measured.outcome() == wanted
    found = measured.findings
    assert found["finetune_dip"].value == wanted.dip
    assert found["finetune_regret"].value == wanted.regret
    probe = measured._probe
    bits = gaussian_kl(model.policy(probe.obs), offline.policy(probe.obs), 0.999).sum(-1)
    assert found["finetune_kl"].value == pytest.approx(bits.mean().item(), rel=1e-4)
    q = [m.q(probe.obs, probe.action).amin(0).mean().item() for m in (offline, model)]
    assert found["finetune_recalibration"].value == pytest.approx(
        (q[1] - q[0]) / data.scaling.reward_scale, rel=1e-4
    )
    assert trainer.callback_metrics["online/steps"] == 200
    assert trainer.callback_metrics["online/episodes"] == len(data.episodes.finished) == 6
    assert [curve.title for curve in measured.curves()] == [
        "Return of fine-tuning",
        "Distance from the offline policy",
        "Q of logged actions since the start",
    ]


def test_a_resumed_run_does_not_play_the_offline_policy_again(tmp_path: Path) -> None:
    *_, measured, _ = tuned(tmp_path)
    again = FineTuning(episodes=4, rows=64)
    again.load_state_dict(measured.state_dict())
    assert again.before == measured.before and again.episodes_spent == measured.episodes_spent
    data = make_data(tmp_path / "again")
    model = make_model(data)
    trainer = fit(data, model, OnlineEvaluation(episodes=1), again)
    assert again.episodes_spent == measured.episodes_spent
    assert trainer.global_step == 80


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a FineTuneDataModule"):
        training.fit(training.data_module(), OnlineEvaluation(episodes=1), FineTuning())
    data = make_data(tmp_path)
    with pytest.raises(InputError, match="needs an OnlineEvaluation"):
        fit(data, make_model(data), FineTuning())
    with pytest.raises(InputError, match="at least 1"):
        FineTuning(episodes=0)


def test_what_was_collected_before_a_failure_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path, steps=140)
    model = make_model(data)
    whole = Environments._step

    def failing(self: Environments, i: int, action: object) -> object:
        if data.env_steps >= 50:
            with watched(self._envs[i], 0):
                raise RuntimeError("stuck")
        return whole(self, i, action)

    monkeypatch.setattr(Environments, "_step", failing)
    callbacks = OnlineEvaluation(episodes=1), FineTuning(episodes=1, rows=8)
    with pytest.raises(EnvironmentFailed, match="stuck"):
        fit(data, model, *callbacks)
    monkeypatch.setattr(Environments, "_step", whole)
    path = tmp_path / "checkpoints" / "last.ckpt"
    resumed = make_data(tmp_path, steps=140)
    fit(resumed, make_model(resumed), OnlineEvaluation(1), FineTuning(1, 8), path=path)
    assert resumed.env_steps == 140 and resumed.buffer.count == 140
    # those of the failure were given up after 25 steps each, and two others begun
    assert [episode.step for episode in resumed.episodes.finished] == [110, 110]


def test_a_failure_before_anything_was_collected_leaves_the_checkpoint_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    data = make_data(tmp_path)
    fit(data, make_model(data), OnlineEvaluation(1), FineTuning(1, 8)).save_checkpoint(path)
    before = path.read_bytes()

    def failing(self: Environments, i: int) -> None:
        raise EnvironmentFailed("stuck")

    monkeypatch.setattr(Environments, "_begin", failing)
    resumed = make_data(tmp_path, steps=140)
    with pytest.raises(EnvironmentFailed, match="stuck"):
        fit(resumed, make_model(resumed), OnlineEvaluation(1), FineTuning(1, 8), path=path)
    assert path.read_bytes() == before


def test_a_fall_never_goes_back_to_another_run(tmp_path: Path) -> None:
    safe = tmp_path / "checkpoints" / "safe.ckpt"
    safe.parent.mkdir(parents=True)
    safe.write_bytes(b"of another run")
    data = make_data(tmp_path, steps=400)
    guard = DipGuard(0.0, window=2)
    fit(data, make_model(data), guard)
    assert guard.fallen_to is not None
    assert read_checkpoint(safe)["global_step"] == 0


def test_random_steps_are_no_fall(tmp_path: Path) -> None:
    data = make_data(tmp_path, steps=70, random_steps=64)
    guard = DipGuard(0.0, window=1)
    fit(data, make_model(data), guard)
    assert guard.fallen_to is None and len(data.episodes.finished) == 2


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_a_run_below_the_floor_ends(tmp_path: Path, action: str) -> None:
    data = make_data(tmp_path, steps=400)
    model = make_model(data)
    before = [p.clone() for p in model.parameters()]
    guard = DipGuard(0.0, action, window=2)  # type: ignore[arg-type]  # no pendulum returns 0
    trainer = fit(data, model, guard)
    assert guard.fallen_to is not None and guard.fallen_to < 0
    assert trainer.global_step == 60  # where the first two episodes of 30 steps ended
    after = list(model.parameters())
    kept = all(bool((a == b).all()) for a, b in zip(before, after, strict=True))
    assert kept == (action == "rollback")
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file() == (action == "rollback")


def test_a_run_above_the_floor_goes_on(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    guard = DipGuard(-1e6, window=1)
    trainer = fit(data, make_model(data), guard)
    assert guard.fallen_to is None and trainer.global_step == 80
    with pytest.raises(InputError, match="needs a FineTuneDataModule"):
        training.fit(training.data_module(), DipGuard(0.0))
    with pytest.raises(InputError, match="`window`"):
        DipGuard(0.0, window=0)
