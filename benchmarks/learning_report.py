"""Tables and plots of the learning benchmark."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.peers.settings import ALGORITHMS, AS_SHIPPED, D3RLPY

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Record = dict[str, Any]
Runs = dict[str, dict[str, list[Record]]]  # algorithm -> library -> one record per seed
COLORS = {"lit_offrl": "C0", D3RLPY: "C1", AS_SHIPPED: "C2"}
BASELINES = ("BC", "DiscreteBC")


def write_report(results: Path, images: Path) -> None:
    """Print one Markdown table per data set, and save one plot per data set."""
    datasets: dict[str, Runs] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in results.read_text().splitlines():
        record = json.loads(line)
        datasets[record["dataset"]][record["algorithm"]][record["library"]].append(record)
    images.mkdir(parents=True, exist_ok=True)
    for dataset, unsorted in datasets.items():
        runs = {name: unsorted[name] for name in ALGORITHMS if name in unsorted}
        print(f"\n{heading(dataset, runs)}\n")
        compared = any(D3RLPY in libraries for libraries in runs.values())
        print("\n".join(comparison(runs) if compared else ranking(runs)))
        plot(runs, dataset, images / f"learning_{dataset.replace('/', '_')}.png")


def heading(dataset: str, runs: Runs) -> str:
    """Name of the data set and what its behavior achieved."""
    record = next(iter(next(iter(runs.values())).values()))[0]
    mean, std, best = record["data_returns"]
    return (
        f"### {dataset}\n\nReturn of the data {mean:.0f} ± {std:.0f} over episodes, best "
        f"{best:.0f}; {record['episodes']} evaluation episodes at each point."
    )


def final(records: list[Record]) -> NDArray[np.float64]:
    """Mean return of the last evaluation of each seed, (seeds,)."""
    return np.array([np.mean(record["curve"][-1]["returns"]) for record in records])


def late(records: list[Record]) -> NDArray[np.float64]:
    """Returns of the last two evaluations, (seeds, episodes)."""
    return np.array(
        [np.concatenate([point["returns"] for point in r["curve"][-2:]]) for r in records]
    )


def spread(values: NDArray[np.float64]) -> str:
    """Mean ± sample standard deviation."""
    return f"{values.mean():.0f} ± {values.std(ddof=1) if len(values) > 1 else 0:.0f}"


def bootstrap(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], draws: int = 10_000
) -> tuple[float, float]:
    """95 % interval of the difference of means: seeds are drawn anew, then their episodes."""
    rng = np.random.default_rng(0)

    def means(returns: NDArray[np.float64]) -> NDArray[np.float64]:
        seeds, episodes = returns.shape
        seed = rng.integers(seeds, size=(draws, seeds, 1))
        episode = rng.integers(episodes, size=(draws, seeds, episodes))
        return np.asarray(returns[seed, episode].mean((1, 2)))

    low, high = np.quantile(means(ours) - means(theirs), [0.025, 0.975])
    return float(low), float(high)


def comparison(runs: Runs) -> list[str]:
    """Rows of lit_offrl beside d3rlpy."""
    rows = [
        "| | updates | seeds | lit_offrl, last | d3rlpy, last | lit_offrl, last two "
        "| d3rlpy, last two | difference (95 % interval) | Welch p | significantly worse |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for algorithm, libraries in runs.items():
        for peer in (D3RLPY, AS_SHIPPED):
            if {"lit_offrl", peer} <= libraries.keys():
                name = algorithm if peer == D3RLPY else f"{algorithm} beside {peer}"
                rows.append(comparison_row(name, libraries["lit_offrl"], libraries[peer]))
    return rows


def comparison_row(name: str, ours: list[Record], theirs: list[Record]) -> str:
    """One row of :func:`comparison`."""
    our_late, their_late = late(ours), late(theirs)
    difference = our_late.mean() - their_late.mean()
    low, high = bootstrap(our_late, their_late)
    p = np.nan
    if min(len(ours), len(theirs)) > 1:
        p = stats.ttest_ind(our_late.mean(1), their_late.mean(1), equal_var=False).pvalue
    worse = "-" if np.isnan(p) else "yes" if p < 0.05 and difference < 0 else "no"
    return (
        f"| {name} | {ours[0]['updates']:,} | {len(ours)} "
        f"| {spread(final(ours))}{score(ours)} | {spread(final(theirs))}{score(theirs)} "
        f"| {spread(our_late.mean(1))} | {spread(their_late.mean(1))} "
        f"| {difference:+.0f} ({low:+.0f} to {high:+.0f}) | {p:.2f} | {worse} |"
    )


def score(records: list[Record]) -> str:
    """Mean of the last evaluation between the set's own reference returns, in percent."""
    low, high = records[0]["ref_scores"]
    if low is None or high is None:
        return ""
    return f" ({100 * (final(records).mean() - low) / (high - low):.0f})"


def ranking(runs: Runs) -> list[str]:
    """Rows of lit_offrl's algorithms beside BC."""
    baseline = next(final(runs[name]["lit_offrl"]) for name in BASELINES if name in runs)
    rows = [
        "| | updates | seeds | return, last | above BC | standard deviations | by more than one |",
        "|---|---|---|---|---|---|---|",
    ]
    for algorithm, libraries in runs.items():
        records = libraries["lit_offrl"]
        returns = final(records)
        row = f"| {algorithm} | {records[0]['updates']:,} | {len(records)} | {spread(returns)} "
        if algorithm in BASELINES or min(len(returns), len(baseline)) < 2:
            rows.append(row + "| | | |")
            continue
        difference = returns.mean() - baseline.mean()
        deviation = max(returns.std(ddof=1), baseline.std(ddof=1))
        ratio = difference / deviation if deviation else np.inf
        rows.append(row + f"| {difference:+.0f} | {ratio:.1f} | {'yes' if ratio > 1 else 'no'} |")
    return rows


def plot(runs: Runs, dataset: str, path: Path) -> None:
    """Draw a curve per seed, thin, and their mean, one panel per algorithm."""
    figure, axes = plt.subplots(
        1, len(runs), figsize=(2.6 * len(runs), 2.8), sharey=True, squeeze=False
    )
    for axis, (algorithm, libraries) in zip(axes[0], runs.items(), strict=True):
        for library, records in libraries.items():
            updates = [point["update"] for point in records[0]["curve"]]
            curves = [[np.mean(p["returns"]) for p in record["curve"]] for record in records]
            for curve in curves:
                axis.plot(updates, curve, color=COLORS[library], alpha=0.35, linewidth=0.8)
            axis.plot(updates, np.mean(curves, 0), color=COLORS[library], label=library)
        axis.axhline(records[0]["data_returns"][0], color="grey", linestyle=":", label="data")
        axis.set_title(algorithm, fontsize=10)
        axis.set_xlabel("gradient updates")
        axis.tick_params(labelsize=8)
    axes[0, 0].set_ylabel(f"return on {dataset}", fontsize=8)
    axes[0, -1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
