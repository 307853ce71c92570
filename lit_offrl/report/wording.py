"""Numbers, intervals and plots in words, the same in every form of the report."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import Finding
from lit_offrl.report.content import Curve, Report, Scatter


def number(value: float | None) -> str:
    """Write a number with four significant digits; a missing one as a dash.

    >>> [number(value) for value in (3120.46, -0.0123456, 0.5, 12_345_678, 0, None)]
    ['3,120', '-0.01235', '0.5', '1.235e+07', '0', '–']
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    exponent = math.floor(math.log10(abs(value))) if value else 0
    if not -4 <= exponent < 6:
        return f"{value:.3e}"
    text = f"{value:,.{max(0, 3 - exponent)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def span(interval: tuple[float, float] | None, unit: str = "") -> str:
    """Write an interval.

    >>> span((-0.25, 3), "bits")
    '-0.25 to 3 bits'
    """
    if interval is None:
        return "–"
    return f"{number(interval[0])} to {number(interval[1])} {unit}".strip()


def percent(share: float) -> str:
    """Write a share in percent.

    >>> percent(0.95)
    '95 %'
    """
    return f"{100 * share:.3g} %"


def measured(finding: Finding) -> str:
    """Write the number of a finding with its interval; empty if it has none.

    >>> measured(Finding("kl", "ok", "", value=0.5, interval=(0.4, 0.6), unit="bits"))
    '0.5 bits (0.4 to 0.6)'
    """
    if finding.value is None:
        return ""
    interval = "" if finding.interval is None else f" ({span(finding.interval)})"
    return f"{number(finding.value)} {finding.unit}".strip() + interval


def status(estimate: Estimate) -> str:
    """Write whether an estimate counts, and why not.

    >>> status(Estimate("WIS", "importance sampling", 1.0, status="dropped", reason="ESS 7 < 30."))
    'dropped: ESS 7 < 30.'
    """
    return f"{estimate.status}: {estimate.reason}" if estimate.reason else estimate.status


def details(estimate: Estimate) -> str:
    """Write the numbers beside an estimate.

    >>> details(Estimate("WIS", "importance sampling", 1.0, details={"ess": 212.4}))
    'ess 212.4'
    """
    return ", ".join(f"{name} {number(value)}" for name, value in estimate.details.items())


def slugs(titles: Iterable[str]) -> list[str]:
    """Make a different file name of each title.

    >>> slugs(["Q against return", "Q / return", "Q, return", "β"])
    ['q_against_return', 'q_return', 'q_return_2', 'figure']
    """
    names: list[str] = []
    for title in titles:
        stem = name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "figure"
        count = 1
        while name in names:
            count += 1
            name = f"{stem}_{count}"
        names.append(name)
    return names


def describe_estimates(report: Report) -> str:
    """Say what the forest plot shows."""
    parts = [
        f"{one.name} {number(one.value)}" + ("" if one.status == "valid" else f" ({one.status})")
        for one in report.estimates
        if one.value is not None
    ]
    for name, known in (("behavior", report.behavior_value), ("online", report.online_value)):
        parts += [] if known is None else [f"{name} {number(known.value)}"]
    return f"Estimates with {percent(report.level)} intervals: {', '.join(parts)}."


def describe_curve(curve: Curve) -> str:
    """Say where each series ends, with its range.

    >>> describe_curve(Curve("KL", "bits", [0, 100], {"mean": [1.0, 2.0]}, hlines={"limit": 5.0}))
    'mean ends at 2 (range 1 to 2); limit 5.'
    """
    parts = []
    for label, column in curve.series.items():
        known = [float(value) for value in column if math.isfinite(value)]
        parts.append(
            f"{label} ends at {number(known[-1])} (range {span((min(known), max(known)))})"
            if known
            else f"{label} has no values"
        )
    parts += [f"{label} {number(value)}" for label, value in curve.hlines.items()]
    return "; ".join(parts) + "."


def describe_scatter(scatter: Scatter) -> str:
    """Say how many points are shown and on which side of the diagonal they lie.

    >>> describe_scatter(Scatter("Q", "return", "Q", [0.0] * 4, [2.0, -1.0, -2.0, -3.0], total=8))
    '4 of 8 points; 25 % of those shown lie above the diagonal, where the two are equal.'
    """
    if not len(scatter.x):
        return "No points."
    above = sum(y > x for x, y in zip(scatter.x, scatter.y, strict=True)) / len(scatter.x)
    return (
        f"{len(scatter.x):,} of {scatter.total:,} points; {percent(above)} of those shown lie "
        "above the diagonal, where the two are equal."
    )


class KeyNumber(NamedTuple):
    """One of the few numbers beside the conclusion."""

    label: str
    value: float | None
    interval: tuple[float, float] | None
    note: str


def key_numbers(report: Report) -> list[KeyNumber]:
    """Return the numbers that the conclusion is about: the estimate, its bound, what is known.

    Where nothing was to be estimated, as of episodes that were watched, what is known stands alone.
    """
    estimate = report.key_estimate
    watched = not report.estimates and report.online_value is not None
    numbers = (
        []
        if watched
        else [
            KeyNumber("Estimated return", None, None, "no valid off-policy estimate")
            if estimate is None
            else KeyNumber(
                f"Estimated return ({estimate.name})", estimate.value, estimate.interval, ""
            ),
            KeyNumber("Lower bound of the return", report.lower_bound, None, _bound(report)),
        ]
    )
    for label, known in (
        ("Return of the behavior policy", report.behavior_value),
        ("Return measured online", report.online_value),
    ):
        if known is not None:
            numbers.append(KeyNumber(label, known.value, known.interval, known.note))
    return numbers


def _bound(report: Report) -> str:
    if report.lower_bound is None:
        return "no estimate is good enough for one"
    if report.behavior_value is None:
        return "conservative, over all valid estimators"
    above = report.lower_bound > report.behavior_value.value
    return f"{'above' if above else 'not above'} the return of the behavior policy"
