"""Verdicts on how a critic's values moved while it trained."""

from collections.abc import Mapping, Sequence

from lit_offrl.evaluation.diagnosis import q_learning, q_sanity
from lit_offrl.evaluation.diagnosis.q_answers import features_of
from lit_offrl.evaluation.diagnosis.q_sanity import Answers, QThresholds
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.evaluation.probe import ReturnFacts

SERIES = ("q_data", "q_policy", "feature_product")
"""Columns whose means are kept at each diagnosis."""

CHECKS = {
    "q_bounds": q_sanity.q_bounds,
    "q_vs_mc": q_sanity.q_vs_mc,
    "q_policy_gap": q_sanity.q_policy_gap,
    "q_ood_gap": q_sanity.q_ood_gap,
    "q_sign": q_sanity.q_sign,
    "q_td_error": q_learning.q_td_error,
    "q_disagreement": q_learning.q_disagreement,
}
"""What is judged by the latest answers alone."""


def judge(
    trend: Sequence[Mapping[str, float]],
    answers: Answers,
    facts: ReturnFacts,
    limits: QThresholds,
    inverse_temperature: float | None = None,
    conservative: bool = False,
) -> list[Finding]:
    """Judge the latest answers, their history, and what only some algorithms have.

    Args:
        trend: ``update`` and the means of :data:`SERIES` at each diagnosis, the latest last.
        answers: Columns of the latest diagnosis, see :func:`~.q_answers.ask`.
        facts: What the log says about values.
        limits: Where verdicts turn.
        inverse_temperature: That of advantage-weighted regression, if the policy learns by it.
        conservative: Whether the algorithm pushes values down, as CQL does.
    """
    found = [check(answers, facts, limits) for check in CHECKS.values()]
    series = {
        name: [(point["update"], point[name]) for point in trend if name in point]
        for name in SERIES
    }
    if trend[-1]["update"] < limits.burn_in:
        reason = f"Not judged before update {limits.burn_in:,}."
        found.append(not_applicable("q_constant", reason))
    else:
        found.append(q_sanity.q_constant(answers, facts, limits))
    found.append(q_learning.q_drift(series["q_policy"], facts, limits))
    if (features := features_of(answers)) is None:
        reason = "The critic's features cannot be seen: it is no network of this library."
        found += [not_applicable(name, reason) for name in ("q_rank", "q_coadaptation")]
    else:
        products = series["feature_product"]
        found.append(q_learning.q_rank(features))
        found.append(q_learning.q_coadaptation(products, series["q_data"], facts, limits))
    if inverse_temperature is not None and "advantage" in answers:
        found.append(q_learning.awr_weights(answers["advantage"], inverse_temperature, limits))
    if conservative:
        found.append(q_learning.cql_trend(series["q_data"], facts, limits))
    return found
