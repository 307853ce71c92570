"""Run a callback on one rank and on two, in float64, and compare what it finds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from lit_offrl.algorithms import IQL
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.builtin import pendulum
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl_callbacks import kl_divergence
from lit_offrl_callbacks.diagnostic import Diagnostic
from lit_offrl_callbacks.kl_divergence import KLDivergence
from lit_offrl_callbacks.offline_online_gap import OfflineOnlineGap

ROOT = Path(__file__).parents[2]
CALLBACKS: dict[str, Callable[[], Diagnostic]] = {
    "kl": lambda: KLDivergence(rows=101),
    "gap": lambda: OfflineOnlineGap(episodes=3, starts=7),
}
Found = dict[str, dict[str, Any]]


def findings(name: str, devices: int) -> Found:
    """What is found after six updates; no split of the rows is even."""
    short = partial(cached_behavior, updates=60)
    data = OfflineDataModule(pendulum.DATASET_ID, batch_size=8, updates_per_epoch=6)
    torch.manual_seed(0)
    callback = CALLBACKS[name]()
    trainer = Trainer(
        max_steps=6,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kl_divergence, "cached_behavior", short)
        trainer.fit(IQL(data.obs_dim, data.action_dim, hidden=(8,)), data)
    assert trainer.world_size == devices
    return {key: finding.to_dict() for key, finding in callback.findings.items()}


def run_on_two_ranks(name: str, folder: Path) -> tuple[Found, list[Found]]:
    """Findings of one rank, and of each of two, in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.setenv("LIT_OFFRL_CACHE", str(folder / "cache"))
        pendulum.make(scale=0.02)
        one = findings(name, devices=1)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
        subprocess.run(
            [*command, "--standalone", __file__, name, str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=200,
            cwd=folder,
        )
    return one, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


if __name__ == "__main__":
    found = findings(sys.argv[1], devices=2)
    rank = torch.distributed.get_rank()
    (Path(sys.argv[2]) / f"rank{rank}.json").write_text(json.dumps(found))
