"""Verdicts on a critic from what it answers about a probe: is Q a plausible value at all?

Every check takes the columns of :func:`~.q_answers.ask` and what the log says
about values, all in raw scale. Sizes are shares of S, the spread of the log's discounted returns,
so that no verdict depends on the units of the reward.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from lit_offrl.evaluation.finding import Finding, Verdict, not_applicable
from lit_offrl.evaluation.probe import ReturnFacts

Answers = Mapping[str, Tensor]
MIN_KNOWN = 20
"""Rows with a known return that a comparison with Monte Carlo returns needs."""


@dataclass(frozen=True)
class QThresholds:
    """Where the verdicts on a critic turn.

    Args:
        outside: Share of values outside the bounds above which ``q_bounds`` fails.
        tolerance: How far Q may miss a bound or 0 before it counts, as a share of S.
        near_bound: Share of a bound from which Q counts as suspiciously near to it.
        under: Share of S that Q may lie below the Monte Carlo returns.
        rank_correlation: Smallest Spearman correlation of Q and returns that informs.
        policy_gap: Share of S that π's values may exceed the log's: to be watched, to fail.
        ood_gap: Most by which logged actions should exceed random ones, as a share of S.
        constant: Smallest standard deviation of Q, as a share of S.
        td_ratio: Most that held-out squared TD errors may be of those on trained rows.
        td_tail: Most that P95 may be of the median of absolute TD errors.
        disagreement: Most that the critics' disagreement on π may be of that on the log.
        clipped: Share of clipped weights in advantage-weighted regression to be watched.
        effective_rows: Smallest effective share of rows in it.
        mean_weight: Smallest mean weight in it.
        best_weight: P99 of its weights below which no row stands out, if most are below 1.
        drift: Share of S per 10,000 updates by which Q may grow while its growth speeds up.
        burn_in: Updates before which ``q_constant`` and trends are not judged.
    """

    outside: float = 0.01
    tolerance: float = 0.05
    near_bound: float = 0.8
    under: float = 0.5
    rank_correlation: float = 0.2
    policy_gap: tuple[float, float] = (0.5, 1.0)
    ood_gap: float = 3.0
    constant: float = 1e-3
    td_ratio: float = 2.0
    td_tail: float = 50.0
    disagreement: float = 3.0
    clipped: float = 0.05
    effective_rows: float = 0.1
    mean_weight: float = 0.3
    best_weight: float = 1.1
    drift: float = 0.5
    burn_in: int = 5000


def no_scale(name: str) -> Finding:
    """Return the finding of a check that needs S where S is 0."""
    return not_applicable(
        name,
        "All rewards and all known returns are equal, so there is no scale to judge Q by and "
        "nothing to learn: check the reward column.",
    )


def q_bounds(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Check that values lie within what any policy could earn, [L, U].

    Near a bound is suspicious only where the log's own returns do not come as near.
    """
    low, high = facts.value_low, facts.value_high
    if low == high:
        return no_scale("q_bounds")
    q = torch.cat([answers["q_data"], answers["q_policy"]])  # (2M,)
    slack = limits.tolerance * (facts.spread or high - low)
    outside = ((q < low - slack) | (q > high + slack)).double().mean().item()
    top, bottom = q.max().item(), q.min().item()
    reached = answers["mc_return"]  # (M,), NaN where unknown, which no comparison counts
    near_high, near_low = limits.near_bound * high, limits.near_bound * low
    log_gets_high = facts.best_return > near_high or bool((reached > near_high).any())
    log_gets_low = bool((reached < near_low).any())
    near = (high > 0 and top > near_high and not log_gets_high) or (
        low < 0 and bottom < near_low and not log_gets_low
    )
    verdict: Verdict = "fail" if outside > limits.outside else "watch" if near else "ok"
    meaning = (
        f"{outside:.1%} of Q(s, a) and Q(s, π(s)) lie outside [{low:.4g}, {high:.4g}], all that a "
        f"policy could earn in raw reward; they run from {bottom:.4g} to {top:.4g}."
    )
    advice = {
        "fail": "Check `reward_scale`, `discount` and the terminal flags, then lower the learning "
        "rate or raise `cql_alpha` or `n_critics`.",
        "watch": "No return in the log comes so near to a bound: check `reward_scale` and "
        "`discount`, and watch whether Q goes on growing.",
    }
    return Finding("q_bounds", verdict, meaning, advice.get(verdict, ""), outside)


def q_vs_mc(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Compare values with Monte Carlo returns-to-go, where the log tells them.

    The value is ``E [Q(s, a) - G] / S``; its interval takes rows as independent, so it is too
    narrow where an episode fills much of the probe.
    """
    known = answers["mc_return"].isfinite()
    n = int(known.sum())
    if n < MIN_KNOWN or facts.high_return != facts.high_return:
        return not_applicable(
            "q_vs_mc",
            f"Only {n} of {len(known)} probed rows have a known return: where the log cuts an "
            "episode soon after, nobody knows what would have followed.",
        )
    if facts.spread == 0:
        return no_scale("q_vs_mc")
    q, togo = answers["q_data"][known], answers["mc_return"][known]
    error = (q - togo) / facts.spread  # (n,)
    bias = error.mean().item()
    half_width = 1.96 * error.std().item() / n**0.5
    correlation = rank_correlation(q, togo)
    policy, start = answers["q_policy"][known].mean().item(), answers["q_start"].mean().item()
    meaning = (
        f"Q(s, a) is on average {abs(bias):.2f} S {'above' if bias > 0 else 'below'} the Monte "
        f"Carlo return of the log (S = {facts.spread:.4g} raw reward), rank correlation "
        f"{'unknown' if correlation is None else f'{correlation:.2f}'}; Q above Monte Carlo is "
        "expected when the policy improves on the data."
    )
    verdict: Verdict = "watch"
    advice = ""
    if policy > facts.high_return and start > facts.best_return:
        verdict = "fail"
        meaning += (
            f" But the mean of Q(s, π(s)), {policy:.4g}, exceeds 99 % of all returns "
            f"({facts.high_return:.4g}), and at episode starts ({start:.4g}) the best episode "
            f"({facts.best_return:.4g}): too much to be true without proof."
        )
        advice = (
            "Check the terminal flags, then be more conservative: raise `cql_alpha` or "
            "`n_critics`, or lower `expectile`."
        )
    elif bias < -limits.under:
        meaning += f" Here it is more than {limits.under:g} S below: the critic is pessimistic."
        advice = (
            "Check that truncations are not marked terminated, then be less conservative: lower "
            "`cql_alpha` or `bcq_threshold`, or raise `expectile`."
        )
    elif correlation is not None and correlation < limits.rank_correlation:
        meaning += " So Q hardly tells good from bad: it is uninformative."
        advice = "Train longer, or check `lr` and that rewards belong to their transitions."
    else:
        verdict = "ok"
    return Finding(
        "q_vs_mc", verdict, meaning, advice, bias, (bias - half_width, bias + half_width), "S"
    )


def rank_correlation(x: Tensor, y: Tensor) -> float | None:
    """Spearman's ρ of two columns, (n,); 0 if x is constant, None if y is.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 5.0, 6.0]))
    1.0
    """
    if y.min() == y.max():
        return None
    if x.min() == x.max():
        return 0.0
    return round(float(spearmanr(x.cpu().numpy(), y.cpu().numpy()).statistic), 12)


def q_policy_gap(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Check that the policy's actions are not valued far above the log's."""
    if facts.spread == 0:
        return no_scale("q_policy_gap")
    gap = (answers["q_policy"] - answers["q_data"]).mean().item() / facts.spread
    watch, fail = limits.policy_gap
    verdict: Verdict = "fail" if gap > fail else "watch" if gap > watch else "ok"
    meaning = (
        f"The policy's actions are valued {gap:.3g} S above the logged ones "
        f"(S = {facts.spread:.4g} raw reward)"
    )
    if verdict == "ok":
        return Finding("q_policy_gap", verdict, f"{meaning}.", value=gap, unit="S")
    return Finding(
        "q_policy_gap",
        verdict,
        f"{meaning}: the actor exploits errors of the critic.",
        "Keep the policy nearer to the data: raise `cql_alpha`, `n_critics` or `bcq_threshold`.",
        gap,
        unit="S",
    )


def q_ood_gap(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Check that logged actions are valued above random ones, but not absurdly so."""
    if facts.spread == 0:
        return no_scale("q_ood_gap")
    gap = (answers["q_data"] - answers["q_random"]).mean().item() / facts.spread
    meaning = (
        f"Logged actions are valued {gap:.3g} S above uniformly random ones "
        f"(S = {facts.spread:.4g} raw reward); log mean exp Q - Q(s, a) is "
        f"{answers['lse_gap'].mean().item():.4g} in training scale"
    )
    verdict: Verdict = "ok"
    advice = ""
    if gap <= 0:
        verdict, meaning = "watch", f"{meaning}: random actions look as good"
        advice = (
            "Raise `cql_alpha` or `n_critics`, unless the log's actions are random themselves or, "
            "as with IQL, no other action is ever asked about."
        )
    elif gap > limits.ood_gap:
        verdict, meaning = "watch", f"{meaning}: the critic is over-conservative"
        advice = "Lower `cql_alpha`: the policy can hardly leave the log's actions."
    return Finding("q_ood_gap", verdict, f"{meaning}.", advice, gap, unit="S")


def q_constant(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Check that Q differs between states at all."""
    if facts.spread == 0:
        return no_scale("q_constant")
    between = answers["q_data"].std(correction=0).item()
    share = between / facts.spread
    actions = answers["std_random"].mean().item()
    meaning = (
        f"Q(s, a) varies by {share:.3g} S between logged rows and by {actions / facts.spread:.3g} "
        f"S between actions (standard deviations, S = {facts.spread:.4g} raw reward)."
    )
    if share >= limits.constant:
        return Finding("q_constant", "ok", meaning, value=share, unit="S")
    advice = "The critic does not learn: check `lr`, dead ReLUs and that rewards are not all zero."
    return Finding("q_constant", "fail", meaning, advice, share, unit="S")


def q_sign(answers: Answers, facts: ReturnFacts, limits: QThresholds) -> Finding:
    """Check that not all values are negative where no reward is."""
    top = max(answers["q_data"].max().item(), answers["q_policy"].max().item())
    if facts.reward_low < 0:
        expected = ", as may be expected" if top < 0 else ""
        return Finding(
            "q_sign",
            "ok",
            f"The largest Q is {top:.4g}{expected}: rewards go down to {facts.reward_low:.4g}.",
            value=top,
        )
    if facts.spread == 0:
        return no_scale("q_sign")
    verdict: Verdict = "fail" if top < -limits.tolerance * facts.spread else "ok"
    meaning = f"The largest Q is {top:.4g}, and no reward is negative."
    advice = "Negative values cannot be true: lower `cql_alpha` or check `reward_shift`."
    return Finding("q_sign", verdict, meaning, advice if verdict == "fail" else "", top)


def broken(names: Iterable[str]) -> list[Finding]:
    """Return the one finding of a critic with NaN, and what cannot be said any more.

    Args:
        names: Of the findings that it would else have.
    """
    reason = "Some values or parameters are NaN or infinite."
    advice = "Stop: go back to the last good checkpoint and lower `lr` or check the data."
    return [
        Finding("q_nan", "fail", reason, advice, 1.0),
        *(not_applicable(name, reason) for name in names),
    ]
