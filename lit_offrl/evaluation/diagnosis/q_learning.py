"""Verdicts on how a critic is learned: TD errors, ensembles, features, weights and trends."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_offrl.evaluation.diagnosis.q_sanity import Answers, QThresholds, no_scale
from lit_offrl.evaluation.finding import Finding, Verdict, not_applicable
from lit_offrl.evaluation.probe import ReturnFacts
from lit_offrl.losses import awr_metrics, awr_weight

Series = Sequence[tuple[float, float]]
"""Update number and value at each diagnosis."""
MIN_POINTS = 5
"""Diagnoses that a trend needs."""
WINDOW = 20
"""Latest diagnoses that a trend looks at: a late divergence must not drown in a long history."""
FLAT_MEAN = 0.9
"""Mean weight below which advantages are mostly negative, and not just small."""
NOTABLE = 0.1
"""Change, as a share of S or of the size, that counts as a trend of Q or of the features."""


def q_td_error(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Compare squared TD errors on held-out and trained rows, and look at their tail.

    The value is the ratio of the two means; without held-out episodes there is none.
    """
    error = answers["td_error"]  # (M,)
    size = error.abs()
    median, p95 = size.quantile(0.5).item(), size.quantile(0.95).item()
    meaning = f"TD errors average {error.mean().item():.4g} in raw reward"
    if (deviation := error.std(correction=0)) > 0:
        skewness = ((error - error.mean()) / deviation).pow(3).mean().item()
        meaning += f" (skewness {skewness:.2g})"
    tail = p95 / median if median > 0 else None
    meaning += ", and P95 of their size is "
    meaning += f"{p95:.4g}" if tail is None else f"{tail:.3g} times the median"
    verdict: Verdict = "ok"
    advice, ratio = "", None
    if tail is not None and tail > limits.td_tail:
        verdict = "watch"
        advice = "A few rows dominate: look for outliers among rewards, or clip them."
    trained = answers.get("train_td_error")
    if trained is not None and (on_train := trained.square().mean().item()) > 0:
        ratio = error.square().mean().item() / on_train
        meaning += f"; squared ones are {ratio:.2f} times as large on held-out as on trained rows"
        if ratio > limits.td_ratio:
            verdict = "watch"
            advice = "The critic overfits: stop earlier, or take smaller networks or more data."
    return Finding("q_td_error", verdict, f"{meaning}.", advice, ratio)


def q_disagreement(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Compare how far critics disagree on the policy's and on logged actions."""
    if "disagreement_data" not in answers:
        return not_applicable("q_disagreement", "One critic cannot disagree: see `n_critics`.")
    data = answers["disagreement_data"].mean().item()
    policy = answers["disagreement_policy"].mean().item()
    if data == 0:
        return not_applicable("q_disagreement", "All critics give the same values to logged rows.")
    ratio = policy / data
    meaning = (
        f"Critics disagree {ratio:.2f} times as much on the policy's actions as on logged ones "
        f"(standard deviations {policy:.4g} and {data:.4g} raw reward)."
    )
    if ratio <= limits.disagreement:
        return Finding("q_disagreement", "ok", meaning, value=ratio)
    advice = "The policy leaves the data: raise `n_critics` or `cql_alpha`, or add data there."
    return Finding("q_disagreement", "watch", meaning, advice, ratio)


def effective_rank(features: Tensor, share: float = 0.99) -> int:
    """Smallest k with ``Σ_{i<=k} σ_i >= share Σ_i σ_i``, of features (B, H); 0 if all are 0.

    Kumar et al. (2021), https://arxiv.org/abs/2010.14498, srank with δ = 1 - share.

    >>> effective_rank(torch.eye(4))
    4
    >>> effective_rank(torch.ones(4, 3))
    1
    """
    gram = features.double().T @ features.double()  # (H, H)
    sizes = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)  # (H,), σ falling
    if sizes[0] == 0:
        return 0
    return int((sizes.cumsum(0) < share * sizes.sum()).sum()) + 1


def q_rank(features: Tensor) -> Finding:
    """Report the effective rank of features (B, H); for information, whatever it is.

    That a low rank harms holds in restricted settings only (Gulcehre et al., 2022).
    """
    rank = effective_rank(features)
    meaning = f"99 % of the critic's {features.shape[1]} features lie in {rank} dimensions."
    return Finding("q_rank", "ok", meaning, value=float(rank))


def awr_weights(advantage: Tensor, inverse_temperature: float, limits: QThresholds) -> Finding:
    """Look at the weights of advantage-weighted regression.

    Too low a mean and no row far above 1 is what a high expectile leaves: V is at the best
    action's value, every advantage is about 0 or negative, and good rows no longer stand out.

    Args:
        advantage: ``min_j Q_j(s, a) - V(s)`` in training scale, (M,).
        inverse_temperature: β of the weights ``min(exp(β A), 100)``.
        limits: Where the verdict turns.
    """
    weights = awr_weight(advantage, inverse_temperature)  # (M,)
    numbers = awr_metrics(weights)
    weight, clipped, share = (numbers[f"awr/{k}"].item() for k in ("weight", "clipped", "ess"))
    best = weights.quantile(0.99).item()
    above = (advantage > 0).double().mean().item()
    meaning = (
        f"Weights of advantage-weighted regression average {weight:.3g} (P99 {best:.3g}); "
        f"{clipped:.1%} are clipped at 100, {above:.1%} of the advantages are positive, and the "
        f"rows count as {share:.1%} of their number."
    )
    verdict: Verdict = "watch"
    if clipped > limits.clipped or share < limits.effective_rows:
        advice = "A few rows decide: lower `inverse_temperature` or `reward_scale`."
    elif weight < limits.mean_weight or (weight < FLAT_MEAN and best < limits.best_weight):
        advice = "No row stands out: raise `inverse_temperature` with `expectile`."
    else:
        verdict, advice = "ok", ""
    return Finding("awr_weights", verdict, meaning, advice, weight)


def trend_window(series: Series, burn_in: int) -> Tensor | None:
    """Updates and values of the latest diagnoses after the burn-in, (2, P); None if too few."""
    points = [point for point in series if point[0] >= burn_in][-WINDOW:]
    return torch.tensor(points, dtype=torch.float64).T if len(points) >= MIN_POINTS else None


def slope(window: Tensor) -> float:
    """Least-squares slope of a window (2, P), per update.

    >>> slope(torch.tensor([[0.0, 1.0, 2.0], [1.0, 3.0, 5.0]]))
    2.0
    """
    x, y = window - window.mean(1, keepdim=True)
    return float((x * y).sum() / x.square().sum())


def too_short(name: str, burn_in: int) -> Finding:
    """Return the finding of a trend that has too few points."""
    reason = f"A trend needs {MIN_POINTS} diagnoses after update {burn_in:,}."
    return not_applicable(name, reason)


def q_drift(series: Series, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Check that the mean of Q(s, π(s)) does not run away: grow fast and ever faster."""
    window = trend_window(series, limits.burn_in)
    if facts.spread == 0:
        return no_scale("q_drift")
    if window is None:
        return too_short("q_drift", limits.burn_in)
    drift = 1e4 * slope(window) / facts.spread
    middle = window.shape[1] // 2
    first, last = (
        ((part[1, -1] - part[1, 0]) / (part[0, -1] - part[0, 0])).item()
        for part in (window[:, : middle + 1], window[:, middle:])
    )
    faster = last > first
    meaning = (
        f"Over the last {window.shape[1]} diagnoses Q(s, π(s)) changes by {drift:.2f} S per 10,000 "
        f"updates (S = {facts.spread:.4g} raw reward), {'ever faster' if faster else 'slowing'}."
    )
    if not (drift > limits.drift and faster):
        return Finding("q_drift", "ok", meaning, value=drift, unit="S")
    advice = (
        "Q diverges: stop and take an earlier checkpoint, then lower `lr` or `discount`, or raise "
        "`cql_alpha` or `n_critics`."
    )
    return Finding("q_drift", "fail", meaning, advice, drift, unit="S")


def q_coadaptation(
    products: Series, q_data: Series, facts: ReturnFacts, limits: QThresholds
) -> Finding:
    """Report mean ``φ(s, a)ᵀ φ(s', π(s'))``; to be watched if it rose while Q(s, a) fell.

    Kumar et al. (2021), DR3, https://arxiv.org/abs/2112.04716.

    Args:
        products: That mean at each diagnosis, this one included.
        q_data: Mean Q(s, a) likewise.
        facts: What the log says about values.
        limits: Where the burn-in ends.
    """
    value = products[-1][1]
    meaning = f"Features of successive state-action pairs have a mean product of {value:.4g}"
    peak = latest_peak(q_data, limits.burn_in)
    if peak is not None and min(peak.rise, peak.fall) > NOTABLE * facts.spread:
        before = dict(products).get(peak.update, value)
        if value - before > NOTABLE * abs(before):
            meaning += f", which rose while Q(s, a) fell after update {peak.update:,.0f}."
            advice = "The critic may be degrading: take an earlier checkpoint."
            return Finding("q_coadaptation", "watch", meaning, advice, value)
    return Finding("q_coadaptation", "ok", f"{meaning}.", value=value)


@dataclass(frozen=True)
class Peak:
    """Where a series was highest: how far it rose before and fell since."""

    update: float
    value: float
    rise: float
    fall: float


def latest_peak(series: Series, burn_in: int) -> Peak | None:
    """Find the peak after the burn-in; None if there are too few points.

    A series that falls from its first point on, as Q does where rewards are negative, has a peak
    without a rise.

    >>> latest_peak([(0, 9), (1, 0), (2, 1), (3, 5), (4, 4), (5, 2)], burn_in=1)
    Peak(update=3, value=5, rise=5, fall=3)
    """
    points = [point for point in series if point[0] >= burn_in]
    if len(points) < MIN_POINTS:
        return None
    update, value = max(points, key=lambda point: point[1])
    return Peak(update, value, value - points[0][1], value - points[-1][1])


def cql_trend(q_data: Series, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Say whether CQL's mean Q(s, a) rose, and has since fallen by more than 0.1 S.

    Kumar et al. (2021), a workflow for offline RL, https://arxiv.org/abs/2109.10813.

    Args:
        q_data: Mean Q(s, a) at each diagnosis.
        facts: What the log says about values.
        limits: Where the burn-in ends.
    """
    if facts.spread == 0:
        return no_scale("cql_trend")
    if (peak := latest_peak(q_data, limits.burn_in)) is None:
        return too_short("cql_trend", limits.burn_in)
    rise, fall = peak.rise / facts.spread, peak.fall / facts.spread
    meaning = (
        f"Mean Q(s, a) of the log was highest at update {peak.update:,.0f} ({peak.value:.4g} raw "
        f"reward), {rise:.2f} S above the start, and is {fall:.2f} S lower now."
    )
    if min(rise, fall) <= NOTABLE:
        return Finding("cql_trend", "ok", meaning, value=fall, unit="S")
    advice = "CQL overfits: use the checkpoint nearest to that update."
    return Finding("cql_trend", "watch", meaning, advice, fall, unit="S")
