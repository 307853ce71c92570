"""Times bursts of lit_offrl's updates; `benchmarks/speed.py` starts it and asks."""

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from functools import cache
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

import lit_offrl.algorithms
from benchmarks.peers.settings import ALGORITHMS, BATCH_SIZE
from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.cli.fit import FitCLI
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.sampler import UpdateSampler

K = 8


class Stopwatch(Callback):
    """Notes the CPU time after every block of updates."""

    def __init__(self) -> None:
        self.stamps: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Note update number and time."""
        self.stamps.append((trainer.global_step, time.process_time()))

    @property
    def seconds(self) -> float:
        """CPU time of one update, without what comes before the first block and after the last."""
        (first, start), (last, end) = self.stamps[0], self.stamps[-1]
        return (end - start) / (last - first)


def through_fit(name: str, dataset: str, updates: int) -> float:
    """Time what ``lit-offrl fit`` runs, with its loggers, but without evaluation."""
    settings = ALGORITHMS[name]
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "run_dir": folder,
            "model": {"class_path": name, "init_args": settings.model},
            "data": {
                "dataset_id": dataset,
                "batch_size": BATCH_SIZE,
                "updates_per_step": K,
                "held_out": 0.0,
                **settings.data,
            },
            "trainer": {
                "max_steps": updates,
                "accelerator": "cpu",
                "enable_progress_bar": False,
            },
        }
        path = os.path.join(folder, "config.json")
        with open(path, "w") as file:
            json.dump(config, file)
        cli = FitCLI(["--config", path])
        watch = Stopwatch()
        cli.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        cli.trainer.fit(cli.model, cli.datamodule)
    return watch.seconds


@cache
def _ready(name: str, dataset: str) -> tuple[OfflineDataModule, UpdateSampler, OfflineAlgorithm]:
    settings = ALGORITHMS[name]
    data = OfflineDataModule(dataset, batch_size=BATCH_SIZE, held_out=0.0, **settings.data)
    sampler = UpdateSampler(data.train_matrix, BATCH_SIZE, seed=0)
    algorithm = getattr(lit_offrl.algorithms, name)(
        obs_dim=data.obs_dim, action_dim=data.action_dim, **settings.model
    )
    return data, sampler, algorithm


def bare(name: str, dataset: str, updates: int) -> float:
    """Time ``update`` on sampled blocks, without Lightning."""
    data, sampler, algorithm = _ready(name, dataset)
    start = time.process_time()
    for first in range(0, updates, K):
        batch = data.layout.unpack(sampler.block(first, K))
        for k in range(K):
            algorithm.update(batch.at(k))
            algorithm.update_number += 1
    return (time.process_time() - start) / updates


def main() -> None:
    """Answer requests, lines of JSON, until the input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        timed = through_fit if request["through"] == "fit" else bare
        seconds = timed(request["algorithm"], request["dataset"], request["updates"])
        print(json.dumps({"seconds": seconds}), file=replies, flush=True)


if __name__ == "__main__":
    main()
