"""What ``--seeds N`` costs beside N runs one after the other.

    python benchmarks/seeds.py

A compiled update of all seeds and one of a single seed take turns, burst by burst, on one core;
a figure is the median over rounds of CPU times, batch sampling included. The last column adds
the time to compile, which N runs pay N times, here with an empty Inductor cache; imports and
loading, which they also pay N times, are not in it.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.growth import WIDTHS
from benchmarks.racing import Answer, Racer, Worker, interleave, write_random
from benchmarks.records import DEFAULT_FOLDER, Record, write_records
from benchmarks.speed_report import report


def racer(algorithm: str, width: int, seeds: int, options: argparse.Namespace) -> Racer:
    """Start a worker that updates one seed, or several at once."""
    request: Answer = {
        "task": "bare",
        "algorithm": algorithm,
        "dataset": str(options.folder / "box.hdf5"),
        "k": 8,
        "compile": True,
        "model": dict.fromkeys(WIDTHS[algorithm], (width, width)),
        **({"seeds": seeds} if seeds > 1 else {}),
    }
    cache = options.folder / f"inductor-{algorithm}-{width}-{seeds}"
    env = {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    return Racer(Worker("benchmarks.speed_worker", core=options.core, env=env), request)


def first_burst(racer: Racer) -> float:
    """CPU seconds of what comes before the first update, compiling above all."""
    racer.updates = 8
    return 8 * float(racer.burst()["seconds"])


def measure(algorithm: str, width: int, options: argparse.Namespace) -> Record:
    """Measure one width."""
    print(f"{algorithm} width {width} ...", file=sys.stderr, flush=True)
    racers = {
        "one": racer(algorithm, width, 1, options),
        "all": racer(algorithm, width, options.seeds, options),
    }
    compiles = {name: first_burst(each) for name, each in racers.items()}
    for each in racers.values():
        each.calibrate(options.seconds)
    answers = interleave(racers, options.rounds)
    for each in racers.values():
        each.worker.close()
    one, all_ = ([answer["seconds"] for answer in answers[name]] for name in ("one", "all"))
    return {
        "kind": "seeds",
        "algorithm": algorithm,
        "width": width,
        "seeds": options.seeds,
        "compiled": True,
        "one_seconds": statistics.median(one),
        "all_seconds": statistics.median(all_),
        "ratios": [a / (options.seeds * o) for a, o in zip(all_, one, strict=True)],
        "one_compile": compiles["one"],
        "all_compile": compiles["all"],
    }


def main() -> None:
    """Measure, write the records and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--algorithms", nargs="+", choices=WIDTHS, default=["IQL"])
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128, 256])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a burst")
    parser.add_argument("--core", type=int, default=0, help="core that all bursts run on")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder of the records")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        os.environ.setdefault("LIT_OFFRL_CACHE", folder)
        write_random(options.folder / "box.hdf5", 100_000)
        records = [
            measure(a, width, options) for a in options.algorithms for width in options.widths
        ]
    write_records(options.out / "seeds.jsonl", records)
    print(report(options.out, "seeds"))


if __name__ == "__main__":
    main()
