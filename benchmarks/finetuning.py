"""What fine-tuning gains and costs: return before, dip, recovery and after, over seeds.

    MINARI_DATASETS_PATH=... python benchmarks/finetuning.py --out runs/finetuning --jobs 2

trains every cell of ``PLAN`` offline with `lit-offrl fit`, goes on with `lit-offrl finetune`, and
writes each run to ``results.jsonl`` as it ends: a second call takes up where the first stopped.
Then it prints the table. Hopper's sets are looked for in ``MINARI_DATASETS_PATH`` and need the
extra ``mujoco``.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_offrl.data import load_dataset
from lit_offrl.online.datamodule import Collecting
from lit_offrl.online.measures import outcome

ROOT = Path(__file__).resolve().parent.parent
ONE_AT_A_TIME = threading.Lock()
MAIN = "from lit_offrl.cli import main; main()"


@dataclass(frozen=True)
class Cell:
    """One way to get a policy.

    Args:
        name: What it is called.
        dataset: The log.
        fit: Arguments of `lit-offrl fit`.
        finetune: Arguments of `lit-offrl finetune`.
        steps: Environment steps.
        utd: Updates per step.
        random_steps: Uniform steps at the start.
    """

    name: str
    dataset: str
    fit: tuple[str, ...]
    finetune: tuple[str, ...]
    steps: int
    utd: float = 1.0
    random_steps: int = 0

    @property
    def key(self) -> str:
        """Name of its folders."""
        return f"{self.dataset.split('/')[0]}-{self.name.lower().replace(' ', '-')}"


def _sizes(hidden: str) -> tuple[str, ...]:
    """Options of small networks of CQL, so that the table takes hours and not days."""
    names = ("hidden", "critic_hidden")
    return tuple(part for name in names for part in (f"--model.init_args.{name}", f"[{hidden}]"))


def pendulum(name: str, config: str, *finetune: str, random_steps: int = 0) -> Cell:
    """A cell of the built-in Pendulum set."""
    fit: tuple[str, ...] = ("-c", f"{config}/classic_control.yaml")
    if config != "iql":
        fit = (*fit, *_sizes("64,64"))
    return Cell(name, "pendulum/mixed", fit, finetune, 10_000, random_steps=random_steps)


def hopper(name: str, config: str, updates: int, steps: int, *finetune: str, **more: Any) -> Cell:
    """A cell of a Hopper set: of medium skill, or for RLPD of medium and expert skill."""
    dataset = "hopper/medium_expert-v0" if "rlpd" in finetune else "hopper/medium-v0"
    fit: tuple[str, ...] = ("-c", f"{config}/mujoco.yaml", "--data.dataset_id", dataset)
    fit = (*fit, "--trainer.max_steps", str(updates), "--data.updates_per_epoch", str(updates))
    if config != "iql":
        fit = (*fit, *_sizes("256,256"), "--model.init_args.n_actions", "4")
    return Cell(name, dataset, fit, finetune, steps, **more)


RLPD = ("--mode", "rlpd", "--model.n_critics", "5")
FAST = ("--mode", "rlpd", "--model.n_critics", "2", "--model.policy_period", "5")
SMALL = ("--model.hidden", "[64,64]", "--model.critic_hidden", "[64,64]")
ALONE = ("--offline_fraction", "0")
HALF = ("--offline_fraction", "0.5")  # Cal-QL's authors'
PLAN = [
    pendulum("IQL", "iql"),
    pendulum("CQL", "cql", *HALF),
    pendulum("Cal-QL", "cal_ql", *HALF),
    pendulum("RLPD", "iql", *RLPD, *SMALL, random_steps=1_000),
    pendulum("SAC (RLPD without log)", "iql", *RLPD, *SMALL, *ALONE, random_steps=1_000),
    hopper("RLPD", "iql", 100, 20_000, *FAST, utd=5, random_steps=1_000),
    hopper("SAC (RLPD without log)", "iql", 100, 20_000, *FAST, *ALONE, utd=5, random_steps=1_000),
    hopper("IQL", "iql", 20_000, 20_000),
    hopper("CQL", "cql", 50_000, 10_000, *HALF, "--model.policy_lr", "1e-4"),
    hopper("Cal-QL", "cal_ql", 50_000, 10_000, *HALF, "--model.policy_lr", "1e-4"),
]


def call(*arguments: str) -> None:
    """Run a verb in a process of one thread."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "callbacks")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}:\n{done.stderr[-2000:]}")


def train(cell: Cell, seed: int, out: Path) -> dict[str, object]:
    """Train offline, then online, and sum up."""
    offline = out / f"{cell.dataset.replace('/', '-')}-{cell.fit[1].split('/')[0]}-{seed}"
    run = out / f"{cell.key}-{seed}"
    evaluated = ("--eval_episodes", "10", "--before_episodes", "50", "--progress", "false")
    with ONE_AT_A_TIME:  # cells share offline runs; one that was cut short goes on
        watched = ("--evaluation.episodes", "0", "--diagnostics", "false")
        where = ("--seed_everything", str(seed), "--run_dir", str(offline), "--ckpt_path", "last")
        call("fit", *cell.fit, *watched, *where)
    start = time.perf_counter()
    call(
        "finetune",
        str(offline / "checkpoints" / "last.ckpt"),
        *cell.finetune,
        *evaluated,
        *("--steps", str(cell.steps), "--eval_every", str(cell.steps // 20)),
        *("--utd", str(cell.utd)),
        *("--random_steps", str(cell.random_steps), "--seed", str(seed)),
        *("--run_dir", str(run), "--diagnostics", "false", "--ckpt_path", "last"),
    )
    wall = time.perf_counter() - start
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    before = next(c["before"] for c in state.values() if "before" in c)
    history = next(
        c["history"] for c in state.values() if "episodes_spent" in c and "before" not in c
    )
    steps_before = Collecting(cell.steps, random_steps=cell.random_steps, utd=cell.utd).steps_before
    points = [(steps_before(int(update) - 1), float(mean)) for update, mean in history]
    return {"cell": asdict(cell), "seed": seed, "before": before, "points": points, "wall": wall}


def steps_to(points: Sequence[tuple[int, float]], target: float) -> float:
    """Environment steps until an evaluation reaches a return."""
    return next((float(step) for step, value in points if value >= target), float("inf"))


def table(records: Sequence[dict[str, object]]) -> str:
    """Means over seeds, one row per cell."""
    lines = [
        "| log | algorithm | seeds | before | dip | recovery, steps | after | regret "
        "| steps to an evaluation at the log's mean | steps | wall, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in PLAN:
        mine = [r for r in records if r["cell"]["name"] == cell.name]  # type: ignore[index]
        mine = [r for r in mine if r["cell"]["dataset"] == cell.dataset]  # type: ignore[index]
        if mine:
            lines.append(_row(cell, mine))
    return "\n".join(lines)


def _row(cell: Cell, records: Sequence[dict[str, object]]) -> str:
    mean_return = float(load_dataset(cell.dataset)[0].returns().mean())
    results, reached = [], []
    for record in records:
        points = [(int(step), float(value)) for step, value in record["points"]]  # type: ignore[attr-defined]
        before: dict[str, float] = record["before"]  # type: ignore[assignment]
        results.append(outcome(before["return"], points, before["random"]))
        reached.append(steps_to(points, mean_return))
    walls = [float(r["wall"]) for r in records]  # type: ignore[arg-type]

    def spread(values: Sequence[float]) -> str:
        return f"{np.mean(values):.0f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.0f}"

    def each(values: Sequence[float]) -> str:
        return ", ".join("–" if np.isinf(v) else f"{v:,.0f}" for v in values)

    columns = [
        cell.dataset,
        cell.name,
        str(len(records)),
        spread([r.before for r in results]),
        f"{np.mean([r.dip for r in results]):.2f}",
        each([r.recovery_steps for r in results]),
        spread([r.after for r in results]),
        f"{np.mean([r.regret for r in results]):.2f}",
        each(reached),
        f"{cell.steps:,}",
        f"{np.mean(walls):.0f}",
    ]
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="part of a cell's name")
    parser.add_argument("--report-only", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    done = {(r["cell"]["name"], r["cell"]["dataset"], r["seed"]) for r in records}
    todo = [
        (cell, seed)
        for seed in options.seeds
        for cell in PLAN
        if (cell.name, cell.dataset, seed) not in done and options.only in cell.key
    ]
    if not options.report_only:
        with ThreadPoolExecutor(options.jobs) as pool:
            waiting = {pool.submit(train, cell, s, options.out): (cell, s) for cell, s in todo}
            for future in as_completed(waiting):
                records.append(future.result())
                with path.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                print(waiting[future][0].key, waiting[future][1], flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
