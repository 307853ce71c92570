"""``lit-offrl evaluate``: the table, the sentence, the report, and wrong input."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_offrl.data.builtin import gridworld
from tests.cli.running import Fit, Outcome, run
from tests.data.makers import episode, make_minari

QUICK = ["--fqe_updates", "60", "--model_updates", "40", "--rollouts", "50", "--resamples", "100"]
QUICK += ["--behavior_updates", "40"]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``lit-offrl evaluate`` in this process, with little work."""

    def evaluate(*arguments: str) -> Outcome:
        return run(capsys, ["evaluate", *QUICK, *arguments])

    return evaluate


def trained(fit: Fit, folder: str, model: str = "IQL", **options: Any) -> str:
    options = {"data__dataset_id": "pendulum/mixed", "run_dir": folder} | options
    assert fit(model=model, **options).code == 0
    return f"{folder}/checkpoints/last.ckpt"


def report(folder: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text())
    return content


def test_one_checkpoint_gives_a_table_a_sentence_and_a_report(fit: Fit, evaluate: Any) -> None:
    done = evaluate(trained(fit, "run"))
    assert done.code == 0
    for text in ("FQE", "IS, WIS, PDIS", "model", "logged behavior", "not applicable"):
        assert text in done.out
    assert any(word in done.out for word in ("NOT SHOWN:", "DO NOT USE:", "USE:"))
    named = re.findall(r"^(\w*) ?(?:watch|fail): ", done.out, re.MULTILINE)
    assert named and all(named)  # the name is what docs/diagnostics.md lists it by
    found = report("run/evaluation/last")
    assert {e["name"] for e in found["estimates"]} >= {"FQE", "WIS", "WDR", "MAGIC", "RIS", "model"}
    assert found["ledger"]["gradient updates"] == 20
    assert found["ledger"]["online episodes spent here"] == 0
    assert "<html" in Path("run/evaluation/last/report.html").read_text()


def test_a_sampled_policy_has_weights(fit: Fit, evaluate: Any) -> None:
    checkpoint = trained(fit, "run")
    assert evaluate(checkpoint, "--policy", "sampled", "--out", "sampled").code == 0
    by_name = {e["name"]: e for e in report("sampled")["estimates"]}
    assert by_name["WIS"]["value"] is not None
    assert by_name["WIS"]["details"]["ess"] >= 1


def test_several_checkpoints_are_ranked_and_their_order_is_checked_online(
    fit: Fit, evaluate: Any
) -> None:
    checkpoints = [trained(fit, f"run{i}", seed_everything=i) for i in range(3)]
    done = evaluate(*checkpoints, "--online", "2", "--out", "all")
    assert done.code == 0
    assert "has the highest estimate" in done.out
    assert "Rank correlation of estimates and returns" in done.out
    assert report("all/run1-last")["ledger"]["online episodes spent here"] == 2
    assert {f["name"] for f in report("all/run1-last")["findings"]} >= {"gap_ope", "support"}


@pytest.fixture
def grid(data_folder: Path, fit: Fit) -> str:
    gridworld.make(scale=0.05)
    return trained(
        fit, "grid", "DiscreteIQL", data__dataset_id="gridworld/mixed", data__batch_size=64
    )


def test_states_that_can_be_counted_get_an_exact_fqe(grid: str, evaluate: Any) -> None:
    assert evaluate(grid, "--policy", "soft", "--softening", "0.5").code == 0
    by_name = {e["name"]: e for e in report("grid/evaluation/last")["estimates"]}
    assert "exactly" in by_name["FQE"]["reason"]
    assert by_name["model"]["status"] == "not applicable"
    assert by_name["WIS"]["value"] is not None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["none.ckpt"], "`none.ckpt` is not there"),
        (["{run}", "--policy", "soft"], "Only policies of discrete actions can be softened"),
        (["{run}", "--policy", "best"], "policy"),
        (["{run}", "--online", "1"], "`--online` takes 2 episodes or more"),
        (["{run}", "--threads", "-1"], "`--threads` must lie in [1, inf)"),
        (["{run}", "--dataset_id", "tests/discrete-v0"], "give a log of the same task"),
        (["{run}", "--fqe_updates", "3"], "FQE needs at least"),
        (["{run}", "--discount", "1.5"], "`--discount` must lie in [0, 1]"),
        (["{run}", "--softening", "0"], "must lie between 0 and 1"),
        (["{run}", "--nothing", "1"], "nothing"),
        ([], "checkpoints"),
    ],
)
def test_wrong_input_is_one_line(
    fit: Fit, evaluate: Any, arguments: list[str], complaint: str
) -> None:
    run_dir = trained(fit, "run")
    done = evaluate(*(part.format(run=run_dir) for part in arguments))
    assert complaint in done.complaint


def test_values_of_different_discounts_are_not_compared(fit: Fit, evaluate: Any) -> None:
    one = trained(fit, "one")
    other = trained(fit, "other", model__discount=0.9)
    assert "discount 0.99" in evaluate(one, other).complaint
    assert evaluate(one, other, "--discount", "0.9").code == 0


def log_of(name: str, *lengths: int, **changes: Any) -> str:
    episodes = [
        episode(i, n, **{k: v(n) for k, v in changes.items()}) for i, n in enumerate(lengths)
    ]
    make_minari(episodes, name)
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lengths", "changes", "code", "said"),
    [
        ("one-episode", (30,), {}, 2, "resamples episodes"),
        ("one-step", (1,) * 40, {}, 0, "NOT SHOWN|DO NOT USE|USE"),
        ("constant", (20,) * 8, {"rewards": np.ones}, 0, "NOT SHOWN|DO NOT USE|USE"),
        (
            "no-end",
            (20,) * 8,
            {
                "terminations": lambda n: np.zeros(n, bool),
                "truncations": lambda n: np.arange(n) == n - 1,
            },
            0,
            "NOT SHOWN|DO NOT USE|USE",
        ),
    ],
)
def test_odd_logs_get_words_and_never_nan(
    fit: Fit,
    evaluate: Any,
    name: str,
    lengths: tuple[int, ...],
    changes: dict[str, Any],
    code: int,
    said: str,
) -> None:
    log = log_of(f"tests/{name}-v0", *lengths, **changes)
    checkpoint = trained(fit, "run", data__dataset_id="tests/box-v0")
    for policy in ("greedy", "sampled"):
        done = evaluate(checkpoint, "--dataset_id", log, "--policy", policy)
        assert done.code == code, done.err
        assert any(word in done.out + done.err for word in said.split("|"))
        assert "nan" not in done.out.lower()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    fit: Fit, evaluate: Any, tmp_path: Path
) -> None:
    checkpoint = trained(fit, "run")
    (tmp_path / "file").touch()
    assert "Cannot write to the folder file" in evaluate(checkpoint, "--out", "file").complaint
