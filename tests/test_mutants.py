"""The listed mutants: that each can still be put into the code, and that its page knows it."""

from pathlib import Path

import pytest

from tests.mutant_lists import Mutant
from tests.mutants import all_mutants

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("document", "mutants"), all_mutants().items())
def test_each_mutant_has_its_place_in_the_code_and_on_its_page(
    document: str, mutants: list[Mutant]
) -> None:
    for mutant in mutants:
        code = (ROOT / "lit_offrl" / mutant.file).read_text(encoding="utf-8")
        assert code.count(mutant.old) == 1, mutant.name
    path = ROOT / "docs" / "mutants" / f"{document}.md"
    if path.is_file():  # those of compiled updates take an hour to run
        page = path.read_text(encoding="utf-8")
        assert [m.name for m in mutants if f"| {m.name} |" not in page] == []
        assert "TO DO" not in page
