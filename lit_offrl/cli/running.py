"""A run of the Trainer in a folder of its own; one that comes to nothing leaves nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO

from lit_offrl.checkpoint_io import WholeCheckpointIO
from lit_offrl.cli.logs import MetricsLogger
from lit_offrl.cli.parsing import make_writable
from lit_offrl.cli.run_folder import clear
from lit_offrl.cpu import prepare_cpu
from lit_offrl.data import OfflineDataModule
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
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set() if missing else set(folder.iterdir())
    make_writable(folder, "--run_dir")
    try:
        if trainer.is_global_zero:
            for place in (folder, folder / "checkpoints"):
                remove_leftovers(place)
        module = make_module()
        if isinstance(trainer.accelerator, CPUAccelerator):
            prepare_cpu(product, trainer.world_size)
        trainer.fit(module, datamodule, ckpt_path=resumed, weights_only=True)
    except BaseException as error:
        if not any(folder.glob("checkpoints/*.ckpt")):
            clear(folder, before, missing)
        if isinstance(error, SystemExit):  # what Lightning makes of it
            raise KeyboardInterrupt from None
        raise
