"""Train several algorithms on one or more ranks, in float64, and save their weights."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from lightning import Trainer

from lit_offrl.algorithms import BC, BCQ, CQL, IQL, TD3BC, OfflineAlgorithm
from lit_offrl.data import OfflineDataModule

ALGORITHMS: dict[str, Callable[[int, int], OfflineAlgorithm]] = {
    "BC": lambda obs, action: BC(obs, action, hidden=(8,)),
    "BCQ": lambda obs, action: BCQ(obs, action, hidden=(8,), vae_hidden=(8,)),
    "CQL": lambda obs, action: CQL(obs, action, hidden=(8,), critic_hidden=(8,), n_actions=3),
    "CQL of all options": lambda obs, action: CQL(
        obs,
        action,
        hidden=(8,),
        critic_hidden=(8,),
        n_actions=3,
        lagrange_gap=1.0,
        penalty_prior="behavior",
        policy_regularizer="kl",
    ),
    "IQL": lambda obs, action: IQL(obs, action, hidden=(8,)),
    "TD3BC": lambda obs, action: TD3BC(obs, action, hidden=(8,)),
}


def train(devices: int) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of each algorithm after six updates."""
    weights = {}
    for name, make in ALGORITHMS.items():
        data = OfflineDataModule("tests/small-v0", batch_size=8, updates_per_step=3)
        torch.manual_seed(0)
        algorithm = make(data.obs_dim, data.action_dim)
        trainer = Trainer(
            max_steps=6,
            accelerator="cpu",
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision="64-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(algorithm, data)
        assert trainer.world_size == devices
        weights[name] = {key: value.clone() for key, value in algorithm.state_dict().items()}
    return weights


if __name__ == "__main__":
    ranks = int(sys.argv[1])
    trained = train(ranks)
    torch.save(trained, Path(sys.argv[2]) / f"rank{torch.distributed.get_rank()}.pt")
