"""The inspection of a data set as HTML, JSON and images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lit_offrl.inspection import Answers, DataReport
from lit_offrl.inspection.actions import scaled_actions
from lit_offrl.report.content import plain
from lit_offrl.report.plot_style import BLUE, plot_style
from lit_offrl.report.rendering import mark_code, to_png, to_svg
from lit_offrl.report.writing import write_all

MOST_BARS = 40
LARGEST_EXACT = 1 << 50
"""Beyond this, halves are lost in float64."""


def write_inspection(report: DataReport, folder: Path, answers: Answers | None = None) -> Path:
    """Write ``report.html``, ``report.json`` and ``*.png``, each whole or not at all.

    Args:
        report: What was found.
        folder: Where to; it is made if it is missing.
        answers: What the user said.

    Returns:
        Path of the HTML file, which needs no other.
    """
    drawn = inspection_figures(report)
    contents = {f"{name}.png": to_png(figure) for name, figure in drawn.items()}
    values = plain(report.to_dict(answers))
    contents["report.json"] = (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()
    contents["report.html"] = _html(report, drawn, answers).encode()
    write_all({folder / name: content for name, content in contents.items()})
    return folder / "report.html"


def inspection_figures(report: DataReport) -> dict[str, Figure]:
    """Draw the distributions of returns, lengths, rewards and actions."""
    log = report.transitions
    if report.findings[0].verdict == "fail":  # not finite
        return {}
    columns = {
        "returns": ("Returns", "undiscounted return (raw reward)", log.returns()),
        "lengths": ("Lengths", "steps", np.diff(log.episode_bounds)),
        "rewards": ("Rewards", "reward per step (raw)", log.reward),
        "actions": (
            "Actions",
            "action" if report.spec.discrete else "action, all dimensions, bounds at -1 and 1",
            log.action if report.spec.discrete else scaled_actions(log, report.spec).ravel(),
        ),
    }
    with plot_style():
        return {name: histogram(*column) for name, column in columns.items()}


def whole_and_few(values: NDArray[Any]) -> bool:
    """Whether each value can have a bar of its own."""
    exact = np.abs(values).max() < LARGEST_EXACT
    return bool(exact and np.ptp(values) < MOST_BARS and not np.mod(values, 1).any())


def histogram_edges(values: NDArray[Any]) -> NDArray[np.float64]:
    """Edges of the bars: one bar per value of few whole numbers, else fewer for fewer values.

    Args:
        values: What is counted, (n,).
    """
    values = values.astype(np.float64)
    if whole_and_few(values):
        return np.arange(values.min() - 0.5, values.max() + 1)
    bars = int(np.clip(np.sqrt(len(values)), 5, MOST_BARS))
    try:
        edges: NDArray[np.float64] = np.histogram_bin_edges(values, bars)
    except ValueError:  # they differ by too little for so many bars
        margin = bars * np.spacing(np.abs(values).max())
        edges = np.linspace(values.min() - margin, values.max() + margin, bars + 1)
    return edges


def histogram(title: str, xlabel: str, values: NDArray[Any]) -> Figure:
    """Draw how often each value occurs.

    Args:
        title: What is counted.
        xlabel: Quantity and unit.
        values: What is counted, (n,).
    """
    figure = Figure(figsize=(5.4, 3.3), layout="constrained")
    axes = figure.subplots()
    unit = "episodes" if title in ("Returns", "Lengths") else "rows"
    axes.set(title=title, xlabel=xlabel, ylabel=unit, axisbelow=True)
    whole = whole_and_few(values)
    for axis in (axes.xaxis, axes.yaxis) if whole else (axes.yaxis,):
        axis.set_major_locator(
            MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
        )
    axes.hist(
        values, bins=histogram_edges(values).tolist(), color=BLUE, rwidth=0.8 if whole else 1.0
    )
    return figure


def _html(report: DataReport, drawn: dict[str, Figure], answers: Answers | None) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True
    )
    environment.filters["code"] = mark_code
    return environment.get_template("inspection.html.j2").render(
        title=f"Data set {report.spec.dataset_id}",
        advice=report.recommendation(answers),
        findings=report.findings,
        plots=[Markup(to_svg(figure, name)) for name, figure in drawn.items()],
    )
