"""Tables and the plot of the ranking benchmark."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from lit_offrl.errors import InputError
from lit_offrl.evaluation.diagnosis.gap import offline_online_gap
from lit_offrl.evaluation.ranking import rank_quality

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Line = dict[str, Any]
Key = tuple[str, str, int]  # data set, algorithm, update
ESTIMATORS = {
    "lit_offrl": "FQE of lit_offrl",
    "d3rlpy": "FQE of d3rlpy",
    "critic": "critic of training",
}
SHOWN = (-150, 450)
"""Range of estimates that the plot shows."""


def report(lines: list[Line], images: Path) -> None:
    """Print how well estimates rank checkpoints and how far off they are; save a plot."""
    truth: dict[Key, NDArray[np.float64]] = {}
    values: dict[str, dict[Key, float]] = defaultdict(dict)
    critics: dict[Key, list[float]] = {}
    for line in lines:
        key = (line["dataset"], line["algorithm"], line["update"])
        if line["what"] == "played":
            truth[key] = np.array(line["discounted"])
            continue
        values[line["what"]][key] = line["value"]
        if line.get("critic"):
            critics[key] = line["critic"]
            values["critic"][key] = float(np.mean(line["critic"]))
    print("\n".join(ranking_table(truth, values)))
    print()
    print("\n".join(gap_table(truth, critics)))
    images.mkdir(parents=True, exist_ok=True)
    plot(truth, values, images / "ranking.png")


def ranking_table(
    truth: dict[Key, NDArray[np.float64]], values: dict[str, dict[Key, float]]
) -> list[str]:
    """Rows of one data set and estimator."""
    rows = [
        "| data | estimator | checkpoints | rank correlation (95 % interval) | regret@1 "
        "| mean absolute error | mean error | range of returns |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dataset in sorted({key[0] for key in truth}):
        for name, title in ESTIMATORS.items():
            keys = [key for key in truth if key[0] == dataset and key in values[name]]
            if len(keys) < 3:
                continue
            returns = np.array([truth[key].mean() for key in keys])
            estimates = np.array([values[name][key] for key in keys])
            quality = rank_quality(estimates, returns)
            low, high = quality.interval
            error = estimates - returns
            rows.append(
                f"| {dataset} | {title} | {len(keys)} | {quality.spearman:.2f} ({low:.2f} to "
                f"{high:.2f}) | {quality.regret:.2f} | {np.abs(error).mean():.1f} "
                f"| {error.mean():+.1f} | {returns.min():.0f} to {returns.max():.0f} |"
            )
    return rows


def gap_table(truth: dict[Key, NDArray[np.float64]], critics: dict[Key, list[float]]) -> list[str]:
    """Of each verdict on a critic, the run that shows it most clearly."""
    rows = [
        "| verdict | checkpoint | critic promises | 50 episodes return | relative gap (interval) |",
        "|---|---|---|---|---|",
    ]
    shown: dict[str, tuple[float, str]] = {}
    for key, values in critics.items():
        if key not in truth:
            continue
        try:
            gap = offline_online_gap(values, truth[key], spread=float(np.ptp(truth[key])) or 1.0)
        except InputError:
            continue
        low, high = gap.interval
        row = (
            f"| {gap.gauge} | {key[1]} on {key[0]} after {key[2]:,} updates | {gap.offline:.1f} "
            f"| {gap.online:.1f} | {gap.relative:+.0%} ({low:+.0%} to {high:+.0%}) |"
        )
        clarity = -abs(gap.relative) if gap.gauge == "CALIBRATED" else abs(gap.relative)
        if gap.gauge not in shown or clarity > shown[gap.gauge][0]:
            shown[gap.gauge] = (clarity, row)
    return rows + [row for _, row in shown.values()]


def plot(
    truth: dict[Key, NDArray[np.float64]], values: dict[str, dict[Key, float]], path: Path
) -> None:
    """Draw estimates over returns, one panel per data set; what is far off lies on the edge."""
    datasets = sorted({key[0] for key in truth})
    figure, axes = plt.subplots(1, len(datasets), figsize=(3.6 * len(datasets), 3.4), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        returns = [truth[key].mean() for key in truth if key[0] == dataset]
        for marker, name in zip("o^", ("lit_offrl", "d3rlpy"), strict=True):
            keys = [key for key in truth if key[0] == dataset and key in values[name]]
            axis.plot(
                [truth[key].mean() for key in keys],
                np.clip([values[name][key] for key in keys], *SHOWN),
                marker,
                markersize=4,
                alpha=0.7,
                label=ESTIMATORS[name],
            )
        axis.plot([min(returns), max(returns)], [min(returns), max(returns)], "k:", linewidth=1)
        axis.set(title=dataset, xlabel="discounted return, 50 episodes", ylim=SHOWN)
    axes[0, 0].set_ylabel("estimate, cut off at the edges")
    axes[0, -1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
