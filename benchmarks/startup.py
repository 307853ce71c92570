"""Seconds from the start of ``lit-offrl fit`` to its first update, and its memory.

    python benchmarks/startup.py

Wall-clock time of one process with one thread, imports and loading of the data included. The
first run on a data set also reads its file and fits the behavior policy that the diagnostics
need, which later runs find in the cache; a compiled run compiles its update, which later runs find
in Inductor's cache. Memory is the largest resident set of the process, without that of the
helpers that Inductor starts.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.settings import ALGORITHMS
from benchmarks.racing import Worker, write_random
from benchmarks.records import DEFAULT_FOLDER, Record, write_records
from benchmarks.speed_report import report

DEFAULT = ("IQL", "CQL")


def start(algorithm: str, folder: Path, case: str, compiled: bool) -> Record:
    """Start a run, wait for its first update, then let it run on to see its memory."""
    env = {
        "LIT_OFFRL_CACHE": str(folder / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / f"inductor-{algorithm}"),
    }
    begin = time.monotonic()
    worker = Worker("benchmarks.speed_worker", env=env)
    worker.ask(
        task="fit",
        algorithm=algorithm,
        dataset=str(folder / "box.hdf5"),
        run_dir=tempfile.mkdtemp(dir=folder),
        k=1,
        epoch=16,
        compile=compiled,
        diagnostics=True,
        updates=1,
    )
    seconds = time.monotonic() - begin
    memory = worker.ask(updates=32)["peak_mb"]  # two epochs end meanwhile
    worker.close()
    return {
        "kind": "startup",
        "algorithm": algorithm,
        "case": case,
        "compiled": compiled,
        "seconds": seconds,
        "peak_mb": memory,
    }


def measure(options: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """Measure all cases; their order is what makes caches cold and warm."""
    write_random(folder / "box.hdf5", options.transitions)
    yield start(options.algorithms[0], folder, "first run on a data set, eager", False)
    for algorithm in options.algorithms:
        yield start(algorithm, folder, "eager", False)
        if not options.eager:
            yield start(algorithm, folder, "compiled for the first time", True)
            yield start(algorithm, folder, "compiled, from the cache", True)


def main() -> None:
    """Measure, write the records and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=DEFAULT)
    parser.add_argument("--transitions", type=int, default=100_000, help="size of the random set")
    parser.add_argument("--eager", action="store_true", help="do not compile lit_offrl's updates")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder of the records")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = list(measure(options, Path(folder)))
    write_records(options.out / "startup.jsonl", records)
    print(report(options.out, "startup"))


if __name__ == "__main__":
    main()
