"""What a report says, as plain data: everything that is shown, and nothing about how."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import SEVERITY, Finding, Verdict

FORMAT = 1
Conclusion = Literal["use", "do not use", "not shown"]


def plain(value: object) -> Any:
    """Turn a value into what strict JSON can hold; a number that is not finite becomes None.

    >>> plain({"x": (1, float("nan")), "y": np.float32(0.5)})
    {'x': [1, None], 'y': 0.5}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    number = float(value)  # type: ignore[arg-type]  # numpy scalars and tensors of one element
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class KnownValue:
    """A return that was measured and not estimated off-policy, drawn as a line.

    Args:
        value: Mean return, in the unit of the estimates.
        interval: Its interval, of the report's level.
        note: What it rests on: ``1,204 logged episodes``.
    """

    value: float
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Numbers over training.

    Args:
        title: What is shown.
        ylabel: Quantity and unit of the series.
        x: Where the values stand, the same for all series.
        series: Label to values; one that is not finite leaves a gap.
        bands: Label of a series to the low and high edge of its band.
        hlines: Label to value of horizontal reference lines.
        xlabel: Quantity and unit of ``x``.
    """

    title: str
    ylabel: str
    x: Sequence[float]
    series: Mapping[str, Sequence[float]]
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    hlines: Mapping[str, float] = field(default_factory=dict)
    xlabel: str = "gradient updates"

    def __post_init__(self) -> None:
        columns = [*self.series.values(), *(edge for band in self.bands.values() for edge in band)]
        if any(len(column) != len(self.x) for column in columns):
            raise ValueError(f"A series of the curve `{self.title}` is not as long as its x.")
        if unknown := set(self.bands) - set(self.series):
            raise ValueError(f"The curve `{self.title}` has bands of no series: {unknown}.")


@dataclass(frozen=True)
class Scatter:
    """Pairs of numbers that are equal on the diagonal, such as Q and the Monte-Carlo return.

    Args:
        title: What is shown.
        xlabel: Quantity and unit of ``x``.
        ylabel: Quantity and unit of ``y``.
        x: Horizontal coordinates.
        y: Vertical coordinates.
        total: Number of pairs that the shown ones were drawn from.
    """

    title: str
    xlabel: str
    ylabel: str
    x: Sequence[float]
    y: Sequence[float]
    total: int

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"The scatter `{self.title}` has {len(self.x)} x, {len(self.y)} y.")

    @classmethod
    def of(
        cls,
        title: str,
        xlabel: str,
        ylabel: str,
        x: Sequence[float],
        y: Sequence[float],
        max_points: int = 1000,
        seed: int = 0,
    ) -> "Scatter":
        """Draw at most ``max_points`` of the pairs, the same ones for the same seed."""
        total = len(x)
        # at random: every k-th would hit the same step of every episode
        kept = np.random.default_rng(seed).permutation(total)[:max_points]
        kept.sort()
        shown_x, shown_y = [float(x[i]) for i in kept], [float(y[i]) for i in kept]
        return cls(title, xlabel, ylabel, shown_x, shown_y, total)


@dataclass(frozen=True)
class Report:
    """Whether a policy may be used, why, and everything that this rests on.

    Args:
        title: What is judged: algorithm and data set.
        conclusion: ``use``, ``do not use`` or ``not shown``.
        headline: The conclusion as one sentence.
        why: One sentence that gives the reason, with its numbers.
        findings: What the diagnostics found.
        estimates: Off-policy estimates; the first valid one is shown beside the conclusion.
        level: Confidence level of all intervals, such as 0.95.
        lower_bound: Conservative lower bound of the policy's return over all valid estimators.
        behavior_value: Return of the policy that recorded the data, J(β).
        online_value: Return of the policy in the environment, if it was run there.
        estimand: One sentence: what is estimated, of which policy.
        value_label: Quantity and unit of all returns, for axes.
        curves: Numbers over training.
        scatters: Pairs of numbers.
        ledger: What the report was made from: data hash, split, seeds, updates, versions.
        assumptions: What must hold and cannot be checked: ``no unobserved confounding``.
        command: How to make the report again.
    """

    title: str
    conclusion: Conclusion
    headline: str
    why: str
    findings: Sequence[Finding] = ()
    estimates: Sequence[Estimate] = ()
    level: float = 0.95
    lower_bound: float | None = None
    behavior_value: KnownValue | None = None
    online_value: KnownValue | None = None
    estimand: str = ""
    value_label: str = "discounted return (raw reward)"
    curves: Sequence[Curve] = ()
    scatters: Sequence[Scatter] = ()
    ledger: Mapping[str, str | int | float] = field(default_factory=dict)
    assumptions: Sequence[str] = ()
    command: str = ""

    def __post_init__(self) -> None:
        if self.conclusion not in get_args(Conclusion):
            raise ValueError(f"There is no conclusion `{self.conclusion}`.")

    @property
    def key_estimate(self) -> Estimate | None:
        """The first valid estimate."""
        return next((one for one in self.estimates if one.status == "valid"), None)

    def findings_by_verdict(self) -> dict[Verdict, list[Finding]]:
        """Return the findings of each verdict, worst verdict first."""
        verdicts: list[Verdict] = sorted(SEVERITY, key=SEVERITY.__getitem__, reverse=True)
        return {
            verdict: [finding for finding in self.findings if finding.verdict == verdict]
            for verdict in verdicts
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for strict JSON: None stands for what is missing or not finite."""
        values: dict[str, Any] = {"format": FORMAT, **vars(self)}
        for name in ("findings", "estimates"):
            values[name] = [one.to_dict() for one in values[name]]
        for name in ("curves", "scatters"):
            values[name] = [_columns(one) for one in values[name]]
        for name in ("behavior_value", "online_value"):
            values[name] = None if values[name] is None else vars(values[name])
        plain_values: dict[str, Any] = plain(values)
        return plain_values


def _columns(plot: Curve | Scatter) -> dict[str, Any]:
    """Fields of a plot, its arrays as lists."""
    values = dict(vars(plot))
    values |= {name: list(values[name]) for name in ("x", "y") if name in values}
    if isinstance(plot, Curve):
        values["series"] = {label: list(column) for label, column in plot.series.items()}
        values["bands"] = {
            label: [list(edge) for edge in band] for label, band in plot.bands.items()
        }
    return values
