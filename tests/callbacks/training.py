"""Short runs on a small pendulum set, for the tests of callbacks."""

import json
from dataclasses import replace
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lit_offrl.algorithms.bc import BC
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.builtin import pendulum


def data_module(held_out: float = 0.25, **changed: Any) -> OfflineDataModule:
    """Pendulum with episodes of 30 steps in epochs of 10 updates; ``changed`` goes to its spec."""
    data = OfflineDataModule(
        pendulum.DATASET_ID,
        batch_size=16,
        updates_per_step=4,
        updates_per_epoch=10,
        held_out=held_out,
    )
    transitions, spec = data._loaded
    env_spec = {**json.loads(spec.env_spec or ""), "max_episode_steps": 30}
    changed = {"env_spec": json.dumps(env_spec), **changed}
    data.__dict__["_loaded"] = transitions, replace(spec, **changed)
    return data


def fit(
    data: OfflineDataModule, *callbacks: Callback, steps: int = 25, path: Any = None, **options: Any
) -> Trainer:
    """Clone behavior for a few updates."""
    torch.manual_seed(0)
    model = BC(data.obs_dim, data.action_dim, hidden=(8,))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        logger=options.pop("logger", False),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=options.pop("enable_progress_bar", False),
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, data, ckpt_path=path, weights_only=True)
    return trainer
