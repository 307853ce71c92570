import pytest

from tests.cli.running import Fit, run

RECORD = ["collect", "--env", "Pendulum-v1", "--dataset_id", "mine/random-v0", "--episodes", "3"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", f"{tmp_path}/minari")


def test_what_was_recorded_can_be_trained_on_and_recorded_again(
    capsys: pytest.CaptureFixture[str], fit: Fit
) -> None:
    outcome = run(capsys, [*RECORD, "--policy", "random"])
    assert outcome.code == 0, outcome.err
    assert "holds 600 steps in 3 episodes, with logged propensities" in outcome.out
    trained = fit("--run_dir", "run", data__dataset_id="mine/random-v0", trainer__max_steps=4)
    assert trained.code == 0, trained.err
    mixture = ["--policy", "run/checkpoints/last.ckpt", "random", "--share", "1"]
    again = [*RECORD[:3], "--dataset_id", "mine/mixed-v0", "--steps", "800", *mixture]
    outcome = run(capsys, [*again, "1"])
    assert outcome.code == 0, outcome.err
    assert "holds 800 steps in 4 episodes, without logged propensities" in outcome.out
    assert "There is a set" in run(capsys, [*again, "1"]).complaint
    assert "`--epsilon` is for a ch" in run(capsys, [*again, "1", "--epsilon", "0.1"]).complaint
    assert "2 policies and 1 shares" in run(capsys, again).complaint


def test_missing_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "env" in run(capsys, ["collect", "--dataset_id", "mine/x-v0"]).complaint
    assert "either `--steps` or `--episodes`" in run(capsys, RECORD[:5]).complaint


def test_packages_that_bring_environments_are_imported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("lit_offrl.online.collecting.register_plugins", asked.append)
    arguments = ["collect", "--env", "Nothing-v0", "--policy", "random", "--steps", "5"]
    outcome = run(capsys, [*arguments, "--dataset_id", "tests/nothing-v0"])
    assert "`Nothing-v0` cannot be made" in outcome.complaint
    assert asked == ["Nothing-v0"]


def test_ctrl_c_says_that_episodes_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_offrl.cli.collect.collect", stopped)
    outcome = run(capsys, RECORD)
    assert outcome.code == 130
    again = " ".join(RECORD)
    assert f"Episodes before are kept; go on with `lit-offrl {again}`." in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "0.1"], "`--noise` is for a checkpoint of a Box policy, and none is among"),
        (["--epsilon", "0.1"], "`--epsilon` is for a checkpoint of a discrete policy"),
        (["--sample_scale", "0"], "`--sample_scale` is for a checkpoint, and none"),
        (["--ref_scores", "true"], "compares the first policy with random actions"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in run(capsys, [*RECORD, *options]).complaint
