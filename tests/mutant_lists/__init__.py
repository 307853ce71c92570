"""Mistakes put into the code on purpose, to see that a test fails; run by ``tests/mutants.py``."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One mistake.

    Args:
        name: What is wrong, in words.
        file: File under ``lit_offrl/``.
        old: Text that stands in the file exactly once.
        new: What takes its place.
        tests: Test files under ``tests/`` of which one must fail.
        survives: Why no test can tell it from the right code; empty if one must.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""
