"""A run of the Trainer in a folder of its own; one that comes to nothing leaves nothing."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO

from lit_offrl.checkpoint_io import WholeCheckpointIO
from lit_offrl.cli.logs import MetricsLogger
from lit_offrl.cli.parsing import make_writable
from lit_offrl.cli.run_folder import clear
from lit_offrl.cpu import prepare_cpu
from lit_offrl.data import OfflineDataModule
from lit_offrl.errors import InputError
from lit_offrl.files import remove_leftovers


def loggers_of(folder: Path) -> list[Logger]:
    """TensorBoard and CSV logs in a run's folder."""
    return [
        TensorBoardLogger(folder, name="tensorboard", version=""),
        MetricsLogger(folder, name="csv", version=""),
    ]


def with_whole_checkpoints(plugins: Any) -> list[Any]:
    """Add the writer of whole checkpoints to a Trainer's plugins, unless they have a writer."""
    given = list(plugins) if isinstance(plugins, list) else [plugins] * (plugins is not None)
    if any(isinstance(plugin, CheckpointIO) for plugin in given):
        return given
    return [*given, WholeCheckpointIO()]


@contextlib.contextmanager
def refusals_in_one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Make one line of what Lightning refuses: its first sentence.

    Args:
        *kinds: What else counts as a refusal within this block.
    """
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())
        refused = isinstance(error, (MisconfigurationException, *kinds))
        refused |= text.startswith("Early stopping conditioned on")  # a RuntimeError
        if isinstance(error, InputError) or not refused:
            raise
        text = re.sub(r"<(?:\w+\.)*(\w+) object at \w+>", r"\1", text)
        sentence = re.split(r"[.!](?: (?=[A-Z])|$)", text)[0]
        raise InputError(f"Lightning refuses this run's options: {sentence}.") from error


def run(
    trainer: Trainer,
    make_module: Callable[[], LightningModule],
    datamodule: OfflineDataModule,
    folder: Path,
    resumed: str | None,
    product: int,
) -> None:
    """Train; without any checkpoint to show for it, remove what was written.

    Args:
        trainer: Lightning's.
        make_module: Makes what is trained.
        datamodule: What it is trained on.
        folder: The run's folder.
        resumed: Checkpoint to go on from.
        product: FLOP of the largest matrix product, which the number of threads depends on.
    """
    leads = trainer.is_global_zero  # others would find the folder gone where this one has failed
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    before: set[Path] = set()
    if leads:
        make_writable(folder, "--run_dir")
        before = set(folder.iterdir())
    try:
        if leads:
            for place in (folder, folder / "checkpoints"):
                remove_leftovers(place)
        module = make_module()
        if isinstance(trainer.accelerator, CPUAccelerator):
            prepare_cpu(product, trainer.world_size)
        with refusals_in_one_line():
            trainer.fit(module, datamodule, ckpt_path=resumed, weights_only=True)
    except BaseException as error:
        if leads and not any(folder.glob("checkpoints/*.ckpt")):
            clear(folder, before, missing)
        if isinstance(error, SystemExit):  # what Lightning makes of it
            raise KeyboardInterrupt from None
        raise
