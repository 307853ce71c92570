"""Check the tests: put each listed mistake into a copy of the package and see a test fail.

python -m tests.mutants                      # all
python -m tests.mutants iql cql              # those of two documents
python -m tests.mutants --write              # all, and write docs/mutants/<document>.md
"""

import argparse
import importlib
import multiprocessing
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import lightning  # noqa: F401  # imported once, before forking
import pytest
import torch

from tests import mutant_lists
from tests.mutant_lists import Mutant

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lit_offrl", "callbacks", "tests", "pyproject.toml")
SLACK = 60.0
"""A mutant hangs, and counts as caught, after three times what its tests take and these seconds."""


def all_mutants() -> dict[str, list[Mutant]]:
    """Mutants by the document that records them."""
    mutants: dict[str, list[Mutant]] = {}
    for module in pkgutil.iter_modules(mutant_lists.__path__):
        found = importlib.import_module(f"tests.mutant_lists.{module.name}").MUTANTS
        for document, entries in found.items():
            mutants.setdefault(document, []).extend(entries)
    return mutants


class FirstFailure:
    """Pytest plugin that remembers the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid.removeprefix("tests/")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (import)"


def _run_child(copy: Path, tests: tuple[str, ...], seconds: float, results: Connection) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    os.chdir(copy)
    for name in [m for m in sys.modules if m.split(".")[0] in ("lit_offrl", "tests")]:
        del sys.modules[name]
    # "" and the repository would come before the copy
    sys.path[:] = [str(copy)] + [p for p in sys.path if p and Path(p).resolve() != ROOT]
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    first = FirstFailure()
    arguments = ["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    code = pytest.main(arguments, plugins=[first])
    import lit_offrl

    if not Path(str(lit_offrl.__file__)).is_relative_to(copy):
        first.name = "WRONG PACKAGE IMPORTED"
    results.send((int(code), first.name))


def run_tests(copy: Path, tests: tuple[str, ...], seconds: float = 0.0) -> tuple[int, str]:
    """Run test files in the copy: pytest's exit code and the first failed test.

    Args:
        copy: Copy of the repository.
        tests: Files under its ``tests``.
        seconds: After which they count as hanging; 0 for never.
    """
    context = multiprocessing.get_context("fork")  # saves importing torch each time
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_child, args=(copy, tests, seconds, sender))
    child.start()
    sender.close()
    try:
        result: tuple[int, str] = receiver.recv()
    except EOFError:
        result = (1, "(crashed or hung)")
    child.join()
    return result


def seconds_unharmed(copy: Path, document: str, tests: tuple[str, ...]) -> float:
    """Time the tests take without any mutant, and end the program if one fails."""
    start = time.monotonic()
    code, name = run_tests(copy, tests)
    if code:
        raise SystemExit(f"{document}: {name or tests} fails without any mutant.")
    return time.monotonic() - start


def outcome(copy: Path, mutant: Mutant, seconds: float) -> str:
    """Name of the test that catches the mutant within some seconds, or an empty string."""
    file = copy / "lit_offrl" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} holds {text.count(mutant.old)} times:\n{mutant.old}")
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        code, name = run_tests(copy, mutant.tests, seconds)
    finally:
        file.write_text(text)
    return name if code else ""


def table(rows: list[tuple[Mutant, str]]) -> str:
    """Markdown table of mutants and what caught them."""
    lines = ["| mutant | file | caught by |", "|---|---|---|"]
    for mutant, test in rows:
        caught = f"`{test}`" if test else f"not caught: {mutant.survives or 'TO DO'}"
        lines.append(f"| {mutant.name} | `{mutant.file}` | {caught} |".replace("||", "\\|\\|"))
    return "\n".join(lines)


def main() -> int:
    """Run the mutants; the exit code is 1 if one survives without a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", nargs="*", help="documents to run; all if none is given")
    parser.add_argument("--write", action="store_true", help="write docs/mutants/<document>.md")
    parser.add_argument("--only", default="", help="run those whose name holds this text")
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("--write needs all mutants of a document")
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)

    failed = False
    mutants = all_mutants()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        for document in options.documents or sorted(mutants):
            chosen = [m for m in mutants[document] if options.only in m.name]
            unharmed = {t: seconds_unharmed(copy, document, t) for t in {m.tests for m in chosen}}
            rows = []
            print(f"\n## {document}", flush=True)
            for mutant in chosen:
                test = outcome(copy, mutant, 3 * unharmed[mutant.tests] + SLACK)
                failed |= not test and not mutant.survives
                failed |= test == "WRONG PACKAGE IMPORTED"
                rows.append((mutant, test))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
            if options.write:
                target = ROOT / "docs" / "mutants" / f"{document}.md"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(f"# Mutants: {document}\n\n{INTRODUCTION}\n\n{table(rows)}\n")
    return int(failed)


INTRODUCTION = (
    "Each mistake was put into the code alone; the first test that failed stands beside it.\n"
    "Run again with `python -m tests.mutants --write`."
)

if __name__ == "__main__":
    raise SystemExit(main())
