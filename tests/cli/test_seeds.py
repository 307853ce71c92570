"""`lit-offrl fit --seeds N`: several seeds in one process."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_offrl import load
from lit_offrl.algorithms import IQL
from lit_offrl.errors import InputError
from lit_offrl.files import write_whole
from tests.cli.running import Fit, metrics, read, same_training
from tests.cli.test_resume import stop_at

EXACT = {"trainer.precision": "64-true"}


@pytest.mark.parametrize("model", ["IQL", "CQL"])
def test_each_seed_is_what_its_own_run_trains(fit: Fit, model: str) -> None:
    together = fit("--seeds", "2", model=model, run_dir="two", **EXACT)
    assert (together.code, together.err) == (0, "")
    for seed in (0, 1):
        alone = f"one-{seed}"
        assert fit(model=model, run_dir=alone, seed_everything=seed, **EXACT).code == 0
        whole, own = read(alone), read(f"two/seed-{seed}")
        for key, value in whole["state_dict"].items():
            assert (own["state_dict"][key] - value).abs().max() < 1e-8, key
        rows = zip(metrics("two"), metrics(alone), strict=True)
        for both, one in rows:
            for name in ("loss/q", "val/td_error"):
                if one.get(name):
                    assert float(both[f"{name}/seed-{seed}"]) == pytest.approx(float(one[name]))


def test_a_seeds_checkpoint_acts_and_its_run_goes_on(fit: Fit) -> None:
    exact = EXACT | {"model.cosine_schedule": "false"}
    assert fit("--seeds", "2", run_dir="two", **exact).code == 0
    assert fit(run_dir="one", seed_everything=1, trainer__max_steps=40, **exact).code == 0
    own = Path("two/seed-1/checkpoints/last.ckpt")
    policy = load(own)
    assert policy.info.seed == 1
    goes_on = fit("--ckpt_path", str(own), run_dir="on", trainer__max_steps=40, **exact)
    assert goes_on.code == 0
    for key, value in read("one")["state_dict"].items():
        # Adam makes steps of the rounding of gradients that are almost zero
        assert (read("on")["state_dict"][key] - value).abs().max() < 1e-6, key

    with pytest.raises(InputError, match="holds 2 seeds"):
        load("two/checkpoints/last.ckpt")


def test_a_stopped_run_of_several_seeds_goes_on_bit_for_bit(fit: Fit) -> None:
    assert fit("--seeds", "2", run_dir="whole").code == 0
    assert fit("--seeds", "2", *stop_at(12), run_dir="run", data__updates_per_step=3).code == 130
    resumed = fit("--seeds", "2", "--ckpt_path", "last", run_dir="run", data__updates_per_step=5)
    assert (resumed.code, resumed.err) == (0, "")
    assert same_training(read("whole"), read("run"))
    assert metrics("whole") == metrics("run")
    for seed in (0, 1):
        assert same_training(read(f"whole/seed-{seed}"), read(f"run/seed-{seed}"))


def test_each_seed_is_evaluated_and_its_best_kept(fit: Fit) -> None:
    options = {"data.dataset_id": "pendulum/mixed", "evaluation.episodes": 2}
    done = fit("--seeds", "2", run_dir="two", **options)
    assert (done.code, done.err) == (0, "")
    assert "mean of 2 seeds" in done.out
    rows = [row for row in metrics("two") if row.get("eval/return_mean")]
    assert rows[-1]["eval/episodes_spent"] == 8
    for seed in (0, 1):
        returns = [float(row[f"eval/return_mean/seed-{seed}"]) for row in rows]
        best = read(f"two/seed-{seed}", "best")
        assert best["global_step"] == 10 * (1 + returns.index(max(returns)))
        assert load(f"two/seed-{seed}/checkpoints/best.ckpt").info.online_episodes == (
            2 * best["global_step"] / 10
        )
    last = rows[-1]
    both = [float(last[f"eval/return_mean/seed-{seed}"]) for seed in (0, 1)]
    assert float(last["eval/return_mean"]) == pytest.approx(sum(both) / 2)


def claim(monkeypatch: pytest.MonkeyPatch, losses: Mapping[int, float]) -> None:
    """Put these values in the place of the held-out loss, by update."""

    def scores(model: IQL, batch: object) -> dict[str, torch.Tensor]:
        return {"val/loss": torch.tensor(losses[model.trainer.global_step])}

    monkeypatch.setattr(IQL, "validation_scores", scores)


@pytest.mark.parametrize(
    ("losses", "best"),
    [((2.0, math.nan, 3.0), 10), ((math.nan, 2.0, math.nan), 20), ((math.nan, math.nan, 3.0), 30)],
)
def test_a_seed_that_diverged_is_the_best_only_where_nothing_else_is(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...], best: int
) -> None:
    claim(monkeypatch, dict(zip((10, 20, 30), losses, strict=True)))
    assert fit("--seeds", "2", run_dir="two", trainer__max_steps=30).code == 0
    assert fit(run_dir="one", trainer__max_steps=30).code == 0
    for folder in ("two/seed-0", "two/seed-1", "one"):
        assert read(folder, "best")["global_step"] == best


class Killed(BaseException):
    """In place of a signal that nothing can catch."""


def test_several_seeds_killed_between_files_end_as_if_they_had_not_been(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(monkeypatch, {10: 2.0, 20: 1.0, 30: 3.0})
    assert fit("--seeds", "2", run_dir="whole", trainer__max_steps=30).code == 0
    resume: list[str] = []
    # An epoch writes five files, three where it has no best. A resumed run ends its epoch anew.
    for files, update in ((6, 10), (3 + 4, 10), (3 + 5, 20)):
        left = iter(range(files))

        def write(path: Path, *rest: Any, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed
            write_whole(path, *rest)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("lit_offrl.checkpoint_io.write_whole", write)
            fit("--seeds", "2", *resume, run_dir="run", trainer__max_steps=30)
        assert read("run")["global_step"] == update
        resume = ["--ckpt_path", "last"]
    assert fit("--seeds", "2", *resume, run_dir="run", trainer__max_steps=30).code == 0
    for folder in ("", "seed-0", "seed-1"):
        assert same_training(read(f"whole/{folder}"), read(f"run/{folder}"))
    for seed in (0, 1):
        whole, run = (read(f"{folder}/seed-{seed}", "best") for folder in ("whole", "run"))
        assert same_training(whole, run)
        assert run["global_step"] == 20


def test_seeds_that_go_on_in_another_folder_have_a_best_there(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(monkeypatch, {10: 1.0, 20: 2.0, 30: 3.0})
    assert fit("--seeds", "2", run_dir="one").code == 0
    rest = {"ckpt_path": "one/checkpoints/last.ckpt", "run_dir": "other"}
    assert fit("--seeds", "2", trainer__max_steps=30, **rest).code == 0
    for seed in (0, 1):
        assert read(f"other/seed-{seed}", "best")["global_step"] == 30


def test_other_seeds_are_refused(fit: Fit) -> None:
    assert fit("--seeds", "0").code == 2
    assert fit("--seeds", "2", run_dir="two").code == 0
    other = fit("--seeds", "3", "--ckpt_path", "last", run_dir="two")
    assert other.code == 2
    assert "of seeds [0, 1], not" in other.err
