"""Minari sets that come into place in one step, so that an interruption leaves none in part."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from minari.namespace import create_namespace, list_local_namespaces


def minari_root() -> Path:
    """Find the user's Minari folder, which Minari's own function would create."""
    folder = os.environ.get("MINARI_DATASETS_PATH")
    return Path.home() / ".minari" / "datasets" if folder is None else Path(folder)


def is_made(root: Path, dataset_id: str) -> bool:
    """Whether a set is there."""
    return (root / dataset_id / "data" / "metadata.json").is_file()


def make_whole(
    root: Path, dataset_id: str, recipe: Callable[[], object], descriptions: dict[str, str]
) -> None:
    """Make a set unless it is there, in a folder that Minari does not list, then move it.

    Processes may race: one makes its set, the others wait.

    Args:
        root: The user's Minari folder.
        dataset_id: Id of the set.
        recipe: Writes it with Minari's own functions.
        descriptions: What is said of namespaces that are new.
    """
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lit_offrl.lock"):
        if not is_made(root, dataset_id):
            _make(root, dataset_id, recipe, descriptions)


def _make(
    root: Path, dataset_id: str, recipe: Callable[[], object], descriptions: dict[str, str]
) -> None:
    """Make it; the lock is held."""
    partial = root / ".lit_offrl-partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        with _minari_folder(partial):
            recipe()
        parts = dataset_id.split("/")[:-1]
        known = list_local_namespaces()
        for namespace in ("/".join(parts[: i + 1]) for i in range(len(parts))):
            if namespace not in known:
                create_namespace(namespace, descriptions.get(namespace))
        os.replace(partial / dataset_id, root / dataset_id)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _minari_folder(path: Path) -> Iterator[None]:
    """Let Minari write somewhere else for a while."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
