"""Gradient updates per second of lit_offrl, beside d3rlpy's and TorchRL's.

    python benchmarks/speed.py --d3rlpy-python PATH --torchrl-python PATH

All run on one core and one thread, in turn, burst by burst; a figure is the median over rounds of
the CPU time of an update, batch sampling included. "fit" is what a user calls, ``lit-offrl fit``
with its loggers and diagnostics or d3rlpy's ``fit``, both without an environment; "bare" is the
library's update in a loop. The time between two epochs of ``lit-offrl fit`` is measured apart and
added as it falls on one of 5000 updates. Start-up and compilation are in ``startup.py``. Without
the peers' Pythons only lit_offrl is measured.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.export import export_transitions
from benchmarks.peers.settings import ALGORITHMS
from benchmarks.racing import (
    Answer,
    Racer,
    Worker,
    interleave,
    median_seconds,
    write_random,
)
from benchmarks.records import DEFAULT_FOLDER, Record, write_records
from benchmarks.speed_report import report
from lit_offrl.data import OfflineDataModule

DEFAULT = ("BC", "TD3BC", "IQL", "BCQ", "CQL", "DiscreteCQL")
TORCHRL = ("BC", "TD3BC", "IQL", "CQL", "DiscreteCQL")
UPDATES_PER_EPOCH = 5000  # the default of `lit-offrl fit`
K = 8  # and its updates per `training_step`
Way = tuple[str, str]
MACHINE: Way = ("machine", "peak")


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Answer]:
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
        if options.d3rlpy_python or options.torchrl_python:
            data = OfflineDataModule(dataset, held_out=0.0, **ALGORITHMS[name].data)
            export_transitions(data, exported)
        requests[name] = {"algorithm": name, "dataset": dataset, "data": str(exported)}
    return requests


def our_racer(way: str, request: Answer, options: argparse.Namespace) -> Racer:
    """Start a worker of lit_offrl."""
    worker = Worker("benchmarks.speed_worker", core=options.core)
    return Racer(worker, {"task": way, "k": K, "compile": not options.eager, **request})


def peer_racers(request: Answer, options: argparse.Namespace) -> dict[Way, Racer]:
    """Start workers of those peers that have the algorithm."""
    racers = {}
    if options.d3rlpy_python and ALGORITHMS[request["algorithm"]].peer:
        for way in ("fit", "bare"):
            module = "benchmarks.peers.d3rlpy_worker"
            worker = Worker(module, options.d3rlpy_python, options.core)
            racers["d3rlpy", way] = Racer(worker, {"task": "race", "through": way, **request})
    if options.torchrl_python and request["algorithm"] in TORCHRL:
        for compiled in (False, True) if options.torchrl_compile else (False,):
            module = "benchmarks.peers.torchrl_worker"
            worker = Worker(module, options.torchrl_python, options.core)
            library = "TorchRL compiled" if compiled else "TorchRL"
            racers[library, "bare"] = Racer(worker, {"compile": compiled, **request})
    return racers


def race(request: Answer, options: argparse.Namespace, folder: Path) -> list[Record]:
    """Let all ways of one algorithm run in turn, and the machine's peak with them."""
    meter = Racer(Worker("benchmarks.speed_worker", core=options.core), {"task": "peak"})
    bare = our_racer("bare", request, options)
    warm_up = ALGORITHMS[request["algorithm"]].model.get("target_period", 0)
    bare.calibrate(options.seconds, K, warm_up)
    run = {"epoch": bare.updates, "diagnostics": True, "run_dir": str(folder / "fit")}
    fit = our_racer("fit", {**request, **run}, options)
    peers = peer_racers(request, options)
    for racer in (fit, *peers.values()):
        racer.calibrate(options.seconds, K, warm_up)
    racers = {MACHINE: meter, ("lit_offrl", "fit"): fit, ("lit_offrl", "bare"): bare, **peers}
    answers = interleave(racers, options.rounds)
    flops = meter.worker.ask(**{**request, "task": "flops"})["flops"]
    for racer in racers.values():
        racer.worker.close()
    peak: float = statistics.median([answer["flops"] for answer in answers.pop(MACHINE)])
    return [
        {
            "kind": "rate",
            "algorithm": request["algorithm"],
            "library": library,
            "way": way,
            "compiled": not options.eager,  # lit_offrl's; a peer's is in its name
            "seconds": median_seconds(bursts) + epoch_share(bursts),
            "epoch_share": epoch_share(bursts),
            "bursts": [burst["seconds"] for burst in bursts],
            "flops": flops,
            "peak_flops": peak,
        }
        for (library, way), bursts in answers.items()
    ]


def epoch_share(bursts: list[Answer]) -> float:
    """CPU seconds that lie between two epochs, per update of an epoch of the default length."""
    ends = [seconds for burst in bursts for seconds in burst.get("epoch_ends", [])]
    return statistics.median(ends) / UPDATES_PER_EPOCH if ends else 0.0


def measure_tax(request: Answer, options: argparse.Namespace, folder: Path) -> list[Record]:
    """Time ``fit`` without diagnostics and the bare update at several K, in turn."""
    racers = {}
    for k in options.tax_k:
        run = {
            "k": k,
            "epoch": UPDATES_PER_EPOCH,
            "diagnostics": False,
            "run_dir": str(folder / f"tax-{k}"),
        }
        for way in ("fit", "bare"):
            racers[k, way] = our_racer(way, {**request, **run}, options)
            racers[k, way].calibrate(options.seconds, k)
    answers = interleave(racers, options.rounds)
    for racer in racers.values():
        racer.worker.close()
    return [
        {
            "kind": "tax",
            "algorithm": request["algorithm"],
            "k": k,
            "compiled": not options.eager,
            "ratios": [
                fit["seconds"] / bare["seconds"]  # of one round, a second or two apart
                for fit, bare in zip(answers[k, "fit"], answers[k, "bare"], strict=True)
            ],
        }
        for k in options.tax_k
    ]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=DEFAULT)
    parser.add_argument("--d3rlpy-python", default="", help="Python that has d3rlpy 2.8.1")
    parser.add_argument("--torchrl-python", default="", help="Python that has TorchRL 0.14.1")
    parser.add_argument("--torchrl-compile", action="store_true", help="time it compiled too")
    parser.add_argument("--eager", action="store_true", help="do not compile lit_offrl's updates")
    parser.add_argument("--dataset", default="", help="Minari id instead of random transitions")
    parser.add_argument("--transitions", type=int, default=100_000, help="size of the random set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a burst")
    parser.add_argument("--tax-k", type=int, nargs="*", default=[1, 8, 32], help="K of the tax")
    parser.add_argument("--core", type=int, default=0, help="core that all bursts run on")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder of the records")
    return parser.parse_args()


def main() -> None:
    """Measure, write the records and print tables."""
    options = parse()
    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Random files are not worth a place in the user's cache.
        os.environ.setdefault("LIT_OFFRL_CACHE", name)
        requests = prepare(options, folder)
        for algorithm, request in requests.items():
            print(f"{algorithm} ...", file=sys.stderr, flush=True)
            records += race(request, options, folder / algorithm)
            write_records(options.out / "speed.jsonl", records)  # kept if the rest is stopped
        if options.tax_k and "IQL" in requests:
            print("tax ...", file=sys.stderr, flush=True)
            records += measure_tax(requests["IQL"], options, folder)
    write_records(options.out / "speed.jsonl", records)
    print(report(options.out, "speed"))


if __name__ == "__main__":
    main()
