"""The report of a training run: what its diagnostics found, and what is not known yet."""

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
