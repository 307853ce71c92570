"""Every command and every piece of code that the READMEs show does what they say."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from examples import demo
from lit_offrl.cli import main
from lit_offrl.data.builtin import BUILTIN, gridworld, pendulum
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.evaluation.behavior.fit import fit_behavior
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.policy_evaluation import OffPolicyOptions, PolicyEvaluation
from lit_offrl_callbacks.diagnostic import Diagnostic
from tests.callbacks.training import data_module, fit

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CALLBACKS = (ROOT / "callbacks" / "README.md").read_text(encoding="utf-8")
TINY = [
    "--trainer.max_steps=8",
    "--trainer.accelerator=cpu",
    "--model.hidden=[8, 8]",
    "--data.batch_size=8",
    "--data.updates_per_epoch=8",
    "--evaluation.episodes=1",
    "--gap.episodes=2",
]
QUICK: dict[str, Any] = {"fqe_updates": 60, "model_updates": 40, "rollouts": 50, "resamples": 100}
FEW_STEPS = ["--steps=40", "--eval_every=20", "--eval_episodes=2", "--before_episodes=2"]
QUICKLY = [f"--{name}={value}" for name, value in QUICK.items()]


def blocks(text: str, language: str) -> list[str]:
    """Code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """Words of each command of the bash blocks, and of the sentences between."""
    shown = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`((?:lit-offrl|make|pip) [^`]+)`", " ".join(prose.split()))
    found = (shlex.split(line, comments=True) for line in [*shown, *inline])
    return [words for words in found if words and words != ["lit-offrl", "fit"]]


@pytest.fixture(autouse=True)
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, built-in sets of a few episodes, and hasty behavior models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BUILTIN, pendulum.DATASET_ID, lambda: pendulum.make(scale=0.05))
    monkeypatch.setitem(BUILTIN, gridworld.DATASET_ID, lambda: gridworld.make(scale=0.05))
    for function in (cached_behavior, fit_behavior):
        defaults = function.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "updates", 20)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # which seed_everything sets
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


def run_shell_command(words: list[str]) -> None:
    """Do what a command does, smaller; fail at one that this test does not know."""
    match words:
        case ["lit-offrl", "fit", *options] if options[-1] == "--help" or "help" in options[0]:
            with pytest.raises(SystemExit) as end:
                main(words[1:])
            assert end.value.code == 0
        case ["lit-offrl", "fit", "-c", "config.yaml"]:
            config = min(Path("runs").glob("*/*/*/config.yaml"))
            main(["fit", "-c", str(config)])
            again = config.parent.with_name(f"{config.parent.name}-2")
            assert (again / "checkpoints" / "last.ckpt").is_file()
        case ["lit-offrl", "fit", *options]:
            main(["fit", *options, *TINY])
        case ["lit-offrl", "evaluate", checkpoint, *options]:
            fewer = ["--online=2"] if "--online" in options else []
            main(["evaluate", checkpoint, *options, *fewer, *QUICKLY])
            assert (Path(checkpoint).parents[1] / "evaluation" / "best" / "report.html").is_file()
        case ["lit-offrl", "finetune", checkpoint, *_]:
            main(["finetune", checkpoint, *FEW_STEPS])
        case ["lit-offrl", "collect", *options]:
            main(["collect", *options, "--steps=400"])
        case ["lit-offrl", "export", checkpoint]:
            main(["export", checkpoint])
            assert (Path(checkpoint).parents[1] / "export" / "best" / "policy.onnx").is_file()
        case ["lit-offrl", "inspect", *options]:
            main(["inspect", *options, "--behavior_updates=20"])
            assert Path("runs/inspect/pendulum-mixed/report.html").is_file()
        case ["lit-offrl", "monitor", *options]:
            main(["monitor", *options, "--model_updates=40"])
        case ["make", target, *variables]:
            command = ["make", "--dry-run", "-C", str(ROOT), target, *variables]
            subprocess.run(command, check=True, capture_output=True)
        case ["pip", "install", place]:
            check_extras(place)
        case _:
            pytest.fail(f"README shows `{shlex.join(words)}`, which no test runs")


def check_extras(place: str) -> None:
    """Check that ``.[extra]`` asks for extras that there are."""
    assert place.startswith(".")
    text = (ROOT / "pyproject.toml").read_text()
    extras = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    names = set(re.findall(r"^(\w+) =", extras, re.MULTILINE))
    assert Requirement(f"lit_offrl{place[1:]}").extras <= names


@pytest.mark.slow
def test_the_readme_can_be_followed_from_top_to_bottom() -> None:
    shown = commands(README)
    for prefix in ("make demo", "make test", "lit-offrl fit", "lit-offrl evaluate", "pip install"):
        assert any(words[:2] == prefix.split() for words in shown)
    runs = [words for words in shown if words[:2] == ["lit-offrl", "fit"]]
    for words in sorted(runs, key=lambda words: "config.yaml" in words):  # needs a run before
        run_shell_command(words)
    check_files_of_a_run()
    for words in shown:
        if words not in runs:
            run_shell_command(words)

    use, train, watch, judge = blocks(README, "python")
    namespace: dict[str, Any] = {}
    exec(use, namespace)
    assert namespace["action"].shape == (1,)
    assert namespace["action"].dtype == np.float32
    exec(changed(train, r"max_steps=\d+", "max_steps=16"), namespace)
    assert namespace["model"].trainer.global_step == 16
    assert namespace["model"].expectile == 0.9
    exec(changed(watch, r"max_steps=\d+", "max_steps=16"), namespace)
    assert "q_bounds" in namespace["watch"].findings
    namespace["quick"] = OffPolicyOptions(**QUICK)
    exec(changed(judge, r"model\.discount\)", "model.discount, quick)"), namespace)
    found: PolicyEvaluation = namespace["found"]
    assert next(e.name for e in found.estimates if e.value is not None) == "FQE"


def changed(code: str, pattern: str, replacement: str) -> str:
    """Code with the one place that matches the pattern replaced, so that it takes less time."""
    fewer, count = re.subn(pattern, replacement, code)
    assert count == 1, pattern
    return fewer


def check_files_of_a_run() -> None:
    """Check that the files of the README's table are in the folder that it names."""
    folder = Path("runs/pendulum-mixed/iql/seed-0")
    table = README.partition("| file |")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines() for name in re.findall(r"`([^` ]+)`", row[:60])]
    assert len(names) == 9
    names.remove("checkpoints/previous.ckpt")  # these runs have one epoch
    for name in names:
        assert (folder / name).exists() or (folder / "checkpoints" / name).exists(), name


SHRUNK = {
    "evaluation": (r"OffPolicyOptions\(\)", f"OffPolicyOptions(**{QUICK})"),
    "inspecting": (r'inspect\("pendulum/mixed"\)', 'inspect("pendulum/mixed", 20)'),
    "monitoring": (r"policy\.scaling\)", "policy.scaling, updates=20)"),
    "finetuning": (r"steps=2_000", "steps=40"),
}


@pytest.mark.slow
def test_the_python_of_the_pages_runs() -> None:
    main(["fit", "-c", str(ROOT / "configs/iql/classic_control.yaml"), *TINY])
    for page, change in SHRUNK.items():
        (code,) = blocks((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), "python")
        exec(changed(code, *change), {})


def test_the_callback_of_the_callbacks_readme_runs() -> None:
    _, code = blocks(CALLBACKS, "python")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    callback: Diagnostic = namespace["ActionSaturation"]()
    trainer = fit(data_module(), callback)
    assert 0 <= trainer.callback_metrics["policy/saturation"] <= 1
    assert callback.findings["policy_saturation"].verdict == "ok"
    assert commands(CALLBACKS) == []


def test_the_module_of_the_callbacks_readme_is_trained_and_watched() -> None:
    code, _ = blocks(CALLBACKS, "python")
    code = changed(code, r"max_steps=\d+", "max_steps=16")
    namespace: dict[str, Any] = {}
    exec(changed(code, r"updates_per_epoch=\d+", "updates_per_epoch=8"), namespace)
    assert namespace["model"].trainer.global_step == 16
    found: dict[str, Finding] = {}
    for callback in (c for c in namespace["watching"] if isinstance(c, Diagnostic)):
        assert [point["update"] for point in callback.history] == [8, 16]
        found |= callback.findings
    for name in ("q_bounds", "q_vs_mc", "q_td_error", "q_nan"):
        assert found[name].verdict != "not applicable", found[name]
    assert found["kl_behavior"].value is not None


def test_the_config_of_the_callbacks_readme_is_accepted() -> None:
    (text,) = blocks(CALLBACKS, "yaml")
    Path("callbacks.yaml").write_text(text)
    options = ["--model", "IQL", "--data.dataset_id", "pendulum/mixed", "--run_dir", "run"]
    main(["fit", *options, "-c", "callbacks.yaml", *TINY])
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    (callback,) = saved["trainer"]["callbacks"]
    assert callback["class_path"].endswith("StopOnFinding")
    for group in ("evaluation", "q_values", "gap"):
        assert yaml.safe_load(text)[group].items() <= saved[group].items() | {("episodes", 20)}
    assert Path("run/checkpoints/sound.ckpt").is_file()


def test_an_unknown_command_in_a_readme_is_noticed() -> None:
    unknown = commands("Type `make coffee`.\n\n```bash\nlit-offrl \\\n  fry x  # now\n```\n")
    assert unknown == [["lit-offrl", "fry", "x"], ["make", "coffee"]]
    with pytest.raises(subprocess.CalledProcessError):
        run_shell_command(unknown[1])
    with pytest.raises(pytest.fail.Exception):
        run_shell_command(unknown[0])


@pytest.mark.slow
def test_the_demo_ends_in_a_table_and_says_where_everything_lies(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(demo, "EPISODES", 2)
    monkeypatch.setattr(demo, "QUICK", QUICKLY)
    tiny = {name: [*words, *TINY] for name, words in demo.SETTINGS.items()}
    monkeypatch.setattr(demo, "SETTINGS", tiny)
    demo.demo()
    out = capsys.readouterr().out
    table = out[out.index("pendulum/mixed") :]
    for row in (r"data \(\d+ episodes\)", r"BC, last checkpoint", r"IQL, last checkpoint"):
        assert re.search(rf"{row}.*-?\d+ ± \d+", table), row
    assert re.search(r"The highest mean return is that of (data|BC|IQL)\.", table)
    assert re.search(r"^[✔✘?] (USE|DO NOT USE|NOT SHOWN): ", table, re.MULTILINE)
    for name in ("BC", "IQL"):
        path = re.search(rf"{name} checkpoint: (\S+)", table)
        assert path is not None and Path(path[1]).is_file()
    plot = re.search(r"plot: (\S+)", table)
    assert plot is not None and Path(plot[1]).read_bytes().startswith(b"\x89PNG")
    log = re.search(r"TensorBoard: tensorboard --logdir (\S+)\n", table)
    assert log is not None and list(Path(log[1]).glob("*/tensorboard/events*"))
