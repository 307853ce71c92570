"""What the offline-online gap means, in words."""

from lit_offrl.errors import InputError
from lit_offrl.evaluation.diagnosis.gap import (
    Estimand,
    Gap,
    Gauge,
    check_estimand,
    offline_online_gap,
)
from lit_offrl.evaluation.diagnosis.gap_episodes import Array, Terms
from lit_offrl.evaluation.diagnosis.kl_findings import CLOSER, FREER
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import Finding, Verdict, not_applicable

VERDICTS: dict[Gauge, Verdict] = {
    "OPTIMISTIC": "fail",
    "PESSIMISTIC": "watch",
    "CALIBRATED": "ok",
    "INCONCLUSIVE": "watch",
}
FEW_EPISODES = 20
"""A percentile bootstrap of fewer episodes gives intervals that are too narrow."""
OUTSIDE_WATCH, OUTSIDE_FAIL = 0.1, 0.9

CRITIC_ADVICE = {
    "OPTIMISTIC": "If the critic's values still move, train longer first: they start near 0. Else "
    f"make training more conservative: lower `expectile` (IQL), {CLOSER}.",
    "PESSIMISTIC": f"Make training less conservative: raise `expectile` (IQL), {FREER}.",
}
ESTIMATE_ADVICE = {
    gauge: "Mend the estimate, not the training: look at the support, at the calibration of the "
    "behavior policy and at whether FQE has converged."
    for gauge in ("OPTIMISTIC", "PESSIMISTIC")
}


def gap_finding(name: str, gap: Gap, note: str = "") -> Finding:
    """Put a gap into words.

    Args:
        name: ``gap_critic`` for the value of the trained critic, ``gap_ope`` for an off-policy
            estimate: their remedies differ.
        gap: The comparison.
        note: Sentence to add.
    """
    low, high = gap.interval
    few = (
        f" Fewer than {FEW_EPISODES} episodes: the interval is too narrow."
        if gap.n_episodes < FEW_EPISODES
        else ""
    )
    advice = (CRITIC_ADVICE if name == "gap_critic" else ESTIMATE_ADVICE).get(gap.gauge, "")
    if gap.gauge == "INCONCLUSIVE":
        advice = (
            "No number of episodes will settle it: the offline value is too uncertain, or lies on "
            "the margin."
            if gap.more_episodes is None
            else f"Play {gap.more_episodes} more episodes to settle it."
        )
    return Finding(
        name,
        VERDICTS[gap.gauge],
        f"{gap.gauge}: the offline value is {gap.offline:.4g}, {gap.n_episodes} episodes return "
        f"{gap.online:.4g}; it is {gap.relative:+.1%} off, between {low:+.1%} and {high:+.1%}."
        f"{few}{note and ' ' + note}",
        advice,
        gap.relative,
        gap.interval,
    )


def critic_finding(values: Array | None, returns: Array, spread: float, terms: Terms) -> Finding:
    """Compare a critic's values of start observations with returns.

    Args:
        values: In raw scale, (S,); None if there is no critic.
        returns: Scored alike, with the critic's value behind a time limit, (n,).
        spread: S.
        terms: How the returns were scored.
    """
    if values is None:
        return not_applicable("gap_critic", "The algorithm learns no critic.")
    note = ""
    if terms.limit is not None:
        note = (
            f"What lies behind the limit of {terms.limit} steps weighs "
            f"{terms.discount**terms.limit:.0%}, and the critic's own value stands in for it."
        )
    return _compared("gap_critic", values, returns, spread, note)


def estimate_finding(estimate: Estimate, returns: Array, spread: float, terms: Terms) -> Finding:
    """Compare an off-policy estimate with plain discounted returns of raw reward.

    Args:
        estimate: If its ``details`` have a ``discount``, it must be that of the returns.
        returns: (n,).
        spread: S.
        terms: How the returns were scored.
    """
    if estimate.status != "valid":
        reason = f"{estimate.name} is {estimate.status}: {estimate.reason}".rstrip(".") + "."
        return not_applicable("gap_ope", reason)
    discount = estimate.details.get("discount", terms.discount)
    try:
        check_estimand(Estimand(discount), Estimand(terms.discount))
    except InputError as error:
        return not_applicable("gap_ope", str(error))
    return _compared("gap_ope", estimate, returns, spread, f"It is {estimate.name}'s.")


def _compared(
    name: str, offline: Array | Estimate, returns: Array, spread: float, note: str
) -> Finding:
    try:
        return gap_finding(name, offline_online_gap(offline, returns, spread), note)
    except InputError as error:
        return not_applicable(name, str(error))


def without_episodes(values: Array | None, missing: str) -> Finding:
    """Report the offline side alone.

    Args:
        values: The critic's values of start observations, (S,); None if there is no critic.
        missing: Why there are no episodes.
    """
    if values is None:
        return not_applicable("gap_critic", f"No critic, and no episodes: {missing}.")
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return not_applicable(
        "gap_critic",
        f"The critic promises {values.mean():.4g} ± {half:.2g} from {len(values)} logged starts, "
        f"and no episode tells whether that is true: {missing}.",
    )


def reward_range_finding(
    outside: float, online: tuple[float, float], logged: tuple[float, float]
) -> Finding:
    """Judge whether the environment pays as the log does.

    A policy better than any in the log may leave the log's range at times; one that is nearly
    always outside is paid by another rule.

    Args:
        outside: Share of online rewards more than a tenth of the logged range outside of it.
        online: Smallest and largest raw reward online.
        logged: Smallest and largest raw reward of the log.
    """
    verdict: Verdict = (
        "fail" if outside > OUTSIDE_FAIL else "watch" if outside > OUTSIDE_WATCH else "ok"
    )
    return Finding(
        "gap_reward_range",
        verdict,
        f"{outside:.1%} of the environment's rewards ({online[0]:.4g} to {online[1]:.4g}) lie "
        f"outside of the log's ({logged[0]:.4g} to {logged[1]:.4g}).",
        ""
        if verdict == "ok"
        else "Check that the environment gives the rewards that were logged: its version, its "
        "wrappers and `env_id`.",
        outside,
    )


def distrusted(findings: list[Finding]) -> list[Finding]:
    """Withdraw the gaps where the environment does not pay as the log does."""
    if findings[0].verdict != "fail":
        return findings
    reason = "The environment's rewards are not those of the log, so the values do not compare."
    return [findings[0], *(not_applicable(finding.name, reason) for finding in findings[1:])]
