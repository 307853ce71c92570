"""What weighting the sampler does: BC, IQL and CQL on Hopper, over seeds.

    MINARI_DATASETS_PATH=... python benchmarks/weighting.py --out runs/weighting --jobs 2

trains every cell (data set, sampling, algorithm, seed) in a single-thread process with the settings
of ``learning.py``, and writes each to ``results.jsonl`` as it ends: a second run takes up where the
first was stopped. Then it prints the tables and draws the plot. Needs Python 3.11 and the extra
``mujoco``.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.learning import LOCOMOTION, open_data, train_all, train_ours, unfinished
from benchmarks.learning import Cell as LearningCell
from benchmarks.learning_report import Record, late, spread
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.weighting import Sampling, effective_share, row_weights

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DATASETS = ("hopper/medium_replay-v0", "hopper/medium_expert-v0")
ALGORITHMS = ("BC", "IQL", "CQL")
SAMPLINGS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "return": {"sampling": Sampling("return", temperature=0.1)},
    "advantage": {"sampling": Sampling("advantage", temperature=0.1)},
    "top 10 %": {"top_fraction": 0.1},
}
"""Arguments of the data module under each way to sample."""


@dataclasses.dataclass(frozen=True)
class Cell(LearningCell):
    """One training run."""

    sampling: str

    @property
    def title(self) -> str:
        """What the log calls it."""
        return f"{self.dataset} {self.algorithm} {self.sampling} seed {self.seed}"


def cells(seeds: int) -> Iterator[Cell]:
    """All cells, seed by seed: a run that is stopped early has whole seeds."""
    for seed in range(seeds):
        for algorithm in ALGORITHMS:
            for dataset in DATASETS:
                for sampling in SAMPLINGS:
                    updates = LOCOMOTION.updates[algorithm]
                    episodes = LOCOMOTION.episodes
                    yield Cell(dataset, algorithm, "lit_offrl", seed, updates, episodes, sampling)


def train(cell: Cell) -> Record:
    """Train one cell and describe it and the rows that it drew."""
    data = open_data(cell, **SAMPLINGS[cell.sampling])
    # Compiled, since all cells of an algorithm share the graph, which is kept on disk.
    done = train_ours(cell, data, compile_update=cell.algorithm != "BC")
    return {**dataclasses.asdict(cell), **done, **drawn(data)}


def drawn(data: OfflineDataModule) -> dict[str, float]:
    """Returns of the log, and what of it the sampler draws.

    Returns:
        Mean return of all episodes; mean return of the episode of a drawn row; effective share of
        all rows, those that ``top_fraction`` drops included.
    """
    train = data.train
    weights = row_weights(data.sampling, train, np.arange(train.n_episodes))
    if weights is None:
        weights = np.full(len(train), 1 / len(train))
    return {
        "data_return": float(data.logged.returns().mean()),
        "drawn_return": float(weights @ train.returns()[train.episode]),
        "effective_share": effective_share(weights) * len(train) / len(data.logged),
    }


def select(records: Sequence[Record], **cell: str) -> list[Record]:
    """Records of the cells of that description, one per seed."""
    return [record for record in records if cell.items() <= record.items()]


def per_seed(records: list[Record]) -> NDArray[np.float64]:
    """Mean return of the last two evaluations of each seed, (seeds,)."""
    return np.asarray(late(records).mean(1))


def table(records: Sequence[Record], dataset: str) -> str:
    """Rows of one data set: what each sampling draws, and what is learned from it."""
    mean = select(records, dataset=dataset)[0]["data_return"]
    lines = [
        f"### {dataset}\n\nMean return of the data: {mean:.0f}.\n",
        f"| sampling | effective share | return of what is drawn | {' | '.join(ALGORITHMS)} |",
        "|---" * (3 + len(ALGORITHMS)) + "|",
    ]
    for sampling in SAMPLINGS:
        if not (mine := select(records, dataset=dataset, sampling=sampling)):
            continue
        columns = [sampling, f"{mine[0]['effective_share']:.2f}", f"{mine[0]['drawn_return']:.0f}"]
        columns += [_learned(select(mine, algorithm=name)) for name in ALGORITHMS]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _learned(records: list[Record]) -> str:
    if not records:
        return "–"
    returns = per_seed(records)
    return f"{returns[0]:.0f} (1)" if len(returns) == 1 else f"{spread(returns)} ({len(returns)})"


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw the return of each seed as a dot and their mean as a line, one panel per data set."""
    figure, axes = plt.subplots(1, len(DATASETS), figsize=(9, 3.4), sharey=True, squeeze=False)
    for axis, dataset in zip(axes[0], DATASETS, strict=True):
        for i, sampling in enumerate(SAMPLINGS):
            for j, algorithm in enumerate(ALGORITHMS):
                mine = select(records, dataset=dataset, sampling=sampling, algorithm=algorithm)
                if not mine:
                    continue
                x, returns = j + (i - 1.5) / 5, per_seed(mine)
                label = sampling if j == 0 else None
                axis.plot([x] * len(returns), returns, "o", color=f"C{i}", alpha=0.6, label=label)
                axis.hlines(returns.mean(), x - 0.09, x + 0.09, color=f"C{i}")
        if logged := select(records, dataset=dataset):
            axis.axhline(logged[0]["data_return"], color="grey", linestyle=":", label="data")
        axis.set_xticks(range(len(ALGORITHMS)), ALGORITHMS)
        axis.set_xlim(-0.5, len(ALGORITHMS) - 0.5)
        axis.set_title(dataset, fontsize=10)
    axes[0, 0].set_ylabel("return")
    axes[0, 0].set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Train what is not trained yet, then report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/weighting"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=Path, help="folder of the plot; by default --out")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    results = options.out / "results.jsonl"
    if not options.report_only:
        train_all(unfinished(cells(options.seeds), results), train, options.jobs, results)
    records = [json.loads(line) for line in results.open()]
    for dataset in DATASETS:
        if select(records, dataset=dataset):
            print(f"\n{table(records, dataset)}")
    plot(records, (options.images or options.out) / "weighting.png")


if __name__ == "__main__":
    main()
