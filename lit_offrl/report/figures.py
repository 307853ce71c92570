"""The figures of a report."""

import math
from typing import NamedTuple

from matplotlib.figure import Figure

from lit_offrl.report.content import Curve, Report, Scatter
from lit_offrl.report.forest import forest_plot
from lit_offrl.report.plot_style import BLUE, GRAY, LINES, draw_legend, plot_style
from lit_offrl.report.wording import describe_curve, describe_estimates, describe_scatter, slugs


class Drawing(NamedTuple):
    """A figure, and what it shows in words."""

    title: str
    description: str
    figure: Figure


def drawings(report: Report) -> dict[str, Drawing]:
    """Draw everything that the report has numbers for.

    Args:
        report: What to show.

    Returns:
        Name, fit for a file, to drawing; the forest plot is ``estimates`` and comes first.
    """
    with plot_style():
        drawn = [Drawing(one.title, describe_curve(one), plot_curve(one)) for one in report.curves]
        drawn += [
            Drawing(one.title, describe_scatter(one), plot_scatter(one)) for one in report.scatters
        ]
        names = slugs(["estimates", *(one.title for one in drawn)])[1:]
        named = dict(zip(names, drawn, strict=True))
        if any(estimate.value is not None for estimate in report.estimates):
            forest = Drawing("Estimates", describe_estimates(report), forest_plot(report))
            named = {"estimates": forest, **named}
    return named


def figures(report: Report) -> dict[str, Figure]:
    """Draw everything that the report has numbers for: name to figure."""
    return {name: drawing.figure for name, drawing in drawings(report).items()}


def plot_curve(curve: Curve) -> Figure:
    """Draw series over training, with bands and reference lines."""
    figure = Figure(figsize=(5.4, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.set(title=curve.title, xlabel=curve.xlabel, ylabel=curve.ylabel)
    for index, (label, values) in enumerate(curve.series.items()):
        color, dash = LINES[index % len(LINES)]
        marker = "o" if len(curve.x) == 1 else ""  # one point makes no line
        axes.plot(curve.x, values, dash, color=color, label=label, marker=marker, linewidth=1.6)
        if label in curve.bands:
            low, high = curve.bands[label]
            axes.fill_between(curve.x, low, high, color=color, alpha=0.15, linewidth=0)
    for index, (label, value) in enumerate(curve.hlines.items()):
        dashes = (0, (1 + 4 * index, 2))
        axes.axhline(value, color=GRAY, linestyle=dashes, linewidth=1.2, label=label)
    axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    axes.locator_params(axis="x", nbins=5)
    if len(curve.series) + len(curve.hlines) > 1:
        draw_legend(figure, axes)
    return figure


def plot_scatter(scatter: Scatter) -> Figure:
    """Draw pairs and the diagonal on which they are equal."""
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(title=scatter.title, xlabel=scatter.xlabel, ylabel=scatter.ylabel)
    axes.scatter(scatter.x, scatter.y, s=9, color=BLUE, alpha=0.4, linewidths=0)
    known = [float(value) for value in (*scatter.x, *scatter.y) if math.isfinite(value)]
    if known:
        ends = [min(known), max(known)]
        axes.plot(ends, ends, "--", color="black", linewidth=1, label="equal")
        draw_legend(figure, axes)
    return figure


def _thousands(value: float) -> str:
    """Tick of an axis of counts.

    >>> [_thousands(value) for value in (0, 500, 20_000, 1_500_000)]
    ['0', '500', '20k', '1.5M']
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
