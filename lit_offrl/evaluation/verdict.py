"""From several estimates to one answer: do they agree, and what is the least the policy earns?"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.stats import norm

from lit_offrl.evaluation.estimate import Estimate, Family

Agreement = Literal["NO_SUPPORT", "AGREE", "DISAGREE", "SINGLE", "NONE"]
Kind = Literal["importance sampling", "FQE", "model-based"]

MOST_UNSUPPORTED = 0.2
LEAST_SAMPLE = 30
LEAST_SAMPLE_SHARE = 0.01
LARGEST_PARETO_K = 0.7
LARGEST_SPREAD = 0.1
"""Largest difference of estimates that agree, in units of their size or, if that is larger, of the
spread of logged returns: the margin and the unit of the offline-online gap."""

KINDS: dict[Family, Kind] = {
    "importance sampling": "importance sampling",
    "doubly robust": "importance sampling",  # its weights are the same: both fail together
    "FQE": "FQE",
    "model-based": "model-based",
}
NO_WITNESS = ("MAGIC",)
"""Estimators whose agreement proves nothing: MAGIC may put all its weight on FQE's own values."""


@dataclass(frozen=True)
class Assessment:
    """What the estimates say together.

    Args:
        agreement: ``NO_SUPPORT``: the log does not show what the policy would do, so nothing is
            trusted; ``AGREE`` or ``DISAGREE`` of at least two kinds of estimator; ``SINGLE``: one
            kind was left; ``NONE``: not even one.
        reason: One sentence with the numbers.
        headline: Estimator whose value is reported: of those that count, the first of FQE,
            importance sampling and model; None if none counts.
        lower_bound: The conservative estimate, see :func:`conservative`; None if none counts.
        usable: Whether the policy may be called better than the logged behavior.
    """

    agreement: Agreement
    reason: str
    headline: Estimate | None
    lower_bound: float | None
    usable: bool


def screen(estimates: Sequence[Estimate], n_episodes: int) -> list[Estimate]:
    """Drop importance-sampling estimates that rest on too few episodes.

    An estimate whose weights have an effective sample size ``ess`` below max(30, n / 100), or a
    tail index ``pareto_k`` above 0.7 (Vehtari et al. 2024, no finite variance), is dropped.

    Args:
        estimates: All estimates.
        n_episodes: Number of logged episodes n.
    """
    least = max(LEAST_SAMPLE, LEAST_SAMPLE_SHARE * n_episodes)
    screened = []
    for estimate in estimates:
        ess, k = estimate.details.get("ess"), estimate.details.get("pareto_k")
        reason = ""
        if estimate.status == "valid" and KINDS[estimate.family] == "importance sampling":
            if ess is not None and ess < least:
                reason = (
                    f"its weights leave {ess:.1f} effective episodes of {n_episodes}, and it "
                    f"takes {least:.0f}"
                )
            elif k is not None and k > LARGEST_PARETO_K:
                reason = f"its weights have no finite variance (Pareto k {k:.2f} > 0.7)"
        screened.append(replace(estimate, status="dropped", reason=reason) if reason else estimate)
    return screened


def conservative(
    estimates: Sequence[Estimate], trivial_bound: float, delta: float = 0.05
) -> float | None:
    """Lower bound that holds if any of the valid estimates' does.

    ``max(trivial bound, min_i LCB_{δ/m}(i))`` over the m valid estimates; the lower confidence
    bounds are normal, or the estimator's own where it has no standard error. None if none is valid.

    Args:
        estimates: All estimates.
        trivial_bound: What no policy can fall below.
        delta: δ, the probability of error.
    """
    valid = [e for e in estimates if e.status == "valid" and e.value is not None]
    bounds = []
    for estimate in valid:
        assert estimate.value is not None
        if estimate.std_error is not None:
            z = float(norm.ppf(1 - delta / len(valid)))
            bounds.append(estimate.value - z * estimate.std_error)
        elif estimate.lower_bound is not None:
            bounds.append(estimate.lower_bound)
    return max(trivial_bound, min(bounds)) if bounds else None


def assess(
    estimates: Sequence[Estimate],
    unsupported: float,
    spread: float,
    behavior_value: float,
    trivial_bound: float,
    delta: float = 0.05,
) -> Assessment:
    """Say whether the estimates may be trusted; in this order, so that agreement cannot hide a gap.

    Args:
        estimates: All estimates, after :func:`screen`.
        unsupported: Probability that an episode of the policy meets an action that the log does
            not show, ``1 - (1 - u)^H``.
        spread: S, P95 - P5 of the logged discounted returns.
        behavior_value: Value of the logged behavior, J(β).
        trivial_bound: What no policy can fall below.
        delta: δ of the conservative estimate.
    """
    leaders = _leaders(estimates)
    headline = next(
        (leaders[k] for k in ("FQE", "importance sampling", "model-based") if k in leaders), None
    )
    bound = conservative(estimates, trivial_bound, delta)
    if unsupported > MOST_UNSUPPORTED:
        reason = (
            f"In {unsupported:.0%} of its episodes the policy would do something that the log does "
            "not show, so every estimate extrapolates, whatever the others say."
        )
        return Assessment("NO_SUPPORT", reason, headline, None, usable=False)
    if len(leaders) < 2:
        if headline is None:
            return Assessment("NONE", "No estimator applies.", None, None, usable=False)
        reason = f"Only {headline.name} is left, and nothing independent confirms it."
        return Assessment("SINGLE", reason, headline, bound, usable=False)
    if apart := _apart(leaders, spread):
        return Assessment("DISAGREE", apart, headline, bound, usable=False)
    assert headline is not None and bound is not None
    names = ", ".join(e.name for e in leaders.values())
    reason = f"{len(leaders)} independent estimators agree ({names})."
    return Assessment("AGREE", reason, headline, bound, usable=bound > behavior_value)


def _leaders(estimates: Sequence[Estimate]) -> dict[Kind, Estimate]:
    """Of each kind, the valid estimate with the smallest standard error that can bear witness."""
    leaders: dict[Kind, Estimate] = {}
    for estimate in estimates:
        if estimate.status != "valid" or estimate.value is None or estimate.name in NO_WITNESS:
            continue
        kind = KINDS[estimate.family]
        if kind not in leaders or _error(estimate) < _error(leaders[kind]):
            leaders[kind] = estimate
    return leaders


def _error(estimate: Estimate) -> float:
    return math.inf if estimate.std_error is None else estimate.std_error


def _apart(leaders: dict[Kind, Estimate], spread: float) -> str:
    """Say which estimates differ by more than their errors or a tenth of their size; or nothing.

    Where all episodes of a log return alike, a tenth of their spread alone would be a difference
    that does not matter.
    """
    for a, b in itertools.combinations(leaders.values(), 2):
        assert a.value is not None and b.value is not None
        gap = abs(a.value - b.value)
        errors = 2 * math.hypot(a.std_error or 0.0, b.std_error or 0.0)
        largest = LARGEST_SPREAD * max(spread, abs(a.value), abs(b.value))
        if gap > errors or gap > largest:
            outlier = _outlier(leaders)
            other = f"; {outlier} is the one apart" if outlier else ""
            limit = min(errors, largest)
            return (
                f"{a.name} ({a.value:.4g}) and {b.name} ({b.value:.4g}) differ by {gap:.3g}, more "
                f"than the {limit:.3g} that their errors and the size of the returns allow"
                f"{other}."
            )
    return ""


def _outlier(leaders: dict[Kind, Estimate]) -> str:
    """Name of the estimate farthest from the median of three; nothing to name among two."""
    if len(leaders) < 3:
        return ""
    values = {e.name: e.value for e in leaders.values() if e.value is not None}
    median = sorted(values.values())[len(values) // 2]
    return max(values, key=lambda name: abs(values[name] - median))
