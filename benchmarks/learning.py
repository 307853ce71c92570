"""What lit_offrl learns, beside d3rlpy on the same transitions with the same settings.

    python benchmarks/learning.py --d3rlpy-python PATH --jobs 2

trains every cell (data set, algorithm, library, seed) of ``PLAN`` in a single-thread process, and
writes each to ``results.jsonl`` as it ends: a second run takes up where the first was stopped.
Then it prints the tables and draws the curves. Without ``--d3rlpy-python`` only lit_offrl trains.
``hopper/...`` and ``halfcheetah/...`` are looked for in ``MINARI_DATASETS_PATH``.
Needs Python 3.11.
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

import lit_offrl.algorithms
from benchmarks.export import export_transitions
from benchmarks.learning_report import write_report
from benchmarks.peers.rollout import episode_returns
from benchmarks.peers.settings import ALGORITHMS, AS_SHIPPED, BATCH_SIZE, D3RLPY
from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.data import OfflineDataModule

ROOT = Path(__file__).resolve().parent.parent
POINTS = 4  # evaluations along a curve


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on one data set.

    Args:
        updates: Gradient updates of each algorithm.
        seeds: Number of seeds.
        episodes: Evaluation episodes at each point of a curve.
        peers: Whether d3rlpy is trained too.
        model: Arguments of single algorithms that differ from the shared settings.
    """

    updates: dict[str, int]
    seeds: int
    episodes: int
    peers: bool
    model: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


LOCOMOTION = Plan(
    updates={"BC": 6_000, "TD3BC": 6_000, "IQL": 6_000, "BCQ": 2_000, "CQL": 2_000},
    seeds=2,
    episodes=20,
    peers=True,
)
PLAN: dict[str, Plan] = {
    "pendulum/mixed": Plan(
        updates={"BC": 8_000, "TD3BC": 8_000, "IQL": 8_000, "BCQ": 8_000, "CQL": 6_000},
        seeds=3,
        episodes=20,
        peers=False,
        model={
            "BC": {"hidden": (64, 64)},
            "TD3BC": {"hidden": (64, 64)},
            "IQL": {"hidden": (64, 64)},
            "BCQ": {"hidden": (64, 64), "vae_hidden": (64, 64)},
            "CQL": {"hidden": (64, 64), "critic_hidden": (64, 64)},
        },
    ),
    "cartpole/mixed": Plan(
        updates={
            "DiscreteBC": 4_000,
            "DiscreteIQL": 4_000,
            "DiscreteBCQ": 4_000,
            "DiscreteCQL": 6_000,
        },
        seeds=3,
        episodes=20,
        peers=False,
        model={"DiscreteCQL": {"polyak": 0.005, "target_period": 1}},
    ),
    "hopper/medium_replay-v0": LOCOMOTION,
    "halfcheetah/medium-v0": LOCOMOTION,
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run."""

    dataset: str
    algorithm: str
    library: str
    seed: int
    updates: int
    episodes: int

    @property
    def points(self) -> list[int]:
        """Updates after which the policy is evaluated."""
        return [self.updates * (i + 1) // POINTS for i in range(POINTS)]

    @property
    def title(self) -> str:
        """What the log calls it."""
        return f"{self.dataset} {self.algorithm} {self.library} seed {self.seed}"


AnyCell = TypeVar("AnyCell", bound=Cell)


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells that the options select, seed by seed, the longest first.

    A run that is stopped early has then the first seeds of everything.
    """
    peers = [D3RLPY, AS_SHIPPED] if options.d3rlpy_python else []
    plans = [(dataset, PLAN[dataset]) for dataset in options.datasets]
    for seed in range(options.seeds or max(plan.seeds for _, plan in plans)):
        for dataset, plan in plans:
            if seed >= (options.seeds or plan.seeds):
                continue
            for algorithm, updates in reversed(plan.updates.items()):
                if options.algorithms and algorithm not in options.algorithms:
                    continue
                libraries = ["lit_offrl", *(peers if plan.peers else [])]
                if not ALGORITHMS[algorithm].peer_squash:
                    libraries = [library for library in libraries if library != AS_SHIPPED]
                for library in libraries:
                    yield Cell(
                        dataset,
                        algorithm,
                        library,
                        seed,
                        options.updates or updates,
                        options.episodes or plan.episodes,
                    )


def open_data(cell: Cell, **options: Any) -> OfflineDataModule:
    """Data module of a cell: all episodes train, and an epoch ends at each point of the curve."""
    return OfflineDataModule(
        cell.dataset,
        batch_size=BATCH_SIZE,
        updates_per_epoch=cell.updates // POINTS,
        held_out=0.0,
        **ALGORITHMS[cell.algorithm].data | options,
    )


def build(cell: Cell, data: OfflineDataModule) -> OfflineAlgorithm:
    """Algorithm of a cell with the shared settings."""
    name = "BC" if cell.algorithm == "DiscreteBC" else cell.algorithm
    plan = PLAN.get(cell.dataset, LOCOMOTION)
    model = ALGORITHMS[cell.algorithm].model | plan.model.get(cell.algorithm, {})
    algorithm: OfflineAlgorithm = getattr(lit_offrl.algorithms, name)(
        obs_dim=data.obs_dim, action_dim=data.action_dim, **model
    )
    return algorithm


def environment(data: OfflineDataModule) -> tuple[str, dict[str, Any]]:
    """Id and arguments of the data set's environment."""
    assert data.spec.env_spec is not None, f"{data.dataset_id} names no environment"
    recorded = json.loads(data.spec.env_spec)
    return recorded["id"], {
        **recorded["kwargs"],
        "max_episode_steps": recorded["max_episode_steps"],
    }


class Curve(Callback):
    """Evaluates at the end of every epoch, and takes the CPU time of the updates between."""

    def __init__(self, cell: Cell, data: OfflineDataModule) -> None:
        self._cell, self._data = cell, data
        self.points: list[dict[str, Any]] = []
        self.train_cpu_s = 0.0
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock and play."""
        assert isinstance(pl_module, OfflineAlgorithm)
        self.train_cpu_s += time.process_time() - self._start
        scaling = self._data.scaling

        def act(obs: NDArray[np.float32]) -> NDArray[Any]:
            action = pl_module.act(scaling.normalize_obs(torch.from_numpy(obs)))
            return scaling.unscale_action(action).numpy()

        env_id, env_kwargs = environment(self._data)
        with torch.random.fork_rng():
            torch.manual_seed(trainer.global_step)
            returns = episode_returns(env_id, env_kwargs, act, self._cell.episodes)
        self.points.append({"update": trainer.global_step, "returns": returns})


def train_ours(
    cell: Cell, data: OfflineDataModule, compile_update: bool | Literal["auto"] = "auto"
) -> dict[str, Any]:
    """Train a cell through Lightning's Trainer."""
    torch.set_num_threads(1)
    seed_everything(cell.seed, verbose=False)
    algorithm = build(cell, data)
    algorithm.compile_update = compile_update
    curve = Curve(cell, data)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=cell.updates,
        max_epochs=-1,
        log_every_n_steps=500,
        logger=False,
        callbacks=[curve],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(algorithm, data)
    return {"curve": curve.points, "train_cpu_s": curve.train_cpu_s}


def train_d3rlpy(cell: Cell, python: str, out: Path) -> dict[str, Any]:
    """Train a cell with d3rlpy in a process of its own Python."""
    data = open_data(cell)
    env_id, env_kwargs = environment(data)
    request = {
        "task": "learn",
        "algorithm": cell.algorithm,
        "library": cell.library,
        "data": str(exported(cell, out)),
        "seed": cell.seed,
        "updates": cell.updates,
        "points": cell.points,
        "episodes": cell.episodes,
        "env_id": env_id,
        "env_kwargs": env_kwargs,
    }
    done = subprocess.run(
        [python, "-m", "benchmarks.peers.d3rlpy_worker"],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        cwd=out,  # MuJoCo leaves a log where it runs
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'callbacks'}"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    reply: dict[str, Any] = json.loads(done.stdout)
    if reply.pop("transitions") != len(data.train):
        raise RuntimeError("d3rlpy does not train on the same transitions.")
    return reply


def exported(cell: Cell, out: Path) -> Path:
    """Where the transitions of a cell are handed over; the algorithm sets the reward's scale."""
    return out.resolve() / "data" / f"{cell.dataset.replace('/', '_')}-{cell.algorithm}.npz"


def train(cell: Cell, python: str, out: Path) -> dict[str, Any]:
    """Train one cell and describe it."""
    data = open_data(cell)
    returns = data.train.returns()
    ours = cell.library == "lit_offrl"
    done = train_ours(cell, data) if ours else train_d3rlpy(cell, python, out)
    return {
        **dataclasses.asdict(cell),
        **done,
        "data_returns": [float(returns.mean()), float(returns.std()), float(returns.max())],
        "ref_scores": [data.spec.ref_min_score, data.spec.ref_max_score],
    }


def run(todo: list[Cell], options: argparse.Namespace) -> None:
    """Hand d3rlpy its transitions, then train all."""
    for cell in todo:
        if cell.library != "lit_offrl" and not exported(cell, options.out).exists():
            exported(cell, options.out).parent.mkdir(parents=True, exist_ok=True)
            export_transitions(open_data(cell), exported(cell, options.out))
    one = functools.partial(train, python=options.d3rlpy_python, out=options.out)
    train_all(todo, one, options.jobs, options.out / "results.jsonl")


def train_all(
    todo: Sequence[AnyCell],
    train_one: Callable[[AnyCell], dict[str, Any]],
    jobs: int,
    results: Path,
) -> None:
    """Train cells in parallel single-thread processes, and append each record to the results."""
    os.environ["OMP_NUM_THREADS"] = "1"
    results.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    start = time.monotonic()
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(train_one, cell): cell for cell in todo}
        for i, future in enumerate(as_completed(futures)):
            name, minutes = futures[future].title, (time.monotonic() - start) / 60
            try:
                record = future.result()
            except Exception:
                traceback.print_exc()
                print(f"[{i + 1}/{len(todo)}, {minutes:.1f} min] {name} failed", flush=True)
                continue
            with results.open("a") as file:
                print(json.dumps(record), file=file)
            last = np.mean(record["curve"][-1]["returns"])
            print(
                f"[{i + 1}/{len(todo)}, {minutes:.1f} min] {name}: return {last:.0f}, "
                f"{record['train_cpu_s']:.0f} s of training",
                flush=True,
            )


def unfinished(todo: Iterable[AnyCell], results: Path) -> list[AnyCell]:
    """Cells that the results do not hold yet."""
    records = [json.loads(line) for line in results.open()] if results.exists() else []
    return [
        cell
        for cell in todo
        if not any(dataclasses.asdict(cell).items() <= r.items() for r in records)
    ]


def main() -> None:
    """Train what is not trained yet, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--datasets", nargs="+", choices=PLAN, default=list(PLAN))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS)
    parser.add_argument("--d3rlpy-python", default="", help="Python that has d3rlpy 2.8.1")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, help="instead of the plan's")
    parser.add_argument("--updates", type=int, help="instead of the plan's")
    parser.add_argument("--episodes", type=int, help="instead of the plan's")
    parser.add_argument("--images", type=Path, help="folder of the plots; by default --out")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    results = options.out / "results.jsonl"
    if not options.report_only:
        run(unfinished(cells(options), results), options)
    write_report(results, options.images or options.out)


if __name__ == "__main__":
    main()
