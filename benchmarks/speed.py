"""Eager gradient updates per second of lit_offrl, beside d3rlpy's.

    python benchmarks/speed.py --d3rlpy-python PATH

Both libraries run on one core and one thread, in turn, burst by burst; a figure is the median
over rounds of the CPU time of an update, batch sampling included. "fit" is what a user calls,
``lit-offrl fit`` with its loggers or d3rlpy's ``fit``, both without evaluation; "bare" is the
library's update in a loop. Without ``--d3rlpy-python`` only lit_offrl is measured.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.export import export_transitions
from benchmarks.peers.settings import ALGORITHMS
from lit_offrl.data import OfflineDataModule

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ("BC", "TD3BC", "IQL", "BCQ", "CQL", "DiscreteCQL")
OBS_DIM, ACTION_DIM, N_ACTIONS = 11, 3, 3  # Hopper's; the discrete set has as many actions


class Worker:
    """A process of one library, pinned to one core, that times bursts of updates."""

    def __init__(self, command: list[str], core: int) -> None:
        pin = ["taskset", "-c", str(core)] if shutil.which("taskset") else []
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [*pin, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=env,
        )

    def seconds(self, **request: Any) -> float:
        """CPU seconds of one update."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        reply = self._process.stdout.readline()
        if not reply:
            self._log.seek(0)
            raise RuntimeError(f"A worker died:\n{self._log.read()[-2000:]}")
        return float(json.loads(reply)["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def write_random(path: Path, n: int, discrete: bool) -> None:
    """Write random transitions as a D4RL file: speed does not depend on what is in them."""
    rng = np.random.default_rng(0)
    action: Any = rng.uniform(-1, 1, (n, ACTION_DIM)).astype(np.float32)
    if discrete:
        action = rng.integers(N_ACTIONS, size=n)
    timeout = np.arange(1, n + 1) % 500 == 0
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((n, OBS_DIM), dtype=np.float32)
        file["next_observations"] = rng.standard_normal((n, OBS_DIM), dtype=np.float32)
        file["actions"] = action
        file["rewards"] = rng.standard_normal(n, dtype=np.float32)
        file["terminals"] = (rng.random(n) < 0.003) & ~timeout
        file["timeouts"] = timeout


def measure(
    workers: dict[str, Worker], requests: dict[str, dict[str, str]], options: argparse.Namespace
) -> dict[str, dict[tuple[str, str], float]]:
    """Median CPU seconds of an update, for each algorithm and (library, way)."""
    ways = [(library, way) for library in workers for way in ("fit", "bare")]
    bursts: dict[str, int] = {}
    for name, request in requests.items():
        slowest = max(
            worker.seconds(**request, task="race", through="bare", updates=16)
            for worker in workers.values()
        )
        bursts[name] = max(3, round(options.seconds / slowest / 8)) * 8
    times: dict[str, dict[tuple[str, str], list[float]]] = {
        name: defaultdict(list) for name in requests
    }
    for i in range(options.rounds):
        for name, request in requests.items():
            for library, way in ways if i % 2 == 0 else reversed(ways):
                seconds = workers[library].seconds(
                    **request, task="race", through=way, updates=bursts[name]
                )
                times[name][library, way].append(seconds)
        print(f"round {i + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return {
        name: {way: statistics.median(values) for way, values in columns.items()}
        for name, columns in times.items()
    }


def table(medians: dict[str, dict[tuple[str, str], float]]) -> str:
    """Updates per second in Markdown, with ratios where d3rlpy was measured."""
    compared = ("d3rlpy", "fit") in next(iter(medians.values()))
    heads = ["lit_offrl fit", "lit_offrl bare"]
    heads += ["d3rlpy fit", "d3rlpy bare", "fit / fit", "bare / bare"] if compared else []
    rows = [f"| updates/s | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, seconds in medians.items():
        columns = [("lit_offrl", "fit"), ("lit_offrl", "bare")]
        columns += [("d3rlpy", "fit"), ("d3rlpy", "bare")] if compared else []
        cells = [f"{1 / seconds[column]:.4g}" for column in columns]
        if compared:
            cells += [
                f"**{seconds['d3rlpy', way] / seconds['lit_offrl', way]:.2f}**"
                for way in ("fit", "bare")
            ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, str]]:
    """Make what the workers read: which data set, and its export, for each algorithm."""
    requests = {}
    for name in options.algorithms:
        discrete = name.startswith("Discrete")
        dataset = options.dataset
        if discrete or not dataset:
            path = folder / ("discrete.hdf5" if discrete else "box.hdf5")
            if not path.exists():
                write_random(path, options.transitions, discrete)
            dataset = str(path)
        exported = folder / f"{name}.npz"
        if options.d3rlpy_python:
            data = OfflineDataModule(dataset, held_out=0.0, **ALGORITHMS[name].data)
            export_transitions(data, exported)
        requests[name] = {"algorithm": name, "dataset": dataset, "data": str(exported)}
    return requests


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=DEFAULT)
    parser.add_argument("--d3rlpy-python", default="", help="Python that has d3rlpy 2.8.1")
    parser.add_argument("--dataset", default="", help="Minari id instead of random transitions")
    parser.add_argument("--transitions", type=int, default=100_000, help="size of the random set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a burst, at most")
    parser.add_argument("--core", type=int, default=0, help="core that all bursts run on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Random files are not worth a place in the user's cache.
        os.environ.setdefault("LIT_OFFRL_CACHE", folder)
        requests = prepare(options, Path(folder))
        module = ["-m", "benchmarks.speed_worker"]
        workers = {"lit_offrl": Worker([sys.executable, *module], options.core)}
        if options.d3rlpy_python:
            module = ["-m", "benchmarks.peers.d3rlpy_worker"]
            workers["d3rlpy"] = Worker([options.d3rlpy_python, *module], options.core)
        medians = measure(workers, requests, options)
        for worker in workers.values():
            worker.close()
    print(table(medians))


if __name__ == "__main__":
    main()
