"""What a run does and leaves."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from lit_offrl.data.builtin import BUILTIN, pendulum
from tests.cli.running import Fit, metrics, read, same, same_training

RUN = Path("runs/tests-box-v0/iql/seed-0")


def test_a_run_leaves_all_that_the_readme_names(fit: Fit) -> None:
    outcome = fit()
    assert (outcome.code, outcome.err) == (0, "")
    assert read(RUN, "last")["global_step"] == 20
    assert read(RUN, "best")["global_step"] in (10, 20)
    assert list((RUN / "tensorboard").glob("events.*"))
    assert metrics(RUN)
    assert "held-out TD error" in outcome.out
    assert "updates/s" in outcome.out
    assert f"Checkpoints: {RUN / 'checkpoints'}" in outcome.out


def test_the_saved_config_repeats_the_run(fit: Fit) -> None:
    assert fit(seed_everything=3, model__expectile=0.8).code == 0
    first = RUN.with_name("seed-3")
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["model"]["init_args"]["expectile"] == 0.8
    repeated = fit("-c", str(first / "config.yaml"), only_arguments=True)
    assert (repeated.code, repeated.err) == (0, "")
    again = RUN.with_name("seed-3-2")
    assert same_training(read(first), read(again))
    assert (first / "config.yaml").read_text() == (again / "config.yaml").read_text()


@pytest.mark.parametrize("model", ["IQL", "CQL", "BCQ"])
def test_the_same_seed_is_the_same_run_in_every_bit(fit: Fit, model: str) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        assert fit(model=model, seed_everything=seed, run_dir=name).code == 0
    assert same_training(read("one"), read("two"))
    assert metrics("one") == metrics("two")
    assert not same(read("one")["state_dict"], read("other")["state_dict"])


def test_making_the_built_in_set_changes_nothing(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BUILTIN, pendulum.DATASET_ID, lambda: pendulum.make(scale=0.01))
    options = {"data.dataset_id": "pendulum/mixed", "trainer.max_steps": 10}
    outcomes = [fit(**options, run_dir=name) for name in ("makes", "finds[b]")]
    assert ["Making the built-in set" in outcome.out for outcome in outcomes] == [True, False]
    assert same_training(read("makes"), read("finds[b]"))
    assert "Checkpoints: finds[b]/checkpoints" in outcomes[1].out  # no markup


@pytest.mark.parametrize("model", ["IQL", "TD3BC"])
def test_updates_per_step_changes_no_weight_and_no_number(fit: Fit, model: str) -> None:
    for k in (1, 8):
        assert fit(model=model, data__updates_per_step=k, run_dir=f"k{k}").code == 0
    assert same_training(read("k1"), read("k8"))
    assert metrics("k1") == metrics("k8")


def test_a_run_stops_after_exactly_max_steps(fit: Fit) -> None:
    assert fit(trainer__max_steps=13, data__updates_per_step=4).code == 0
    assert read(RUN)["global_step"] == 13
    assert max(row["step"] for row in metrics(RUN)) == 13


@pytest.mark.parametrize("k", [1, 3, 8])
def test_metrics_are_logged_every_n_updates_each_once(fit: Fit, k: int) -> None:
    assert fit(data__updates_per_step=k, trainer__log_every_n_steps=4).code == 0
    rows = metrics(RUN)
    assert [row["step"] for row in rows if "loss/v" in row] == [4, 8, 12, 16, 20]
    assert [row["step"] for row in rows if "val/loss" in row] == [10, 20]
    assert not any({"loss/v", "val/loss"} <= row.keys() for row in rows)


def test_losses_logged_every_0_updates_are_not_logged(fit: Fit) -> None:
    assert fit(trainer__log_every_n_steps=0).code == 0
    assert all("loss/v" not in row for row in metrics(RUN))
    assert [row["step"] for row in metrics(RUN)] == [10, 20]


@pytest.mark.parametrize("n", [1, 3])
def test_fast_dev_run_does_n_updates_and_validates(fit: Fit, n: int) -> None:
    out = fit(trainer__fast_dev_run=n).out
    assert read(RUN)["global_step"] == n
    assert re.search(rf"update {n} · held-out TD error", out)


def test_each_run_gets_a_folder_of_its_own(fit: Fit) -> None:
    for _ in range(3):
        assert fit(trainer__max_steps=2).code == 0
    names = sorted(path.name for path in RUN.parent.iterdir())
    assert names == ["seed-0", "seed-0-2", "seed-0-3"]
    assert same_training(read(RUN), read(RUN.with_name("seed-0-3")))


def test_last_finds_the_newest_run(fit: Fit) -> None:
    for steps in (4, 8):
        assert fit(trainer__max_steps=steps, model__cosine_schedule=False).code == 0
    assert fit("--ckpt_path", "last", trainer__max_steps=12, model__cosine_schedule=False).code == 0
    newest = RUN.with_name("seed-0-2")
    assert [read(folder)["global_step"] for folder in (RUN, newest)] == [4, 12]
    assert [row["step"] for row in metrics(newest) if "loss/v" in row] == [5, 10]
    assert not RUN.with_name("seed-0-3").exists()


def test_bf16_mixed_trains_what_float32_nearly_does(fit: Fit) -> None:
    assert fit(trainer__precision="bf16-mixed", run_dir="bf16").code == 0
    assert fit(run_dir="float32").code == 0
    exact, rounded = (read(name)["state_dict"] for name in ("float32", "bf16"))
    assert not same(exact, rounded)
    for key, value in exact.items():
        assert rounded[key].dtype == value.dtype
        assert (rounded[key] - value).abs().max() < 0.02


def test_logged_numbers_are_those_of_the_update_they_stand_at(fit: Fit) -> None:
    """A run that logs seldom writes a part of what one that logs always does."""
    for n in (1, 5):
        assert fit(trainer__log_every_n_steps=n, run_dir=f"every{n}").code == 0
    often = {row["step"]: row for row in metrics("every1") if "loss/v" in row}
    seldom = [row for row in metrics("every5") if "loss/v" in row]
    assert [row["step"] for row in seldom] == [5, 10, 15, 20]
    assert all(row == often[row["step"]] for row in seldom)
    for one, two in itertools.pairwise(often.values()):
        assert one["loss/v"] != two["loss/v"]
