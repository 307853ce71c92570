"""From an off-policy evaluation to the report that says whether the policy may be used."""

from collections.abc import Mapping, Sequence

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.policy_evaluation import PolicyEvaluation
from lit_offrl.report.content import Conclusion, KnownValue, Report

ASSUMPTIONS = (
    "Actions in the log were chosen from what the observations show: no unobserved confounding.",
    "The world that the policy will act in is the one that made the log.",
    "Rewards in the log are what the policy is to be judged by.",
)


def policy_report(
    title: str,
    evaluation: PolicyEvaluation,
    level: float,
    training: Sequence[Finding] = (),
    online: KnownValue | None = None,
    gap: Sequence[Finding] = (),
    ledger: Mapping[str, str | int | float] | None = None,
    command: str = "",
) -> Report:
    """Write down what a log says of a policy.

    Args:
        title: Algorithm and data set.
        evaluation: The evaluation.
        level: Confidence level of its intervals.
        training: What diagnostics found while the policy was trained.
        online: What the policy returned in the environment, discounted, if it was run.
        gap: Findings that compare the two.
        ledger: What the evaluation was made from.
        command: How to make it again.
    """
    own = [*evaluation.findings, *gap]
    older = [f for f in training if f.name not in {one.name for one in own}]
    conclusion, headline, why = conclude(evaluation, [*gap, *older])
    behavior = evaluation.behavior
    assert behavior.value is not None
    return Report(
        title=title,
        conclusion=conclusion,
        headline=headline,
        why=why,
        findings=[*own, *older],
        estimates=_headline_first(evaluation),
        level=level,
        lower_bound=evaluation.assessment.lower_bound,
        behavior_value=KnownValue(
            behavior.value,
            behavior.interval,
            f"{behavior.name} of {evaluation.n_episodes:,} episodes",
        ),
        online_value=online,
        estimand=(
            f"Discounted return (γ = {evaluation.discount:g}) of the {evaluation.policy} policy "
            "from the first observations of the log, in raw reward."
        ),
        ledger=dict(ledger or {}),
        assumptions=ASSUMPTIONS,
        command=command,
    )


def conclude(
    evaluation: PolicyEvaluation, others: Sequence[Finding] = ()
) -> tuple[Conclusion, str, str]:
    """Say whether the policy may be used, in one sentence, and why, in another.

    Only estimates that agree, on data that support them, with a lower bound above the value of
    the logged behavior, and without a failing finding, let it be used.

    Args:
        evaluation: The evaluation.
        others: Findings beside its own: of the training, and of episodes in the environment.
    """
    found, behavior = evaluation.assessment, evaluation.behavior
    failed = [f for f in [*evaluation.findings, *others] if f.verdict == "fail"]
    if found.agreement == "NO_SUPPORT":
        return (
            "do not use",
            "The log does not show what this policy would do.",
            found.reason,
        )
    if found.headline is None:
        return "not shown", "Nothing is known of this policy's return.", found.reason
    value, compared = _compared(found.headline, found.lower_bound, behavior)
    if found.agreement != "AGREE":
        headline = {
            "DISAGREE": "The estimates of this policy contradict each other.",
            "SINGLE": "It is not shown that this policy is better than the logged behavior.",
            "NONE": "Nothing is known of this policy's return.",
        }[found.agreement]
        return "not shown", headline, f"{found.reason} {compared}"
    if failed:
        headline = "It is not shown that this policy is better than the logged behavior."
        return "not shown", headline, f"{failed[0].meaning} {found.reason}"
    if found.usable:
        headline = "As far as the log can show, this policy beats the logged behavior."
        return "use", headline, f"{found.reason} {compared}"
    high = found.headline.interval[1] if found.headline.interval else value
    if behavior.value is not None and high < behavior.value:
        headline = "This policy is worse than the logged behavior."
        return "do not use", headline, f"{found.reason} {compared}"
    headline = "It is not shown that this policy is better than the logged behavior."
    return "not shown", headline, f"{found.reason} {compared}"


def _compared(
    headline: Estimate, lower_bound: float | None, behavior: Estimate
) -> tuple[float, str]:
    """Return the reported value, and the numbers in one sentence."""
    assert headline.value is not None and behavior.value is not None
    least = "" if lower_bound is None else f", at least {lower_bound:.4g},"
    return headline.value, (
        f"{headline.name} gives a discounted return of {headline.value:.4g}{least} where the "
        f"logged behavior earns {behavior.value:.4g}."
    )


def _headline_first(evaluation: PolicyEvaluation) -> list[Estimate]:
    """Put the reported estimate before the others."""
    first = evaluation.assessment.headline
    return sorted(evaluation.estimates, key=lambda estimate: estimate is not first)
