"""Train IQL on one or more ranks, in float64, and save what is found about its critic."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from lit_offrl.algorithms import IQL
from lit_offrl.data import OfflineDataModule
from lit_offrl.evaluation.diagnosis.q_sanity import QThresholds
from lit_offrl_callbacks.q_value_sanity import QValueSanity


def findings(devices: int) -> list[dict[str, Any]]:
    """What is found after six updates; no split of the rows is even."""
    data = OfflineDataModule("tests/small-v0", batch_size=8, updates_per_epoch=1)
    torch.manual_seed(0)
    algorithm = IQL(data.obs_dim, data.action_dim, hidden=(8,), discount=0.5)
    sanity = QValueSanity(rows=37, thresholds=QThresholds(burn_in=1))
    trainer = Trainer(
        max_steps=6,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        callbacks=[sanity],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(algorithm, data)
    assert trainer.world_size == devices
    return [finding.to_dict() for finding in sanity.findings.values()]


if __name__ == "__main__":
    found = findings(int(sys.argv[1]))
    rank = torch.distributed.get_rank()
    (Path(sys.argv[2]) / f"rank{rank}.json").write_text(json.dumps(found))
