"""Checkpoints that are whole at every moment, through Lightning's CheckpointIO."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_offrl.files import write_whole

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all; the ``last.ckpt`` before stays as ``previous.ckpt``.

    A plugin for any Trainer with a local folder: ``Trainer(plugins=[WholeCheckpointIO()])``.
    Lightning's own writer does not wait for the disk, and puts the file together in the system's
    temporary folder: where that is another file system, it ends by copying over the old file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; called on rank 0 alone.

        Args:
            checkpoint: State of the training.
            path: The file, local.
            storage_options: Not supported, as in Lightning's own.

        Raises:
            OSError: If the disk is full or fails. The checkpoints before are still whole.
        """
        if storage_options is not None:
            raise TypeError("WholeCheckpointIO takes no `storage_options`.")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # by way of memory, so that a full disk is an OSError and not one of torch's own
        torch.save(checkpoint, buffer := io.BytesIO())
        keep_as = path.with_name(PREVIOUS) if path.name == LAST else None
        write_whole(path, buffer.getbuffer(), keep_as)
