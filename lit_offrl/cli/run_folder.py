"""The folder of a run: which one, what a run may go on from, and what one that failed leaves."""

import contextlib
import logging
import os
import shutil
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lit_offrl.checkpoint import latest_checkpoint
from lit_offrl.checkpoint_io import LAST
from lit_offrl.errors import InputError
from lit_offrl.files import copy_whole

_log = logging.getLogger(__name__)
RUN_DIR = "LIT_OFFRL_RUN_DIR"
"""Environment variable that tells the folder to the processes that Lightning starts."""


def clear(folder: Path, kept: set[Path], missing: list[Path]) -> None:
    """Remove what a run that came to nothing wrote, and the folders that it made."""
    for path in set(folder.iterdir()) - kept:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others may have written there
        for path in missing:
            path.rmdir()


def latest(folder: Path) -> str | None:
    """Latest whole checkpoint in a folder; a damaged ``last.ckpt`` gives way to the one before."""
    found = latest_checkpoint(folder)
    if found is None:
        _say(f"There is no checkpoint in {folder}: starting from the first update.")
    elif found.name != LAST:
        _say(f"{folder / LAST} is missing or damaged: going on from {found.name}.")
        rank_zero_only(copy_whole)(found, folder / LAST)
    return None if found is None else str(found)


@rank_zero_only
def _say(text: str) -> None:
    _log.warning(text)


def run_folder(run_dir: str | None, base: Path, ckpt_path: str | None) -> Path:
    """Folder of this run: the one asked for, else the next free one of a name.

    Args:
        run_dir: Folder that was asked for.
        base: Else this one, numbered if taken.
        ckpt_path: ``last`` goes on in the latest of these.
    """
    if named := run_dir or os.environ.get(RUN_DIR):
        return Path(named)
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ:
        raise InputError("With several processes, name their common folder with `--run_dir`.")
    taken = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
    free = next(i for i, folder in enumerate(taken) if not folder.exists())
    folder = taken[max(free - 1, 0) if ckpt_path == "last" else free]
    os.environ[RUN_DIR] = str(folder)  # for the processes that Lightning starts
    return folder


def refuse_used(folder: Path) -> None:
    """Raise InputError if a folder holds checkpoints, which a run from the start would replace."""
    if any(folder.glob("checkpoints/*.ckpt")):
        raise InputError(
            f"{folder} holds the checkpoints of another run: go on with that one "
            "(`--ckpt_path last`), or name another folder with `--run_dir`."
        )


def run_of(checkpoint: Path) -> Path:
    """Folder of the run that left a checkpoint."""
    return (
        checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    )


def dataset_folder(dataset_id: str) -> str:
    """Name of a data set as a folder.

    >>> dataset_folder("hopper/medium-v0")
    'hopper-medium-v0'
    """
    return dataset_id.removesuffix(".hdf5").strip("/.").replace("/", "-")
