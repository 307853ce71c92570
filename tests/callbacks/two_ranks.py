"""Run a callback on one rank and on two, in float64, and compare what it finds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_offrl.algorithms import IQL
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.builtin import pendulum
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.evaluation.diagnosis.q_sanity import QThresholds
from lit_offrl_callbacks import kl_divergence
from lit_offrl_callbacks.diagnostic import Diagnostic
from lit_offrl_callbacks.kl_divergence import KLDivergence
from lit_offrl_callbacks.offline_online_gap import OfflineOnlineGap
from lit_offrl_callbacks.q_value_sanity import QValueSanity
from tests.ranks import on_ranks, quiet_trainer

CALLBACKS: dict[str, Callable[[], Diagnostic]] = {
    "kl": lambda: KLDivergence(rows=101),
    "gap": lambda: OfflineOnlineGap(episodes=5, starts=7),
    "q_values": lambda: QValueSanity(rows=37, thresholds=QThresholds(burn_in=1)),
}
Found = dict[str, dict[str, Any]]


def findings(name: str, *, devices: int) -> Found:
    """What is found after six updates; no split of the rows is even."""
    short = partial(cached_behavior, updates=60)
    data = OfflineDataModule(pendulum.DATASET_ID, batch_size=8, updates_per_epoch=2)
    torch.manual_seed(0)
    callback, iql = CALLBACKS[name](), IQL(data.obs_dim, data.action_dim, hidden=(8,))
    trainer = quiet_trainer(devices, max_steps=6, callbacks=[callback])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kl_divergence, "cached_behavior", short)
        trainer.fit(iql, data)
    assert trainer.world_size == devices
    return {key: finding.to_dict() for key, finding in callback.findings.items()}


def run_on_two_ranks(name: str, folder: Path) -> tuple[Found, list[Found]]:
    """Findings of one rank, and of each of two, in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.setenv("LIT_OFFRL_CACHE", str(folder / "cache"))
        pendulum.make(scale=0.02)
        return findings(name, devices=1), on_ranks(findings, folder, name)
