"""Measure how fast a Minari set of Hopper's shape loads, first and again, and the peak memory.

Makes an artificial set in a temporary folder; nothing of the user's is read or written.

    python benchmarks/loading.py --transitions 1000000 --episodes 1000
"""

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

DATASET_ID = "benchmark/hopper-v0"
OBS_DIM, ACTION_DIM = 11, 3


def make(transitions: int, episodes: int, data_format: str) -> None:
    """Write an artificial set with Hopper's dimensions and dtypes."""
    warnings.simplefilter("ignore")  # Minari asks for an author, a description, ...
    rng = np.random.default_rng(0)
    steps = transitions // episodes
    buffers = (
        EpisodeBuffer(
            id=episode,
            observations=rng.normal(size=(steps + 1, OBS_DIM)),
            actions=rng.uniform(-1, 1, size=(steps, ACTION_DIM)).astype(np.float32),
            rewards=rng.normal(size=steps),
            terminations=np.zeros(steps, dtype=bool),
            truncations=np.arange(steps) == steps - 1,
        )
        for episode in range(episodes)
    )
    minari.create_dataset_from_buffers(
        DATASET_ID,
        buffers,
        observation_space=Box(-np.inf, np.inf, (OBS_DIM,), np.float64),
        action_space=Box(-1, 1, (ACTION_DIM,), np.float32),
        data_format=data_format,
    )


def measure(what: str) -> None:
    """Load in this fresh process and print seconds and the growth of peak memory."""
    from lit_offrl.data import OfflineDataModule, load_dataset

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if what == "datamodule":
        OfflineDataModule(DATASET_ID).setup("fit")
    else:
        load_dataset(DATASET_ID)
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    transitions, _ = load_dataset(DATASET_ID)
    columns = (getattr(transitions, field.name) for field in dataclasses.fields(transitions))
    flat = sum(column.nbytes for column in columns if column is not None)
    print(
        f"{what:12} {len(transitions)} transitions in {seconds:6.2f} s; flat arrays "
        f"{flat / 1e6:.0f} MB, peak memory {grown / flat:.2f} times that",
        flush=True,
    )


def main() -> None:
    """Run the benchmark, each measurement in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--format", choices=["hdf5", "arrow"], default="hdf5")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = str(Path(folder) / "minari")
        os.environ["LIT_OFFRL_CACHE"] = str(Path(folder) / "cache")
        make(args.transitions, args.episodes, args.format)
        for what in ("first", "second", "datamodule"):
            subprocess.run([sys.executable, __file__, "--measure", what], check=True)


if __name__ == "__main__":
    main()
