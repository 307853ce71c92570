"""Whether off-policy estimates put checkpoints in the order of their returns.

    python benchmarks/ranking.py train
    python benchmarks/ranking.py estimate
    python benchmarks/ranking.py peer --d3rlpy-python PATH
    python benchmarks/ranking.py report --images docs/images

trains BC, IQL, CQL and TD3+BC on three sets of Hopper data, keeps six checkpoints of each run and
plays episodes with each; estimates the value of each by FQE from the log alone; does the same with
d3rlpy's FQE; and compares. Every stage appends to ``records.jsonl`` in ``--out`` and takes up where
it was stopped. The sets are looked for in ``MINARI_DATASETS_PATH``. Needs Python 3.11.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

import lit_offrl.algorithms
from benchmarks.export import export_transitions
from benchmarks.peers.settings import ALGORITHMS, BATCH_SIZE
from benchmarks.ranking_report import report
from lit_offrl import load
from lit_offrl.checkpoint import LoadedPolicy
from lit_offrl.data import OfflineDataModule, load_dataset
from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation import evaluate
from lit_offrl.evaluation.estimators.fitted_q import fit_fqe
from lit_offrl.evaluation.logged import logged_data
from lit_offrl.evaluation.target import GreedyPolicy

DATASETS = ("hopper/medium-v0", "hopper/medium_replay-v0", "hopper/medium_expert-v0")
UPDATES = {
    "BC": (250, 500, 1000, 2000, 4000, 6000),
    "TD3BC": (250, 500, 1000, 2000, 4000, 6000),
    "IQL": (250, 500, 1000, 2000, 4000, 6000),
    "CQL": (100, 250, 500, 1000, 1500, 2000),
}
EPISODES = 50
FIRST_SEED = 20_000
FQE_UPDATES = 4_000
FQE_MEMBERS = 2
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """One training run."""

    dataset: str
    algorithm: str

    def checkpoint(self, out: Path, update: int) -> Path:
        """Where the run's checkpoint after ``update`` updates lies."""
        return out / self.dataset.replace("/", "_") / self.algorithm / f"update-{update}.ckpt"


def runs() -> Iterator[Run]:
    """All runs."""
    return (Run(dataset, algorithm) for dataset in DATASETS for algorithm in UPDATES)


class Records:
    """Lines of results, found again by what they are about.

    Args:
        path: File that they are appended to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]

    def has(self, **about: Any) -> bool:
        """Whether there is a line about this."""
        return any(about.items() <= line.items() for line in self.lines)

    def add(self, **line: Any) -> None:
        """Append a line, and say so."""
        self.lines.append(line)
        with self.path.open("a") as file:
            print(json.dumps(line), file=file)
        print(line, flush=True)


class Keep(Callback):
    """Saves checkpoints after given numbers of updates."""

    def __init__(self, run: Run, out: Path) -> None:
        self._run, self._out = run, out

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time."""
        if trainer.global_step in UPDATES[self._run.algorithm]:
            trainer.save_checkpoint(self._run.checkpoint(self._out, trainer.global_step))


def train(run: Run, out: Path) -> None:
    """Train a run and leave its checkpoints."""
    seed_everything(0, verbose=False)
    settings = ALGORITHMS[run.algorithm]
    data = OfflineDataModule(
        run.dataset, batch_size=BATCH_SIZE, updates_per_step=10, held_out=0.0, **settings.data
    )
    model = getattr(lit_offrl.algorithms, run.algorithm)(
        obs_dim=data.obs_dim, action_dim=data.action_dim, **settings.model
    )
    Trainer(
        accelerator="cpu",
        max_steps=UPDATES[run.algorithm][-1],
        max_epochs=-1,
        logger=False,
        callbacks=[Keep(run, out)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(model, data)


def train_all(records: Records, out: Path) -> None:
    """Train what is not trained, and play with each checkpoint."""
    for run in runs():
        last = UPDATES[run.algorithm][-1]
        if not run.checkpoint(out, last).exists():
            train(run, out)
        for update in UPDATES[run.algorithm]:
            about = {"what": "played", **vars(run), "update": update}
            if not records.has(**about):
                policy = load(run.checkpoint(out, update))
                played = evaluate(policy, policy.spec, EPISODES, FIRST_SEED)
                discounted = played.discounted(policy.algorithm.discount)
                records.add(
                    **about, returns=played.returns.tolist(), discounted=discounted.tolist()
                )


def estimate_all(records: Records, out: Path) -> None:
    """Estimate the value of each checkpoint by FQE, and the support of its actions."""
    for run, update in trained(out):
        about = {"what": "lit_offrl", **vars(run), "update": update}
        if records.has(**about):
            continue
        policy = load(run.checkpoint(out, update))
        transitions, _ = load_dataset(run.dataset)
        algorithm = policy.algorithm
        greedy = GreedyPolicy(algorithm)
        start = time.process_time()
        data = logged_data(transitions, policy.scaling)
        fitted = fit_fqe(data, greedy, algorithm.discount, FQE_UPDATES, members=FQE_MEMBERS)
        critic = _critic_values(policy, data.obs[data.first])
        records.add(
            **about,
            value=fitted.value,
            std_error=fitted.std_error,
            critic=critic,
            cpu_s=time.process_time() - start,
        )


@torch.no_grad()
def _critic_values(policy: LoadedPolicy, obs: torch.Tensor) -> list[float] | None:
    """What the training's own critic promises from first observations, in raw reward."""
    algorithm = policy.algorithm
    try:
        q = algorithm.q_values(obs, algorithm.act(obs)).amin(0)
    except NotApplicableError:
        return None
    return (q / policy.scaling.reward_scale).tolist()


def estimate_with_peer(records: Records, out: Path, python: str) -> None:
    """Estimate the value of each checkpoint by d3rlpy's FQE, fed with the same transitions."""
    for run, update in trained(out):
        about = {"what": "d3rlpy", **vars(run), "update": update}
        if records.has(**about):
            continue
        policy = load(run.checkpoint(out, update))
        data = OfflineDataModule(
            run.dataset, held_out=0.0, normalize_obs=bool((policy.scaling.obs_mean != 0).any())
        )  # raw rewards, whatever the policy was trained with
        exported = (
            out.resolve() / "data" / f"{run.dataset.replace('/', '_')}-{data.normalize_obs}.npz"
        )
        if not exported.exists():
            exported.parent.mkdir(exist_ok=True)
            export_transitions(data, exported)
        traced = out.resolve() / "data" / "policy.pt"
        _save_policy(policy.algorithm, traced)
        request = {
            "task": "fqe",
            "data": str(exported),
            "policy": str(traced),
            "discount": policy.algorithm.discount,
            "updates": FQE_UPDATES,
            "members": FQE_MEMBERS,
        }
        done = subprocess.run(
            [python, "-m", "benchmarks.peers.d3rlpy_worker"],
            input=json.dumps(request) + "\n",
            capture_output=True,
            text=True,
            cwd=out,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'callbacks'}"},
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        records.add(**about, **json.loads(done.stdout))


def _save_policy(algorithm: lit_offrl.algorithms.OfflineAlgorithm, path: Path) -> None:
    """Make a file of the greedy policy that another Python can load."""
    example = torch.zeros(2, algorithm.hparams["obs_dim"])
    algorithm.requires_grad_(False)
    traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
        lambda obs: algorithm.act(obs), example, check_trace=False
    )
    traced.save(str(path))


def trained(out: Path) -> Iterator[tuple[Run, int]]:
    """Runs and updates of which there are checkpoints."""
    for run in runs():
        for update in UPDATES[run.algorithm]:
            if run.checkpoint(out, update).exists():
                yield run, update


def main() -> None:
    """Do one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=["train", "estimate", "peer", "report"])
    parser.add_argument("--out", type=Path, default=Path("runs/ranking"))
    parser.add_argument("--d3rlpy-python", default="", help="Python that has d3rlpy 2.8.1")
    parser.add_argument("--images", type=Path, help="folder of the plot; by default --out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    records = Records(options.out / "records.jsonl")
    if options.stage == "train":
        train_all(records, options.out)
    elif options.stage == "estimate":
        estimate_all(records, options.out)
    elif options.stage == "peer":
        estimate_with_peer(records, options.out, options.d3rlpy_python)
    else:
        report(records.lines, options.images or options.out)


if __name__ == "__main__":
    main()
