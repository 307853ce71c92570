"""The report of a deployment monitor."""

from collections.abc import Mapping

import numpy as np

from lit_offrl.evaluation.finding import worst
from lit_offrl.online.monitor.deployment import DeploymentMonitor
from lit_offrl.online.monitor.evidence import counted
from lit_offrl.report.content import Conclusion, Curve, KnownValue, Report

ASSUMPTIONS = (
    "Episodes are given in the order in which they happened, and none is left out.",
    "One episode does not influence the next.",
)
UNCALIBRATED = (
    "Without calibration episodes: transitions of the policy are about as predictable as similar "
    "ones of the log."
)


def monitor_report(
    monitor: DeploymentMonitor,
    title: str,
    ledger: Mapping[str, str | int | float] | None = None,
    command: str = "",
) -> Report:
    """Write down what a monitor found.

    Args:
        monitor: It, after some episodes.
        title: Which policy was watched, and where.
        ledger: What the report was made from.
        command: How to make it again.
    """
    found, findings = monitor.conclusion, monitor.findings()
    conclusion: Conclusion = "do not use" if found.alarms else "use"
    if found.change == "cannot say yet" or (not found.alarms and worst(findings) == "watch"):
        conclusion = "not shown"
    return Report(
        title=title,
        conclusion=conclusion,
        headline=f"{found.change}: {found.sentence}",
        why=found.advice,
        findings=findings,
        level=1 - monitor.delta,
        online_value=_mean_return(monitor),
        estimand="Discounted return of deployed episodes, in raw reward.",
        curves=_curves(monitor),
        ledger=dict(ledger or {}),
        assumptions=ASSUMPTIONS if monitor.calibrated else (*ASSUMPTIONS, UNCALIBRATED),
        command=command,
    )


def _mean_return(monitor: DeploymentMonitor) -> KnownValue | None:
    """Mean of what the episodes returned; None before the first."""
    if not monitor.seen:
        return None
    mean = float(np.mean([one.value for one in monitor.seen]))
    return KnownValue(mean, note=f"mean of {counted(len(monitor.seen))}")


def _curves(monitor: DeploymentMonitor) -> list[Curve]:
    """Evidence, returns and their cumulative sum over episodes."""
    if not monitor.seen:
        return []
    x = list(range(1, len(monitor.seen) + 1))
    level = float(np.log10(monitor.threshold))
    evidence = {  # far above the alarm nothing is left to see
        name: [min(value / np.log(10), 3 * level) for value in wealth.path]
        for name, wealth in monitor.wealth.items()
    }
    lines = {}
    if (predicted := monitor.prediction) is not None and not monitor.unpredicted:
        lines = {"predicted, low": predicted.low, "predicted, high": predicted.high}
    values = {"return": [one.value for one in monitor.seen]}
    alarm = {"alarm": level}
    limits = {"upper limit": monitor.cusum.h, "lower limit": -monitor.cusum.h}
    sums = {"sum": monitor.cusum.path}
    episodes = "deployed episodes"
    curves = [
        Curve(
            "Evidence of a change",
            "log10 e, cut off at thrice the alarm",
            x,
            evidence,
            {},
            alarm,
            episodes,
        ),
        Curve("Returns", "discounted return (raw reward)", x, values, {}, lines, episodes),
        Curve("Cumulative sum of returns", "standard deviations", x, sums, {}, limits, episodes),
    ]
    return curves if monitor.expects_returns else curves[:-1]
