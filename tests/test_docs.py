"""What the pages say of the code: logged metrics, arguments, and links that lead somewhere."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from lit_offrl import algorithms
from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.batch import Batch

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))
NAMES = sorted(set(algorithms.__all__) - {"OfflineAlgorithm"})
SECTIONS = ["Equations", "Departures", "Logged metrics", "When it fails"]

every_algorithm = pytest.mark.parametrize("name", NAMES)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def page_of(cls: type) -> str:
    name = cls.__module__.rpartition(".")[2]
    return (ROOT / "docs" / "algorithms" / f"{name}.md").read_text(encoding="utf-8")


def logged(algorithm: OfflineAlgorithm) -> set[str]:
    """Keys of two updates, since TD3+BC steps its policy in every second."""
    rows = torch.randn(4, 3)
    action = torch.randint(2, (4,)) if algorithm.actions == "discrete" else torch.rand(4, 2)
    batch = Batch(rows, action, torch.randn(4), rows.flip(0), torch.zeros(4))
    keys: set[str] = set()
    for algorithm.update_number in range(2):
        keys |= algorithm.update(batch).keys()
    return keys


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


@every_algorithm
def test_page_lists_exactly_the_metrics_that_an_update_returns(name: str) -> None:
    cls = getattr(algorithms, name)
    table = section(page_of(cls), "Logged metrics")
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == logged(cls(3, 2))


@every_algorithm
def test_class_docstring_explains_every_argument(name: str) -> None:
    cls = getattr(algorithms, name)
    arguments = re.findall(r"^ {8}(\w+): ", cls.__doc__.split("Args:")[1], re.MULTILINE)
    if not arguments:  # Python 3.13 strips the indentation
        arguments = re.findall(r"^ {4}(\w+): ", cls.__doc__.split("Args:")[1], re.MULTILINE)
    assert arguments == list(inspect.signature(cls).parameters)


@every_page
def test_page_has_its_sections_and_a_row_in_the_index(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert f"(algorithms/{page.name})" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@every_page
def test_departures_are_numbered_from_one(page: Path) -> None:
    departures = section(page.read_text(encoding="utf-8"), "Departures")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", departures, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


@pytest.mark.parametrize(
    "page",
    sorted((ROOT / "docs").rglob("*.md")),
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
