"""Back to an earlier checkpoint of the run."""

from pathlib import Path

from lightning import LightningModule, Trainer

from lit_offrl.checkpoint import read_checkpoint
from lit_offrl.checkpoint_io import LAST
from lit_offrl.files import copy_whole


def rewind(trainer: Trainer, pl_module: LightningModule, checkpoint: Path) -> None:
    """Give the module a checkpoint's weights, and make it the ``last.ckpt`` of its folder.

    Args:
        trainer: The run, on every rank.
        pl_module: What is trained.
        checkpoint: An earlier checkpoint of it.
    """
    pl_module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    if trainer.is_global_zero:
        copy_whole(checkpoint, checkpoint.with_name(LAST))
    trainer.strategy.barrier()
