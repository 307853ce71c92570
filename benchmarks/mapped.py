"""Measure `data.storage` memory and mapped: loading, resident memory, updates per second, disk.

Artificial Minari sets of Hopper's shape and their caches lie in a folder; nothing of the user's is
read or written. Every measurement is a process of its own with one thread, whose memory is looked
at from outside. Speeds are medians over rounds, per second of CPU time, which other work on the
machine changes little.

    python benchmarks/mapped.py --rows 100000 1000000 --out runs/mapped
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.spaces import Box
from lightning import Callback, LightningModule, Trainer
from minari.serialization import serialize_space

from benchmarks.records import machine
from lit_offrl.algorithms import IQL
from lit_offrl.data import OfflineDataModule

OBS_DIM, ACTION_DIM, STEPS = 11, 3, 1000
STORAGES = ("memory", "mapped")
ROUNDS = 3
WARM_UP, UPDATES, DRAWS = 80, 480, 4000
HEAD = (
    "rows",
    "`storage`",
    "first load, s",
    "again, s",
    "anonymous GB: loading",
    "training",
    "resident GB: loading",
    "training",
    "sampler, updates per CPU second",
    "IQL",
    "cache, GB",
)


def make(folder: Path, rows: int) -> None:
    """Write an artificial set with Hopper's dimensions and dtypes, episode by episode."""
    if (folder / "metadata.json").exists():  # written last
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    steps = min(STEPS, rows // 20)
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for episode in range(rows // steps):
            group = file.create_group(f"episode_{episode}")
            group["observations"] = rng.normal(size=(steps + 1, OBS_DIM))
            group["actions"] = rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32)
            group["rewards"] = rng.normal(size=steps)
            group["terminations"] = np.zeros(steps, dtype=bool)
            group["truncations"] = np.arange(steps) == steps - 1
    metadata = {
        "total_episodes": rows // steps,
        "data_format": "hdf5",
        "observation_space": serialize_space(Box(-np.inf, np.inf, (OBS_DIM,), np.float64)),
        "action_space": serialize_space(Box(-1, 1, (ACTION_DIM,), np.float32)),
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))


def load(module: OfflineDataModule) -> dict[str, float]:
    """Load and pack as a run does before its first update."""
    start = time.perf_counter()
    module.setup("fit")
    return {"seconds": time.perf_counter() - start}


class Clock(Callback):
    """Times the updates after those that warm up."""

    def __init__(self) -> None:
        self.start = self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Look at the clock after the warm-up and after each step."""
        now = time.process_time()
        if trainer.global_step == WARM_UP:
            self.start = now
        self.seconds = now - self.start


def train(module: OfflineDataModule) -> dict[str, float]:
    """Draw batches, then train IQL, with the packed file in the page cache."""
    module.setup("fit")
    for path in Path(os.environ["LIT_OFFRL_CACHE"]).glob("packed-*/matrix.npy"):
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    clock = Clock()
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    module.trainer = Trainer(max_steps=DRAWS, **quiet)
    start = time.process_time()
    for _ in module.train_dataloader():
        pass
    drawn = DRAWS / (time.process_time() - start)
    Trainer(max_steps=WARM_UP + UPDATES, callbacks=[clock], **quiet).fit(
        IQL(OBS_DIM, ACTION_DIM), module
    )
    return {"sampler": drawn, "iql": UPDATES / clock.seconds}


def resident(pid: int) -> tuple[float, float]:
    """Anonymous and total resident memory of a process, in GB; zeros once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in lines)
    if "RssAnon" not in fields:
        return 0.0, 0.0
    anonymous, total = (int(fields[name].split()[0]) for name in ("RssAnon", "VmRSS"))
    return anonymous * 1024 / 1e9, total * 1024 / 1e9


def watched(what: str, name: str, storage: str) -> dict[str, float]:
    """Measure in a fresh process, and look at its memory until it ends."""
    command = [sys.executable, __file__, "--measure", what, name, storage]
    # where other work takes a core, two threads wait for each other most of the time
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=one_thread, stdout=subprocess.PIPE)
    anonymous = total = 0.0
    while process.poll() is None:
        now = resident(process.pid)
        anonymous, total = max(anonymous, now[0]), max(total, now[1])
        time.sleep(0.02)
    assert process.stdout is not None
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    found: dict[str, float] = json.loads(process.stdout.read().splitlines()[-1])
    return found | {"anonymous": anonymous, "total": total}


def use_cache(out: Path, storage: str) -> Path:
    """Let processes that start from now on use the cache of one storage."""
    cache = out / f"cache-{storage}"
    os.environ["LIT_OFFRL_CACHE"] = str(cache)
    return cache


def table_rows(out: Path, name: str, rows: int) -> list[str]:
    """Measure both storages on one set, from empty caches on; a row of the table for each."""
    loads: dict[str, list[dict[str, float]]] = {}
    for storage in STORAGES:
        shutil.rmtree(use_cache(out, storage), ignore_errors=True)
        loads[storage] = [watched("load", name, storage) for _ in range(2)]
    trained: dict[str, list[dict[str, float]]] = {storage: [] for storage in STORAGES}
    for _ in range(ROUNDS):  # in turns, since other work slows both
        for storage in STORAGES:
            use_cache(out, storage)
            trained[storage].append(watched("train", name, storage))
    found = []
    for storage in STORAGES:
        cache = use_cache(out, storage)
        disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e9
        shutil.rmtree(cache)
        cells = [f"{rows:,}", f"`{storage}`", *(f"{run['seconds']:.1f}" for run in loads[storage])]
        for key in ("anonymous", "total"):
            cells += [f"{max(run[key] for run in part[storage]):.2f}" for part in (loads, trained)]
        for key in ("sampler", "iql"):
            cells.append(f"{statistics.median(run[key] for run in trained[storage]):,.0f}")
        found.append(f"| {' | '.join([*cells, f'{disk:.2f}'])} |")
    return found


def main() -> None:
    """Make the sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=Path("runs/mapped"), help="folder of the files")
    parser.add_argument("--keep", action="store_true", help="keep the sets for the next time")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, name, storage = args.measure
        module = OfflineDataModule(name, storage=storage, updates_per_epoch=DRAWS)
        print(json.dumps({"load": load, "train": train}[what](module)))
        return
    out = args.out.resolve()
    os.environ["MINARI_DATASETS_PATH"] = str(out / "minari")
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['date']}\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for rows in args.rows:
        name = f"benchmark/hopper-{rows}-v0"
        data = out / "minari" / name / "data"
        make(data, rows)
        print("\n".join(table_rows(out, name, rows)), flush=True)
        if not args.keep:
            shutil.rmtree(data.parent)


if __name__ == "__main__":
    main()
