"""Times lit_offrl's updates; `benchmarks/racing.py` starts it and asks.

A request names a ``task``: ``fit`` and ``bare`` time updates, ``peak`` and ``flops`` say what
the machine can and what an update needs.
"""

import json
import logging
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

import lit_offrl.algorithms
from benchmarks.peers.serving import Channel, Request, cpu_seconds
from benchmarks.peers.settings import ALGORITHMS, BATCH_SIZE
from benchmarks.sgemm import peak_flops
from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.algorithms.replicas import Replicas, replicate
from lit_offrl.algorithms.update_path import _OneUpdate
from lit_offrl.cli.fit import FitCLI, train
from lit_offrl.compiled import CompiledUpdate
from lit_offrl.cpu import prepare_cpu
from lit_offrl.cpu_threads import largest_product
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.sampler import ReplicaSampler, UpdateSampler


class Pacer(Callback):
    """Lets ``fit`` run burst by burst: after each it replies and waits for the next request.

    What lies between two epochs (validation, diagnostics, checkpoint) is timed apart.

    Args:
        channel: Where requests come from.
        updates: Length of the first burst.
    """

    def __init__(self, channel: Channel, updates: int) -> None:
        self._channel = channel
        self._burst = self._end = updates
        self._epoch_ends: list[float] = []
        self._start = self._left = time.process_time()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take what came before an epoch's first block out of the burst."""
        if batch_idx == 0:
            outside = time.process_time() - self._left
            self._start += outside
            if trainer.global_step > 0:
                self._epoch_ends.append(outside)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Reply where the burst is over."""
        self._left = time.process_time()
        if (excess := trainer.global_step - self._end) >= 0:
            seconds = (self._left - self._start) / (self._burst + excess)
            self._channel.reply(
                {"seconds": seconds, "epoch_ends": self._epoch_ends, "peak_mb": peak_mb()}
            )
            self._burst = self._channel.receive()["updates"]
            self._end = trainer.global_step + self._burst
            self._epoch_ends = []
            self._start = self._left = time.process_time()


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def fit(request: Request, channel: Channel) -> None:
    """Run what ``lit-offrl fit`` runs, with its loggers, but without an environment."""
    settings = ALGORITHMS[request["algorithm"]]
    config = {
        "run_dir": request["run_dir"],
        "diagnostics": request["diagnostics"],
        "compile": request["compile"],
        "evaluation": {"episodes": 0},
        "model": {"class_path": request["algorithm"], "init_args": settings.model},
        "data": {
            "dataset_id": request["dataset"],
            "batch_size": BATCH_SIZE,
            "updates_per_step": request["k"],
            "updates_per_epoch": request["epoch"],
            **settings.data,
        },
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    folder = Path(request["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    cli = FitCLI(["--config", str(path)])
    cli.trainer.callbacks.append(Pacer(channel, request["updates"]))  # type: ignore[attr-defined]
    train(cli)


def create(
    request: Request, compiled: bool
) -> tuple[OfflineDataModule, OfflineAlgorithm | Replicas]:
    """Create data and algorithm, with the process set up as ``fit`` does.

    ``model`` of the request overrides the shared settings; ``seeds`` asks for replicas.
    """
    settings = ALGORITHMS[request["algorithm"]]
    data = OfflineDataModule(request["dataset"], held_out=0.0, **settings.data)
    single: OfflineAlgorithm = getattr(lit_offrl.algorithms, request["algorithm"])(
        obs_dim=data.obs_dim,
        action_dim=data.action_dim,
        **{**settings.model, **request.get("model", {})},
    )
    prepare_cpu(largest_product(single, request.get("batch_size", BATCH_SIZE)))
    replicas = replicate(single, range(request["seeds"])) if "seeds" in request else None
    algorithm = replicas or single
    algorithm.compile_update = compiled
    algorithm.start(0, -1)
    return data, algorithm


@cache
def block_of_updates(key: str) -> Callable[[], None]:
    """Return a function that samples and does K updates, without Lightning.

    Args:
        key: The request without the number of updates, as JSON.
    """
    request = json.loads(key)
    data, algorithm = create(request, request["compile"])
    size, seeds = request.get("batch_size", BATCH_SIZE), range(request.get("seeds", 1))
    samplers = [UpdateSampler(data.train_matrix, size, seed) for seed in seeds]
    sampler = ReplicaSampler(samplers) if "seeds" in request else samplers[0]
    k, first = request["k"], 0

    def block() -> None:
        nonlocal first
        batch = data.layout.unpack(sampler.block(first, k))
        for i in range(k):
            algorithm.train_update(batch.at(i))
        first += k

    return block


def bare(request: Request) -> Request:
    """Time updates on sampled blocks, without Lightning."""
    request = dict(request)
    blocks = math.ceil(request.pop("updates") / request["k"])
    block = block_of_updates(json.dumps(request, sort_keys=True))
    return {"seconds": cpu_seconds(block, blocks) / request["k"]}


def flops(request: Request) -> Request:
    """Count the floating-point operations of an update's matrix products.

    On its recording: within autograd, the counter fails on a loss of a single parameter.
    """
    data, algorithm = create(request, compiled=False)
    assert isinstance(algorithm, OfflineAlgorithm)
    algorithm._compiled = CompiledUpdate(_OneUpdate(algorithm), required=True, compiles=False)
    sampler = UpdateSampler(data.train_matrix, BATCH_SIZE, seed=0)
    updates = 2  # TD3+BC's policy moves in every second
    batch = data.layout.unpack(sampler.block(0, updates))

    def all_updates() -> None:
        for i in range(updates):
            algorithm.train_update(batch.at(i))

    all_updates()  # records
    with FlopCounterMode(display=False) as counter:
        all_updates()
    return {"flops": counter.get_total_flops() / updates}


def peak(request: Request) -> Request:
    """Measure the machine's matrix products."""
    return {"flops": peak_flops()}


TASKS = {"bare": bare, "flops": flops, "peak": peak}


def main() -> None:
    """Answer requests, lines of JSON, until the input ends."""
    channel = Channel()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    while True:
        request = channel.receive()
        task = request.pop("task")
        if task == "fit":
            fit(request, channel)
        channel.reply(TASKS[task](request))


if __name__ == "__main__":
    main()
