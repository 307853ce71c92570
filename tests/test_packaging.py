from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lit_offrl
import lit_offrl_callbacks

ROOT = Path(__file__).resolve().parents[1]


def pinned() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_version_is_the_installed_one() -> None:
    assert lit_offrl.__version__ == metadata.version("lit_offrl")
    assert f'version = "{lit_offrl.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_both_packages_carry_their_types() -> None:
    for package in (lit_offrl, lit_offrl_callbacks):
        assert package.__file__ is not None
        assert (Path(package.__file__).parent / "py.typed").is_file()


def test_no_entry_point_puts_our_callbacks_into_foreign_trainers() -> None:
    groups = {point.group for point in metadata.distribution("lit_offrl").entry_points}
    assert groups == {"console_scripts"}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_pin_each_package_once_for_each_python(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = [p for p in pinned() if p.marker is None or p.marker.evaluate(environment)]
    names = [canonicalize_name(p.name) for p in pins]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"==[^,*]+", str(p.specifier)) for p in pins)


def test_constraints_pin_every_dependency_within_its_range() -> None:
    pins: dict[str, list[str]] = {}
    for pin in pinned():
        version = str(pin.specifier).removeprefix("==")
        pins.setdefault(canonicalize_name(pin.name), []).append(version)
    dependencies = [Requirement(line) for line in metadata.requires("lit_offrl") or []]
    for dependency in dependencies:
        if dependency.marker is not None and not dependency.marker.evaluate({"extra": "dev"}):
            continue
        versions = pins[canonicalize_name(dependency.name)]
        assert all(dependency.specifier.contains(version) for version in versions), dependency


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "clean"])
def test_make_knows_the_target(target: str) -> None:
    run = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"make {target} " in listed.stdout


@pytest.mark.parametrize("constraints", ["constraints.txt", ""])
def test_the_constraints_of_make_can_be_left_out(constraints: str, tmp_path: Path) -> None:
    run = subprocess.run(
        ["make", "--dry-run", "demo", f"VENV={tmp_path}", f"CONSTRAINTS={constraints}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    install = next(line for line in run.stdout.splitlines() if "pip install" in line)
    assert ("-c constraints.txt" in install) == bool(constraints)


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text().splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        # the build backend is there already: nothing has to be fetched
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("lit_offrl-*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_both_packages_and_the_configs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    modules = {path.relative_to(ROOT) for path in (ROOT / "lit_offrl").rglob("*.py")}
    callbacks = ROOT / "callbacks"
    modules |= {path.relative_to(callbacks) for path in callbacks.rglob("*.py")}
    assert configs and modules
    assert {f"lit_offrl/{path.as_posix()}" for path in configs} <= names
    assert {path.as_posix() for path in modules} <= names
    assert {"lit_offrl/py.typed", "lit_offrl_callbacks/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "lit_offrl",
        "lit_offrl_callbacks",
    }


RUN_A_CONFIG = """
import lit_offrl, lit_offrl_callbacks
from lit_offrl.cli import main
from lit_offrl.data.builtin import BUILTIN, pendulum

BUILTIN[pendulum.DATASET_ID] = lambda: pendulum.make(scale=0.02)
main(["fit", "-c", "smoke.yaml", "--trainer.max_steps=4", "--run_dir=run"])
print("FILES", lit_offrl.__file__, lit_offrl_callbacks.__file__)
"""


@pytest.mark.slow
def test_the_installed_wheel_runs_a_config_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site, place = tmp_path / "site", tmp_path / "elsewhere"
    place.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(site), str(wheel)], check=True, capture_output=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "MINARI_DATASETS_PATH": str(tmp_path / "minari"),
        "LIT_OFFRL_CACHE": str(tmp_path / "cache"),
    }
    run = subprocess.run(
        [sys.executable, "-c", RUN_A_CONFIG],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    files = run.stdout.rpartition("FILES ")[2].split()
    assert len(files) == 2
    assert all(Path(file).is_relative_to(site) for file in files)
    assert (place / "run" / "checkpoints" / "last.ckpt").is_file()
