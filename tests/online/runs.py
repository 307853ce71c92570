"""Fine-tuning runs of seconds, on a small pendulum set."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.algorithms.bc import BC
from lit_offrl.online.datamodule import Collecting, FineTuneDataModule
from lit_offrl.online.exploration import Exploration
from lit_offrl.online.mixing import Mixing
from lit_offrl.online.modes import frozen
from tests.callbacks.training import data_module


def make_data(
    folder: Path,
    algorithm: OfflineAlgorithm | None = None,
    mixing: Mixing | None = None,
    exploration: Exploration | None = None,
    extras: tuple[str, ...] = (),
    **collecting: Any,
) -> FineTuneDataModule:
    """Pendulum episodes of 30 steps; 80 environment steps and an evaluation every 40."""
    small = data_module()
    given = {"steps": 80, "eval_every": 40, "num_envs": 2, **collecting}
    data = FineTuneDataModule(
        small.spec,
        small.scaling,
        Collecting(**given),
        mixing or Mixing(),
        exploration or Exploration(),
        folder,
        dataset_id=small.dataset_id,
        batch_size=16,
        held_out=0.25,
        extras=extras,
    )
    data.__dict__["_loaded"] = small._loaded
    data.offline = frozen(algorithm or make_model(data))
    return data


def make_model(data: FineTuneDataModule) -> OfflineAlgorithm:
    """A policy that clones behavior."""
    torch.manual_seed(0)
    return BC(data.obs_dim, data.action_dim, hidden=(8,))


def fit(
    data: FineTuneDataModule, model: OfflineAlgorithm, *callbacks: Callback, path: Any = None
) -> Trainer:
    """Run to the end."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=data.collecting.updates,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=data.folder,
    )
    trainer.fit(model, data, ckpt_path=path, weights_only=True)
    return trainer
