"""The report of a training run: what its diagnostics found, and what is not known yet."""

import math
import shlex
from collections.abc import Mapping, Sequence

from lit_offrl.evaluation.finding import Finding
from lit_offrl.report.content import Conclusion, Curve, Report, Scatter


def training_report(
    title: str,
    findings: Sequence[Finding],
    curves: Sequence[Curve] = (),
    scatters: Sequence[Scatter] = (),
    ledger: Mapping[str, str | int | float] | None = None,
    checkpoint: str = "CHECKPOINT",
    interrupted: bool = False,
) -> Report:
    """Write down how a run went; only an evaluation can say that its policy may be used.

    Args:
        title: Algorithm and data set.
        findings: Latest findings of its diagnostics.
        curves: Numbers over training.
        scatters: Pairs of numbers.
        ledger: What the run was made from.
        checkpoint: Where its policy lies.
        interrupted: Whether the run was stopped before its end.
    """
    checkpoint = shlex.quote(checkpoint)
    conclusion, headline, why = conclude(findings, checkpoint)
    return Report(
        title=title,
        conclusion=conclusion,
        headline=headline,
        why=f"The run was interrupted before its end. {why}" if interrupted else why,
        findings=list(findings),
        curves=list(curves),
        scatters=list(scatters),
        ledger=dict(ledger or {}),
        command=f"lit-offrl evaluate {checkpoint}",
    )


def value_curves(trend: Sequence[Mapping[str, float]], mean_return: float) -> list[Curve]:
    """Draw the critic's mean values, with what the log returned; nothing without values.

    Args:
        trend: ``update``, and means ``q_policy`` and ``q_data`` in raw reward.
        mean_return: Mean logged return-to-go; NaN if unknown.
    """
    names = {"q_policy": "Q(s, π(s))", "q_data": "Q(s, a) of the log"}
    points = [point for point in trend if names.keys() <= point.keys()]
    curve = Curve(
        "Values over training",
        "mean value (raw reward)",
        [point["update"] for point in points],
        {label: [point[name] for point in points] for name, label in names.items()},
        hlines={"mean logged return-to-go": mean_return} if math.isfinite(mean_return) else {},
    )
    return [curve] if points else []


def conclude(findings: Sequence[Finding], checkpoint: str) -> tuple[Conclusion, str, str]:
    """Say how training went in one sentence, and why in another."""
    failed = [finding for finding in findings if finding.verdict == "fail"]
    watched = [finding for finding in findings if finding.verdict == "watch"]
    judged = [finding for finding in findings if finding.verdict != "not applicable"]
    evaluate = f"Estimate its return with `lit-offrl evaluate {checkpoint}`."
    if failed:
        more = len(failed) - 1
        others = f" {more} more check{'s' * (more > 1)} failed." if more else ""
        return (
            "do not use",
            "A check of the training failed: mend that first.",
            f"{failed[0].meaning}{others}",
        )
    if not judged:
        headline = "Nothing was checked while this policy was trained."
        return "not shown", headline, evaluate
    headline = (
        f"Training raised {len(watched)} of {len(judged)} questions; whether to use the policy is "
        "not shown."
        if watched
        else "Training looks sound; whether to use the policy is not shown."
    )
    return "not shown", headline, f"{watched[0].meaning} {evaluate}" if watched else evaluate
