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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

import lit_offrl.algorithms
from benchmarks.peers.settings import ALGORITHMS, BATCH_SIZE
from lit_offrl import load
from lit_offrl.data import OfflineDataModule
from lit_offrl.evaluation import evaluate

DATASETS = ("hopper/medium-v0", "hopper/medium_replay-v0", "hopper/medium_expert-v0")
UPDATES = {
    "BC": (250, 500, 1000, 2000, 4000, 6000),
    "TD3BC": (250, 500, 1000, 2000, 4000, 6000),
    "IQL": (250, 500, 1000, 2000, 4000, 6000),
    "CQL": (100, 250, 500, 1000, 1500, 2000),
}
EPISODES = 50
FIRST_SEED = 20_000


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


def main() -> None:
    """Do one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=["train"])
    parser.add_argument("--out", type=Path, default=Path("runs/ranking"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    records = Records(options.out / "records.jsonl")
    if options.stage == "train":
        train_all(records, options.out)


if __name__ == "__main__":
    main()
