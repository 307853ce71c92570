"""How the cost of an update grows with batch, width, ensemble and data set.

    python benchmarks/growth.py

One quantity at a time moves away from batch 256, width 256, two critics and 100,000 transitions.
Each point's process takes turns, burst by burst, with one that stays at these; a figure is
the median over rounds of the ratio of their CPU times of a bare update, sampling included.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.racing import Answer, Racer, Worker, interleave, write_random
from benchmarks.records import DEFAULT_FOLDER, Record, write_records
from benchmarks.speed_report import report

BASE = {"batch": 256, "width": 256, "critics": 2, "transitions": 100_000}
POINTS = {
    "batch": (64, 128, 512, 1024),
    "width": (64, 128, 512),
    "critics": (4, 8, 16),
    "transitions": (10_000, 1_000_000),
}
WIDTHS = {"IQL": ("hidden",), "TD3BC": ("hidden",), "CQL": ("hidden", "critic_hidden")}
"""Algorithms with an ensemble of critics, and which arguments are their networks' widths."""


def racer(algorithm: str, point: dict[str, int], options: argparse.Namespace) -> Racer:
    """Start a worker at one point, with its data set."""
    dataset = options.folder / f"{point['transitions']}.hdf5"
    if not dataset.exists():
        write_random(dataset, point["transitions"])
    model: Answer = dict.fromkeys(WIDTHS[algorithm], (point["width"], point["width"]))
    request = {
        "task": "bare",
        "algorithm": algorithm,
        "dataset": str(dataset),
        "batch_size": point["batch"],
        "k": 8,
        "compile": not options.eager,
        "model": {**model, "n_critics": point["critics"]},
    }
    # a process each, so that none inherits another's memory
    return Racer(Worker("benchmarks.speed_worker", core=options.core), request)


def measure(algorithm: str, options: argparse.Namespace) -> list[Record]:
    """Measure all points of one algorithm."""
    base = racer(algorithm, BASE, options)
    seconds = [base.calibrate(options.seconds)]
    records = []
    for quantity, values in POINTS.items():
        for value in values:
            print(f"{algorithm} {quantity} {value} ...", file=sys.stderr, flush=True)
            point = racer(algorithm, {**BASE, quantity: value}, options)
            point.calibrate(options.seconds)
            answers = interleave({"base": base, "point": point}, options.rounds)
            point.worker.close()
            base_s, point_s = ([a["seconds"] for a in answers[way]] for way in ("base", "point"))
            seconds += base_s
            ratios = [p / b for p, b in zip(point_s, base_s, strict=True)]
            records.append({"quantity": quantity, "value": value, "cost": ratios})
        records.append({"quantity": quantity, "value": BASE[quantity], "cost": [1.0]})
    base.worker.close()
    common = {
        "kind": "growth",
        "algorithm": algorithm,
        "compiled": not options.eager,
        "base_seconds": statistics.median(seconds),
    }
    return [{**common, **record} for record in records]


def main() -> None:
    """Measure, write the records, print a table and draw a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--algorithms", nargs="+", choices=WIDTHS, default=["IQL"])
    parser.add_argument("--eager", action="store_true", help="do not compile lit_offrl's updates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a burst")
    parser.add_argument("--core", type=int, default=0, help="core that all bursts run on")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder of the records")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        os.environ.setdefault("LIT_OFFRL_CACHE", folder)
        records = [r for algorithm in options.algorithms for r in measure(algorithm, options)]
    write_records(options.out / "growth.jsonl", records)
    print(report(options.out, "growth", options.out))


if __name__ == "__main__":
    main()
