"""Minari sets in the user's folder: found, made here, or downloaded by Minari's own client."""

import difflib
import logging
import os
from pathlib import Path

import minari
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage.datasets_root_dir import get_dataset_path

from lit_offrl.data import builtin
from lit_offrl.data.cache import locked
from lit_offrl.data.soundness import one_line
from lit_offrl.errors import InputError


def locate(dataset_id: str, get: bool = True) -> tuple[str, Path]:
    """Find, make or download a set; return its full id and its ``data`` folder.

    Args:
        dataset_id: Its id.
        get: Whether to make or download what is not there.
    """
    if not (path := _data_path(dataset_id)).is_dir():
        if not get:
            raise InputError(f"There is no data set `{dataset_id}` on this machine.")
        full_id = builtin.resolve(dataset_id)
        with locked(f"get-{full_id or dataset_id}"):
            if full_id is not None:
                builtin.ensure(full_id)
                dataset_id = full_id
            elif not path.is_dir():  # no other process got it while this one waited
                _download(dataset_id)
        path = _data_path(dataset_id)
    return dataset_id, path


def _data_path(dataset_id: str) -> Path:
    try:
        return Path(get_dataset_path(dataset_id)) / "data"
    except OSError as error:
        raise InputError(
            f"Minari's folder cannot be used ({error}): set MINARI_DATASETS_PATH to another."
        ) from None


def _download(dataset_id: str) -> None:
    root = _data_path("").parent
    try:
        parse_dataset_id(dataset_id)
        print(f"Looking for {dataset_id} on Minari's server ...", flush=True)
        logging.disable(logging.WARNING)  # without a network, its client logs each attempt
        minari.download_dataset(dataset_id)
    except Exception as error:
        # Minari's client, its hub and the network below all have errors of their own; and
        # parse_dataset_id fails with TypeError where the version is missing.
        reason = "an id ends in -v0, -v1, …" if isinstance(error, TypeError) else one_line(error)
        raise InputError(
            f"Unknown data set `{dataset_id}`: it is not in {root}, not built in, and cannot be "
            f"downloaded ({reason}).{_suggestion(dataset_id, root)}"
        ) from None
    finally:
        logging.disable(logging.NOTSET)


def _suggestion(dataset_id: str, root: Path) -> str:
    """Name what the user may have meant."""
    known = set(builtin.BUILTIN)
    for folder, subfolders, _ in os.walk(root):
        if "data" in subfolders:
            known.add(Path(folder).relative_to(root).as_posix())
            subfolders.clear()
    close = difflib.get_close_matches(dataset_id, sorted(known), n=3, cutoff=0.5)
    names = ", ".join(f"`{name}`" for name in close or sorted(known)[:8])
    return f" Did you mean {names}?" if close else f" There are {names}."
