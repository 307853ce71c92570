"""Updates per second of IQL on one rank and on two, and a model on paper for N GPUs.

    python benchmarks/scaling.py            # measures on this machine's CPU, 2 cores needed
    python benchmarks/scaling.py --paper    # prints the model alone

Each round runs one rank with one thread, one rank with two threads, and two ranks with one thread
each, in turn; the medians of the rounds are compared.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from itertools import product
from typing import NamedTuple

import torch
import torch.distributed as dist

from lit_offrl.algorithms import IQL
from lit_offrl.batch import Batch

OBS_DIM, ACTION_DIM = 11, 3  # Hopper's
BATCHES, WIDTHS = (256, 4096), (256, 1024)
WAYS = {"1 rank, 1 thread": (1, 1), "1 rank, 2 threads": (1, 2), "2 ranks, 1 thread": (2, 1)}


class Speed(NamedTuple):
    """What one way of running does.

    Args:
        updates: Updates per second.
        cpu: CPU seconds of rank 0 per update, which other work on the machine changes little.
        reducing: Share of the time that the all-reduces take alone.
    """

    updates: float
    cpu: float
    reducing: float


def measure(batch_size: int, width: int, seconds: float) -> Speed:
    """Time the updates of this process and its peers."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    iql = IQL(OBS_DIM, ACTION_DIM, hidden=(width, width))
    iql.compile_update = False
    iql.start(0, -1)
    rows = batch_size // ranks
    obs, next_obs = torch.randn(2, rows, OBS_DIM)  # (B, O) each
    action = torch.rand(rows, ACTION_DIM) * 2 - 1  # (B, A)
    batch = Batch(obs, action, torch.randn(rows), next_obs, torch.zeros(rows))

    def run(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            iql.train_update(batch)
        return time.perf_counter() - start

    run(5)
    updates = max(5, int(seconds / (run(5) / 5)))
    if ranks > 1:  # as many on each rank
        agreed = torch.tensor(updates)
        dist.broadcast(agreed, 0)
        updates = int(agreed)
    before = time.process_time()
    each = run(updates) / updates
    cpu = (time.process_time() - before) / updates
    if ranks == 1:
        return Speed(1 / each, cpu, 0.0)
    reducing = _all_reduces(iql, updates) / each
    dist.barrier()  # a rank that ends first would cut the other off
    dist.destroy_process_group()
    return Speed(1 / each, cpu, reducing)


def _all_reduces(iql: IQL, n: int) -> float:
    """Seconds of one update's all-reduces alone."""
    nets = (iql.v, iql.q, iql.policy)
    flat = [torch.zeros(sum(p.numel() for p in net.parameters())) for net in nets]
    start = time.perf_counter()
    for _ in range(n):
        for gradients in flat:
            dist.all_reduce(gradients)
    return (time.perf_counter() - start) / n


def start(ranks: int, threads: int, batch: int, width: int, seconds: float) -> Speed:
    """Measure in processes of its own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *(torchrun if ranks > 1 else []), __file__]
    command += ["--worker", str(batch), str(width), "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))
    return Speed(*map(float, line.split()[1:]))


def compare(rounds: int, seconds: float) -> None:
    """Print the table of measured speeds; the last column is what 2 ranks gain at best."""
    heads = [*WAYS, "2 ranks / 1", "all-reduce", "CPU time of 1 rank / of each of 2"]
    print("| batch | width | " + " | ".join(heads) + " |")
    print("|" + "---|" * (len(heads) + 2))
    for batch, width in product(BATCHES, WIDTHS):
        found: dict[str, list[Speed]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, (ranks, threads) in WAYS.items():
                found[way].append(start(ranks, threads, batch, width, seconds))
        medians = [
            Speed(*map(statistics.median, zip(*runs, strict=True))) for runs in found.values()
        ]
        one, two = medians[0], medians[-1]
        numbers = " | ".join(f"{way.updates:.3g}" for way in medians)
        gain, at_best = two.updates / one.updates, one.cpu / two.cpu
        print(
            f"| {batch} | {width} | {numbers} | {gain:.2f} | {two.reducing:.0%} | {at_best:.2f} |",
            flush=True,
        )


WORK = {  # launch µs, compute µs on one GPU, parameters, all-reduces per update
    "IQL, 256 wide, batch 256": (150, 10, 0.28e6, 3),
    "IQL, 1024 wide, batch 4096": (150, 400, 4.3e6, 3),
    "DQN of pixels, Nature CNN, batch 256": (150, 600, 1.7e6, 1),
    "DQN of pixels, Nature CNN, batch 2048": (150, 4800, 1.7e6, 1),
}
LATENCY, BANDWIDTH = 20e-6, 100e9
"""Assumed, not measured: seconds per all-reduce over NVLink, and bytes per second."""


def paper() -> None:
    """Print ``t = t_launch + t_compute / N + t_allreduce(bytes, N)``; nothing in it is measured."""
    print("| work (assumed) | 1 GPU, µs | " + " | ".join(f"{n} GPUs" for n in (2, 4, 8)) + " |")
    print("|---|---|---|---|---|")
    for name, (launch, compute, parameters, reduces) in WORK.items():
        one = launch + compute
        speedups = []
        for n in (2, 4, 8):
            volume = 2 * (n - 1) / n * 4 * parameters  # bytes that a ring moves per rank
            t = launch + compute / n + 1e6 * (reduces * LATENCY + volume / BANDWIDTH)
            speedups.append(f"{one / t:.2f}x")
        print(f"| {name} | {one} | " + " | ".join(speedups) + " |")


def main() -> None:
    """Read the options and do what they ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        batch, width = options.worker
        speed = measure(batch, width, options.seconds)
        if int(os.environ.get("RANK", "0")) == 0:
            print("RESULT", *speed)
    elif options.paper:
        paper()
    else:
        compare(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
