import json
import subprocess
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import LightningModule

from benchmarks import growth, speed, speed_worker
from benchmarks.peers.serving import cpu_seconds
from benchmarks.racing import (
    ACTION_DIM,
    OBS_DIM,
    ROOT,
    Answer,
    Racer,
    Worker,
    interleave,
    write_random,
)
from benchmarks.records import Record, read_records, write_records
from benchmarks.speed import epoch_share
from benchmarks.speed_report import report
from benchmarks.speed_worker import Pacer


class Recorder:
    """Stands in for a worker, and notes what it is asked for."""

    def __init__(self, name: str, notes: list[Any], seconds: float = 0.01) -> None:
        self.name, self.notes, self.seconds = name, notes, seconds

    def ask(self, **request: Any) -> dict[str, float]:
        self.notes.append((self.name, request["updates"]))
        return {"seconds": self.seconds}

    def close(self) -> None:
        pass


def racer(name: str, notes: list[Any], updates: int = 8) -> Racer:
    return Racer(Recorder(name, notes), {}, updates)  # type: ignore[arg-type]


def test_racers_take_turns_and_every_other_round_goes_back() -> None:
    notes: list[Any] = []
    answers = interleave({name: racer(name, notes) for name in "abc"}, rounds=3)
    assert [name for name, _ in notes] == list("abccbaabc")
    assert [len(bursts) for bursts in answers.values()] == [3, 3, 3]


@pytest.mark.parametrize(("seconds", "updates"), [(1.0, 96), (0.001, 16)])
def test_a_burst_is_a_multiple_of_k_that_takes_the_time_it_may(
    seconds: float, updates: int
) -> None:
    notes: list[Any] = []
    one = racer("a", notes)
    assert one.calibrate(seconds, 8, warm_up=500) == 0.01
    assert one.updates == updates
    assert notes == [("a", 500), ("a", 16)]


def test_a_worker_that_dies_says_why() -> None:
    worker = Worker("benchmarks.no_such_worker")
    with pytest.raises(RuntimeError, match="No module named"):
        worker.ask()
    worker.close()


def test_what_a_library_prints_does_not_reach_the_replies() -> None:
    program = (
        "from benchmarks.peers.serving import serve\n"
        "def answer(request):\n"
        "    print('noise')\n"
        "    return {'double': 2 * request['n']}\n"
        "serve(answer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input='{"n": 2}\n{"n": 3}\n',
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"double": 4}, {"double": 6}]
    assert "noise" in done.stderr


def test_cpu_seconds_are_those_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 16.0])
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    steps: list[int] = []
    assert cpu_seconds(lambda: steps.append(1), 3) == 2.0
    assert len(steps) == 3


def test_bare_runs_whole_blocks_and_no_fewer_updates_than_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks: list[int] = []
    monkeypatch.setattr(speed_worker, "block_of_updates", lambda key: lambda: blocks.append(1))
    speed_worker.bare({"updates": 500, "k": 8})
    assert len(blocks) == 63


class Script:
    """Stands in for a channel: gives requests, keeps replies."""

    def __init__(self) -> None:
        self.replies: list[Record] = []

    def receive(self) -> Record:
        return {"updates": 12}

    def reply(self, answer: Record) -> None:
        self.replies.append(answer)


def test_fit_is_timed_without_start_and_without_the_time_between_epochs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.process_time", lambda: now)
    channel = Script()
    pacer = Pacer(channel, 8)  # type: ignore[arg-type]
    trainer: Any = SimpleNamespace(global_step=0)
    module = LightningModule()
    now += 100.0  # start-up
    for batch_idx in (0, 1, 0, 1, 2):  # blocks of 8 updates, 2 and 3 an epoch
        if batch_idx == 0 and trainer.global_step:
            now += 50.0  # what lies between two epochs
        pacer.on_train_batch_start(trainer, module, None, batch_idx)
        now += 8.0
        trainer.global_step += 8
        pacer.on_train_batch_end(trainer, module)
    assert [reply["seconds"] for reply in channel.replies] == [1.0, 1.0, 1.0]
    assert [reply["epoch_ends"] for reply in channel.replies] == [[], [50.0], []]


def test_an_epochs_end_falls_on_its_5000_updates() -> None:
    bursts: list[Record] = [
        {"epoch_ends": [1.0, 9.0]},
        {"epoch_ends": [5.0]},
        {"epoch_ends": []},
        {},
    ]
    assert epoch_share(bursts) == pytest.approx(5.0 / 5000)
    assert epoch_share([{}]) == 0.0


def test_the_tax_is_fit_over_bare_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(way: str, request: Answer, options: Namespace) -> Racer:
        return Racer(Recorder(way, [], {"fit": 0.012, "bare": 0.01}[way]), request)  # type: ignore[arg-type]

    monkeypatch.setattr(speed, "our_racer", fake)
    options = Namespace(tax_k=[1, 8], seconds=0.1, rounds=2, eager=True)
    records = speed.measure_tax({"algorithm": "IQL"}, options, Path())
    assert [(r["k"], r["ratios"]) for r in records] == [(1, [1.2, 1.2]), (8, [1.2, 1.2])]


def test_growth_is_the_cost_of_a_point_over_that_of_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fake(algorithm: str, point: dict[str, int], options: Namespace) -> Racer:
        return Racer(Recorder("", [], point["batch"] / 1000), {})  # type: ignore[arg-type]

    monkeypatch.setattr(growth, "racer", fake)
    options = Namespace(seconds=0.1, rounds=3, eager=True)
    records = growth.measure("IQL", options)
    batch = {r["value"]: r["cost"] for r in records if r["quantity"] == "batch"}
    assert batch == {64: [0.25] * 3, 128: [0.5] * 3, 512: [2.0] * 3, 1024: [4.0] * 3, 256: [1.0]}
    assert {r["base_seconds"] for r in records} == {0.256}
    assert all(
        r["cost"] == [1.0] * 3 for r in records if r["quantity"] == "width" and r["value"] != 256
    )


def rate(library: str, way: str, seconds: float, algorithm: str = "IQL") -> Record:
    return {
        "kind": "rate",
        "algorithm": algorithm,
        "library": library,
        "way": way,
        "compiled": True,
        "seconds": seconds,
        "flops": 5e8,
        "peak_flops": 2e11,
    }


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


def test_the_rate_table_gives_rates_share_of_the_peak_and_ratios(tmp_path: Path) -> None:
    records = [
        rate("lit_offrl", "fit", 0.004),
        rate("lit_offrl", "bare", 0.0032),
        rate("d3rlpy", "fit", 0.016),
        rate("d3rlpy", "bare", 0.015),
        rate("TorchRL", "bare", 0.014),
        rate("lit_offrl", "fit", 0.1, "BCQ"),
        rate("lit_offrl", "bare", 0.1, "BCQ"),
    ]
    write_records(tmp_path / "speed.jsonl", records)
    text = report(tmp_path, "speed")
    heads, iql, bcq = rows(text)
    table = dict(zip(heads, iql, strict=True))
    assert (table["lit_offrl fit"], table["lit_offrl bare"]) == ("250", "312")
    assert table["of the sgemm peak"] == "78% of 200 GFLOP/s"
    assert table["fit / d3rlpy fit"] == "**4.00**"
    assert table["fit / d3rlpy bare"] == "**3.75**"
    assert table["fit / TorchRL"] == "**3.50**"
    assert bcq[-3:] == ["–", "–", "–"]
    assert text.startswith("### Updates per second\n\nMeasured on ")
    assert "Updates of lit_offrl: compiled." in text


def test_the_tax_is_the_median_of_the_rounds(tmp_path: Path) -> None:
    ratios = [1.5, 1.01, 1.02, 1.03, 0.9]
    record = {"kind": "tax", "algorithm": "IQL", "k": 8, "compiled": True, "ratios": ratios}
    write_records(tmp_path / "speed.jsonl", [record])
    assert rows(report(tmp_path, "speed"))[1] == ["IQL, K = 8", "1.02 (1.01 to 1.03)"]


def test_growth_is_told_from_small_to_large_and_drawn(tmp_path: Path) -> None:
    points = [("width", 512, 4.0), ("width", 256, 1.0), ("batch", 64, 0.5), ("batch", 256, 1.0)]
    points += [("critics", 2, 1.0), ("transitions", 100_000, 1.0)]
    records = [
        {
            "kind": "growth",
            "algorithm": "IQL",
            "compiled": False,
            "quantity": quantity,
            "value": value,
            "cost": [cost],
            "base_seconds": 0.01,
        }
        for quantity, value, cost in points
    ]
    write_records(tmp_path / "growth.jsonl", records)
    table = rows(report(tmp_path, "growth", tmp_path / "images"))[1:]
    assert [row[2] for row in table] == ["64", "256", "256", "512", "2", "100,000"]
    assert table[3][3:] == ["4", "25"]
    assert (tmp_path / "images" / "speed_growth.png").stat().st_size > 10_000


def test_nothing_measured_gives_no_table(tmp_path: Path) -> None:
    assert report(tmp_path, "startup") == ""


@pytest.mark.slow
def test_a_worker_of_ours_times_fit_and_bare_and_counts_operations(tmp_path: Path) -> None:
    write_random(tmp_path / "box.hdf5", 2000)
    common = {"algorithm": "BC", "dataset": str(tmp_path / "box.hdf5"), "compile": False, "k": 8}
    worker = Worker("benchmarks.speed_worker", env={"LIT_OFFRL_CACHE": str(tmp_path / "cache")})
    bare = worker.ask(task="bare", updates=16, **common)
    flops = worker.ask(task="flops", **common)["flops"]
    run = {"run_dir": str(tmp_path / "run"), "epoch": 16, "diagnostics": False}
    first = worker.ask(task="fit", updates=16, **run, **common)
    second = worker.ask(updates=32)
    worker.close()

    assert bare["seconds"] > 0 and first["seconds"] > 0 and second["peak_mb"] > 50
    assert first["epoch_ends"] == [] and len(second["epoch_ends"]) == 2
    products = [a * b for a, b in pairwise([OBS_DIM, 256, 256, ACTION_DIM])]
    forward, gradients = sum(products), 2 * sum(products) - products[0]  # none of observations
    assert flops == 2 * 256 * (forward + gradients)


@pytest.mark.slow
def test_a_race_leaves_a_record_per_way_and_prints_its_table(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/speed.py", "--algorithms", "BC", "--eager"),
            *("--transitions", "2000", "--rounds", "1", "--seconds", "0.05", "--tax-k"),
            *("--out", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    machine, *records = read_records(tmp_path / "speed.jsonl")
    assert machine["kind"] == "machine"
    assert [(r["library"], r["way"]) for r in records] == [
        ("lit_offrl", "fit"),
        ("lit_offrl", "bare"),
    ]
    fit, bare = records
    assert fit["epoch_share"] > 0 and bare["epoch_share"] == 0
    assert fit["seconds"] == fit["bursts"][0] + fit["epoch_share"]
    assert fit["peak_flops"] > 1e9
    assert "| BC |" in done.stdout
