"""``lit-offrl monitor``: the table, the sentence, the report, and wrong input."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_offrl.checkpoint import load
from tests.cli.judging import leave_evaluation
from tests.cli.running import Fit, Outcome, run
from tests.data.makers import ACTION, OBS, episode, make_minari, stacked

QUICK = ["--model_updates", "20"]
CHECKPOINT = "run/checkpoints/last.ckpt"


@pytest.fixture
def monitor(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``lit-offrl monitor`` in this process, with little work."""

    def monitor(*arguments: str) -> Outcome:
        return run(capsys, ["monitor", *QUICK, *arguments])

    return monitor


def random_episodes(count: int, steps: int, seed: int = 0, **changes: Any) -> list[Any]:
    """Episodes of nobody's actions that end; Minari numbers them from 0."""
    ends = {"terminations": np.arange(steps) == steps - 1, "truncations": np.zeros(steps, np.bool_)}
    return [replace(episode(seed + i, steps, **ends | changes), id=i) for i in range(count)]


@pytest.fixture(scope="package")
def sets(data_folder: Path) -> None:
    """A log, and deployed episodes of nobody's actions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(data_folder / "minari"))
        make_minari(random_episodes(160, 12), "tests/monitored-v0")
        make_minari(random_episodes(5, 12, seed=900), "tests/deployed-v0")
        make_minari(random_episodes(3, 4, rewards=np.full(4, 1e6)), "tests/otherunit-v0")
        make_minari(random_episodes(3, 4), "tests/few-v0")


@pytest.fixture
def checkpoint(sets: None, fit: Fit) -> str:
    assert fit(data__dataset_id="tests/monitored-v0", run_dir="run").code == 0
    return CHECKPOINT


def own_episodes(checkpoint: str, name: str, count: int, seed: int = 500) -> str:
    """Episodes of the log's world with the checkpoint's actions."""
    policy = load(checkpoint)
    made: list[Any] = []
    for i in range(count):
        obs = stacked(OBS, 13, 2 * (seed + i))
        actions = np.asarray(policy(obs[:-1].astype(np.float32)), ACTION.dtype)
        one = episode(seed + i, 12, observations=obs, actions=actions)
        made.append(replace(one, id=i))
    make_minari(made, name)
    return name


def found(folder: str = "run/monitor/last") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text())
    return content


def test_other_actions_are_named_with_a_table_a_sentence_and_a_report(
    checkpoint: str, monitor: Any
) -> None:
    done = monitor(checkpoint, "tests/deployed-v0", "--predicted", "0", "-90", "90")
    assert done.code == 0, done.err
    for text in ("policy", "dynamics", "reward", "returns", "alarm after", "Compared with 40"):
        assert text in done.out, text
    assert "policy fail: Evidence against" in done.out
    assert "state not applicable: " in done.out
    assert "POLICY SUPPORT after 5 episodes: The actions in the logs are not those" in done.out
    report = found()
    assert report["conclusion"] == "do not use"
    text = Path("run/monitor/last/report.md").read_text()
    assert re.search(
        r"^\| Return measured online \| \S+ \| – \| mean of 5 episodes \|$", text, re.M
    )
    assert "off-policy estimate" not in text and "## Make this report again" in text
    assert report["ledger"]["prediction"] == "`--predicted`"
    assert [curve["title"] for curve in report["curves"]] == [
        "Evidence of a change",
        "Returns",
        "Cumulative sum of returns",
    ]
    assert Path("run/monitor/last/report.html").is_file()


def test_its_own_few_episodes_are_not_enough_to_say_anything(checkpoint: str, monitor: Any) -> None:
    logs = own_episodes(checkpoint, "tests/own-v0", 3)
    done = monitor(checkpoint, logs)
    assert done.code == 0, done.err
    assert "CANNOT SAY YET after 3 episodes" in done.out
    assert "more would show a strong change" in done.out
    assert found()["conclusion"] == "not shown"


def test_accepted_episodes_calibrate_all_tests(checkpoint: str, monitor: Any) -> None:
    accepted = own_episodes(checkpoint, "tests/accepted-v0", 12, seed=700)
    logs = own_episodes(checkpoint, "tests/ownagain-v0", 3, seed=800)
    done = monitor(checkpoint, logs, "--calibration", accepted, "--out", "there")
    assert done.code == 0, done.err
    assert "Compared with 12 accepted episodes" in done.out
    findings = {finding["name"] for finding in found("there")["findings"]}
    assert findings >= {"monitor_state", "monitor_td_error", "monitor_returns"}


def test_episodes_of_others_and_the_episodes_themselves_calibrate_nothing(
    checkpoint: str, monitor: Any
) -> None:
    logs = own_episodes(checkpoint, "tests/alone-v0", 3, seed=900)
    complaint = monitor(checkpoint, logs, "--calibration", logs).complaint
    assert "hold the same episodes" in complaint
    complaint = monitor(checkpoint, logs, "--calibration", "tests/deployed-v0").complaint
    assert "other actions than the greedy policy's" in complaint


def test_a_policy_without_probabilities_is_not_deployed_sampled(
    sets: None, fit: Fit, monitor: Any
) -> None:
    options = {"data__dataset_id": "tests/monitored-v0", "run_dir": "run"}
    assert fit(model="BCQ", model__vae_hidden="[8]", **options).code == 0
    complaint = monitor(CHECKPOINT, "tests/deployed-v0", "--policy", "sampled").complaint
    assert "BCQ has no probabilities of its actions" in complaint
    done = monitor(CHECKPOINT, "tests/deployed-v0")
    assert "not applicable: BCQ draws its actions" in done.out


def test_the_prediction_is_what_an_evaluation_left(checkpoint: str, monitor: Any) -> None:
    leave_evaluation(Path(checkpoint))
    assert monitor(checkpoint, "tests/deployed-v0").code == 0
    assert found()["ledger"]["prediction"].startswith("FQE of ")
    returns = next(f for f in found()["findings"] if f["name"] == "monitor_returns")
    assert "predicted -1 to 2" in returns["meaning"]


def test_a_prediction_of_another_policy_or_discount_is_left_out(
    checkpoint: str, monitor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    report = leave_evaluation(Path(checkpoint), {"evaluation policy": "sampled"})
    assert monitor(checkpoint, "tests/deployed-v0").code == 0
    assert found()["ledger"]["prediction"] == "none"
    assert "(evaluation policy sampled, not greedy)" in caplog.text
    assert monitor(checkpoint, "tests/deployed-v0", "--policy", "sampled").code == 0
    assert found()["ledger"]["prediction"].startswith("FQE of ")
    report.unlink()
    leave_evaluation(Path(checkpoint), details={"discount": 0.9})
    assert monitor(checkpoint, "tests/deployed-v0").code == 0
    assert "(discount 0.9, not 0.99)" in caplog.text


@pytest.mark.parametrize(
    "changes", [{"value": None}, {"interval": [1.0]}, {"status": 3, "value": "x"}]
)
def test_a_damaged_evaluation_is_one_line(
    checkpoint: str, monitor: Any, changes: dict[str, Any]
) -> None:
    leave_evaluation(Path(checkpoint), **changes)
    assert "is no report of" in monitor(checkpoint, "tests/deployed-v0").complaint


def test_a_prediction_is_not_compared_with_what_a_time_limit_cuts_off(
    sets: None, fit: Fit, monitor: Any
) -> None:
    cut = {"terminations": np.zeros(12, np.bool_), "truncations": np.arange(12) == 11}
    make_minari(random_episodes(40, 12, **cut), "tests/cut-v0")
    assert fit(data__dataset_id="tests/cut-v0", run_dir="run").code == 0
    done = monitor(CHECKPOINT, "tests/deployed-v0", "--predicted", "0", "-1", "1")
    assert "not applicable: 100% of the held-out episodes of the log are cut off" in done.out
    findings = {finding["name"]: finding["verdict"] for finding in found()["findings"]}
    assert findings["monitor_returns"] == findings["monitor_cusum"] == "not applicable"
    assert [curve["title"] for curve in found()["curves"]] == ["Evidence of a change", "Returns"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["none.ckpt", "tests/deployed-v0"], "`none.ckpt` is not there"),
        ([CHECKPOINT, "tests/discrete-v0"], "give episodes of the same task"),
        ([CHECKPOINT, "tests/otherunit-v0"], "in another unit"),
        ([CHECKPOINT, "tests/deployed-v0", "--delta", "2"], "`delta` must lie between"),
        ([CHECKPOINT, "tests/deployed-v0", "--predicted", "3", "4", "5"], "LOW <= MEAN <= HIGH"),
        ([CHECKPOINT, "tests/deployed-v0", "--policy", "best"], "policy"),
        ([CHECKPOINT, "tests/deployed-v0", "--threads", "-1"], "`--threads` must lie in [1, inf)"),
        ([CHECKPOINT, "tests/deployed-v0", "--seed", "-1"], "`--seed` must lie in [0, 4294967295]"),
        ([CHECKPOINT], "logs"),
    ],
)
def test_wrong_input_is_one_line(
    checkpoint: str, monitor: Any, arguments: list[str], complaint: str
) -> None:
    assert complaint in monitor(*arguments).complaint
    assert not list(Path("run").glob("monitor/**/*.html"))


def test_a_log_of_few_episodes_cannot_be_split(sets: None, fit: Fit, monitor: Any) -> None:
    assert fit(data__dataset_id="tests/few-v0", run_dir="run").code == 0
    assert "a monitor needs 8" in monitor(CHECKPOINT, "tests/deployed-v0").complaint


def test_logs_that_name_another_discount_are_refused(
    checkpoint: str, monitor: Any, data_folder: Path
) -> None:
    logs = own_episodes(checkpoint, "tests/discounted-v0", 2)
    path = data_folder / "minari" / logs / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"discount": 0.5}))
    assert "names the discount 0.5" in monitor(checkpoint, logs).complaint
    path.write_text(json.dumps(json.loads(path.read_text()) | {"discount": "half"}))
    assert "names the discount 'half', which is not a number" in monitor(checkpoint, logs).complaint


def test_another_log_under_the_same_name_is_refused(
    checkpoint: str, monitor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    make_minari(random_episodes(20, 12, seed=5), "tests/monitored-v0")
    make_minari(random_episodes(3, 12), "tests/deployed-v0")
    complaint = monitor(checkpoint, "tests/deployed-v0").complaint
    assert "is not what the checkpoint was trained on" in complaint
