"""The sweep of the examples runs, prunes, goes on, and reports on what it has not seen."""

from pathlib import Path
from typing import Any

import pytest

from lit_offrl.data.builtin import pendulum
from lit_offrl.evaluation import evaluate

optuna = pytest.importorskip("optuna", reason="`pip install optuna` to try the sweep")

from examples import optuna_sweep  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # set by the runs: restored afterwards
    monkeypatch.chdir(tmp_path)
    pendulum.make(scale=0.02)


def options(**changes: Any) -> list[str]:
    given = {"trials": 3, "seeds": 2, "updates": 20, "evaluations": 2, "episodes": 1}
    given |= {"report_seeds": 2, "report_episodes": 1, **changes}
    return [part for key, value in given.items() for part in (f"--{key}", str(value))]


def test_a_search_goes_on_where_it_was_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    first = optuna_sweep.search(optuna_sweep.parse(options(trials=2))).trials
    optuna_sweep.main(options(trials=3))
    study = optuna_sweep.search(optuna_sweep.parse(options(trials=3)))
    assert [trial.value for trial in study.trials[:2]] == [trial.value for trial in first]
    assert len({str(trial.params) for trial in study.trials}) == len(study.trials) == 3
    scores = study.best_trial.user_attrs["scores"]
    assert len(set(scores)) == 2  # one per seed
    assert study.best_value == pytest.approx(sum(scores) / 2)
    assert "over 2 fresh seeds" in capsys.readouterr().out


def test_what_is_reported_was_not_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, episodes = [], []
    train = optuna_sweep.train

    def spy_train(settings: Any, seed: int, *rest: Any) -> Any:
        seeds.append(seed)
        return train(settings, seed, *rest)

    def spy_play(policy: Any, spec: Any, n: int, seed: int) -> Any:
        episodes.append(range(seed, seed + n))
        return evaluate(policy, spec, n, seed)

    monkeypatch.setattr(optuna_sweep, "train", spy_train)
    monkeypatch.setattr(optuna_sweep, "evaluate", spy_play)
    plan = optuna_sweep.parse(options(trials=1))
    best = optuna_sweep.search(plan).best_params
    searched, seeds[:] = set(seeds), []
    assert len(optuna_sweep.report(best, plan)) == 2
    assert searched == {0, 1}
    assert not searched & set(seeds)
    assert all(min(played) > plan.episodes for played in episodes)


def test_a_bad_setting_is_given_up_early() -> None:
    plan = optuna_sweep.parse(options(seeds=1))
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(0.0))
    study.optimize(lambda trial: optuna_sweep.score(trial, plan), n_trials=1)
    (trial,) = study.trials  # returns of pendulum are negative
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert len(trial.intermediate_values) == 1


def test_without_an_environment_the_log_scores() -> None:
    plan = optuna_sweep.parse(options(trials=1, score="fqe", fqe_updates=60))
    study = optuna_sweep.search(plan)
    assert len(study.best_trial.intermediate_values) == plan.seeds
