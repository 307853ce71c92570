"""The forest plot: estimates with intervals, against the returns that are known."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.report.content import KnownValue, Report
from lit_offrl.report.plot_style import BLUE, GRAY, GREEN, VERMILION, draw_legend
from lit_offrl.report.wording import number, percent, span


def forest_plot(report: Report) -> Figure:
    """Draw each estimate with its interval, and the returns that are known as lines."""
    figure = Figure(figsize=(7.6, 1.7 + 0.34 * len(report.estimates)), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Off-policy estimates of the policy's return")
    limits = _limits(report)
    for row, estimate in enumerate(report.estimates):
        _draw_estimate(axes, row, estimate, limits)
    _draw_known(axes, report.behavior_value, "behavior policy", VERMILION, "--")
    _draw_known(axes, report.online_value, "policy, online", GREEN, ":")
    axes.set_yticks(range(len(report.estimates)), [one.name for one in report.estimates])
    axes.set_ylim(len(report.estimates) - 0.4, -0.6)
    axes.set_xlim(*limits)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, pad=8)  # room for arrowheads
    axes.set_xlabel(f"{report.value_label}, {percent(report.level)} intervals")
    axes.set_ylabel("estimator")
    draw_legend(figure, axes)
    return figure


def _limits(report: Report) -> tuple[float, float]:
    """Range of the forest plot: a dropped estimate may widen it, but not squash the others."""
    known = [one for one in (report.behavior_value, report.online_value) if one is not None]
    made = [one for one in report.estimates if one.value is not None]
    valid = [one for one in made if one.status == "valid"]
    rest = [one for one in made if one.status != "valid"]
    base = _ends([*known, *valid])
    if not valid:
        base += [one.value for one in rest if one.value is not None]
    low, high = min(base), max(base)
    width = (high - low) or max(1.0, abs(low)) / 5
    if rest:
        low = max(min(low, *_ends(rest)), low - width / 2)
        high = min(max(high, *_ends(rest)), high + width / 2)
    return low - 0.05 * width, high + 0.05 * width


def _ends(values: Sequence[Estimate | KnownValue]) -> list[float]:
    """All finite numbers of values and their intervals."""
    ends = [end for one in values for end in (one.value, *(one.interval or ()))]
    return [end for end in ends if end is not None and math.isfinite(end)]


def _draw_estimate(axes: Axes, row: int, estimate: Estimate, limits: tuple[float, float]) -> None:
    """Draw one row; a bar that leaves the plot ends in an arrowhead."""
    text: str = estimate.status
    if estimate.value is not None:
        valid = estimate.status == "valid"
        color, dash = (BLUE, "-") if valid else (GRAY, (0, (2, 1.5)))
        low, high = estimate.interval or (estimate.value, estimate.value)
        shown = [max(low, limits[0]), min(high, limits[1])]
        axes.plot(shown, [row, row], linestyle=dash, color=color, linewidth=1.8)
        if low < limits[0]:
            axes.plot(limits[0], row, "<", color=color, clip_on=False)
        if high > limits[1]:
            axes.plot(limits[1], row, ">", color=color, clip_on=False)
        face = color if valid else "white"
        label = None if estimate.status in _labels(axes) else estimate.status
        axes.plot(
            estimate.value, row, "o", color=color, markerfacecolor=face, markersize=7, label=label
        )
        text = number(estimate.value)
        text += "" if estimate.interval is None else f"  ({span(estimate.interval)})"
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", color="#333333")


def _draw_known(axes: Axes, known: KnownValue | None, label: str, color: str, dash: str) -> None:
    if known is not None:
        axes.axvline(known.value, color=color, linestyle=dash, label=label, linewidth=1.6, zorder=1)
        if known.interval is not None:
            axes.axvspan(*known.interval, color=color, alpha=0.12, linewidth=0, zorder=0)


def _labels(axes: Axes) -> list[str]:
    return list(axes.get_legend_handles_labels()[1])
