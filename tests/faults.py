"""A process that dies at a chosen system call, and a disk that is full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = (
    *((os, name) for name in ("fsync", "link", "replace", "remove")),
    *((Path, name) for name in ("open", "unlink")),
)


class Killed(BaseException):
    """Stands for SIGKILL: no later system call does anything."""


@contextmanager
def killed_at(call: int) -> Iterator[list[str]]:
    """Let the first ``call`` file operations pass, and none after them; yields their names.

    What was not synced by then is lost but for a few bytes.
    """
    passed: list[str] = []

    def mortal(name: str, real: Any) -> Any:
        def do(*args: Any, **kwargs: Any) -> Any:
            if len(passed) >= call:
                if name == "fsync" and os.stat(args[0]).st_size > 10 and not _is_folder(args[0]):
                    os.ftruncate(args[0], 10)
                raise Killed
            passed.append(name)
            return real(*args, **kwargs)

        return do

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, mortal(name, getattr(owner, name)))
        yield passed


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _is_folder(descriptor: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{descriptor}")
