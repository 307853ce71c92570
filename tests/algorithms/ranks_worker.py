"""Train any algorithm, with any of its main options, on one or more ranks in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gymnasium.spaces import Discrete
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from lit_offrl.algorithms import (
    AWAC,
    BC,
    BCQ,
    CQL,
    DQN,
    IQL,
    RLPD,
    TD3BC,
    CalQL,
    DiscreteBCQ,
    DiscreteCQL,
    DiscreteIQL,
    OfflineAlgorithm,
    ReBRAC,
)
from lit_offrl.data import OfflineDataModule
from tests.data.makers import ACTION, episode, make_minari
from tests.ranks import quiet_trainer

LENGTHS = (9, 8, 7, 10)
WIDE: dict[str, Any] = {"hidden": (8, 8)}
SAMPLING = partial(CQL, **WIDE, critic_hidden=(8, 8), n_actions=3, policy_lr=1e-3)

BOX: dict[str, Callable[..., OfflineAlgorithm]] = {
    "BC": partial(BC, **WIDE),
    "BC tanh_gaussian": partial(BC, **WIDE, policy="tanh_gaussian"),
    "BC deterministic": partial(BC, **WIDE, policy="deterministic"),
    "BCQ": partial(BCQ, **WIDE, vae_hidden=(8,)),
    "CQL": SAMPLING,
    "CQL lagrange, max backup": partial(SAMPLING, lagrange_gap=1.0, max_target_backup=True),
    "CQL prior, kl": partial(SAMPLING, penalty_prior="behavior", policy_regularizer="kl"),
    "CQL bc, clipped gap": partial(SAMPLING, policy_regularizer="bc", gap_clip=(-1.0, 1.0)),
    "IQL": partial(IQL, **WIDE),
    "IQL deterministic": partial(IQL, **WIDE, deterministic_policy=True, cosine_schedule=False),
    "TD3BC": partial(TD3BC, **WIDE),
    "AWAC softmax": partial(AWAC, **WIDE, normalize="batch_softmax"),
    "CalQL": partial(CalQL, **WIDE, critic_hidden=(8, 8), n_actions=3, policy_lr=1e-3),
    "RLPD": partial(RLPD, **WIDE, critic_hidden=(8, 8), n_critics=4, policy_period=2),
    "ReBRAC": partial(ReBRAC, **WIDE, critic_hidden=(8, 8)),
}
DISCRETE: dict[str, Callable[..., OfflineAlgorithm]] = {
    "BC categorical": partial(BC, **WIDE, policy="categorical", logit_penalty=0.01),
    "DQN": partial(DQN, **WIDE),
    "DQN double, period": partial(DQN, **WIDE, double=True, target_period=4, polyak=1.0),
    "DiscreteBCQ": partial(DiscreteBCQ, **WIDE, n_critics=2),
    "DiscreteCQL": partial(DiscreteCQL, **WIDE),
    "DiscreteCQL quantiles": partial(DiscreteCQL, **WIDE, n_quantiles=5, n_critics=2),
    "DiscreteCQL prior, soft": partial(
        DiscreteCQL, **WIDE, penalty_prior="behavior", backup="soft_pi"
    ),
    "DiscreteIQL": partial(DiscreteIQL, **WIDE),
}
DROPOUT: dict[str, Callable[..., OfflineAlgorithm]] = {
    "BC dropout": partial(BC, **WIDE, dropout=0.3),
    "IQL dropout": partial(IQL, **WIDE, dropout=0.3),
}
ALGORITHMS = {**BOX, **DISCRETE, **DROPOUT}


class MemoryLogger(Logger):
    """Keeps what this rank logs, also on a rank that would write nothing."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing of them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep one row."""
        self.rows.append({**metrics, "step": float(step or 0)})


def make_data() -> None:
    """Store a small random set of each kind of action."""
    for dataset_id, space in (("tests/box-v0", ACTION), ("tests/discrete-v0", Discrete(3))):
        episodes = [episode(i, n, action_space=space) for i, n in enumerate(LENGTHS)]
        make_minari(episodes, dataset_id, action_space=space)


def train(
    name: str,
    save: str | None = None,
    resume: str | None = None,
    *,
    devices: int,
    compile_update: bool = False,
) -> dict[str, Any]:
    """Weights after a run of 50 updates in two epochs, and what was logged on the way.

    Args:
        name: One of :data:`ALGORITHMS`.
        save: Folder that gets a checkpoint of update 25, ``step=25.ckpt``.
        resume: Checkpoint to start from.
        devices: How many ranks.
        compile_update: Whether updates are compiled.
    """
    dataset_id = "tests/discrete-v0" if name in DISCRETE else "tests/box-v0"
    data = OfflineDataModule(dataset_id, batch_size=8, updates_per_step=3, updates_per_epoch=25)
    torch.manual_seed(0)
    algorithm, logger = ALGORITHMS[name](data.obs_dim, data.action_dim), MemoryLogger()
    data.extras = algorithm.extras
    algorithm.compile_update = compile_update
    every_epoch = ModelCheckpoint(save, "{step}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = quiet_trainer(
        devices,
        max_steps=50,
        logger=logger,
        log_every_n_steps=5,
        callbacks=[every_epoch] if save else [],
        enable_checkpointing=save is not None,
    )
    trainer.fit(algorithm, data, ckpt_path=resume, weights_only=True)
    assert trainer.world_size == devices
    weights = {key: value.clone() for key, value in algorithm.state_dict().items()}
    return {"weights": weights, "logged": logger.rows}


def train_all(names: list[str], *, devices: int) -> dict[str, dict[str, Any]]:
    """Train several, one after the other."""
    return {name: train(name, devices=devices) for name in names}


def compile_all(names: list[str], *, devices: int) -> dict[str, dict[str, Any]]:
    """Train several with compiled updates."""
    return {name: train(name, devices=devices, compile_update=True) for name in names}


def resume_all(names: list[str], folder: str, *, devices: int) -> dict[str, dict[str, Any]]:
    """Go on from the checkpoints that :func:`save_all` left."""
    return {
        name: train(name, resume=f"{folder}/{name}/step=25.ckpt", devices=devices) for name in names
    }


def save_all(names: list[str], folder: str, *, devices: int) -> dict[str, dict[str, Any]]:
    """Train several and keep a checkpoint of the middle of each run."""
    return {name: train(name, save=f"{folder}/{name}", devices=devices) for name in names}
