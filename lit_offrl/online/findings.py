"""What the numbers of a fine-tuning run mean, in words."""

import math

from lit_offrl.evaluation.finding import Finding, Verdict, not_applicable
from lit_offrl.online.measures import Outcome

WATCH, FAIL = 0.1, 0.5
"""Dips, as shares of what the offline policy had over random actions."""


def mean_of(result: Outcome) -> str:
    """Say what was averaged."""
    return f"mean of {result.window} evaluation{'s' * (result.window != 1)}"


def dip_finding(result: Outcome) -> Finding:
    """Judge how deep the return fell."""
    share = f"{result.dip:.0%} of what the offline policy had over random actions"
    mean = f"The {mean_of(result)}"
    meaning = (
        f"{mean} fell from {result.before:.1f} to {result.lowest:.1f} at the lowest ({share})"
        if result.dip > 0
        else f"{mean} did not fall below the offline policy's {result.before:.1f}"
    )
    meaning += f"; the worst single one returned {result.worst:.1f}."
    verdict: Verdict = "fail" if result.dip > FAIL else "watch" if result.dip > WATCH else "ok"
    advice = (
        ""
        if verdict == "ok"
        else "Collect with the frozen policy first (`--warmup_steps`), mix in more of the log "
        "(`--offline_fraction`), limit the distance (`--kl_budget`), or start from Cal-QL."
    )
    return Finding("finetune_dip", verdict, meaning, advice, result.dip)


def recovery_finding(result: Outcome) -> Finding:
    """Say when the return was back."""
    if math.isinf(result.recovery_steps):
        meaning = (
            f"The return is not back at the offline policy's {result.before:.1f}: it ends at "
            f"{result.after:.1f}."
        )
        advice = "Use the offline policy, or go on longer."
        return Finding("finetune_recovery", "watch", meaning, advice)
    if result.recovery_steps == 0:
        return not_applicable("finetune_recovery", "There was no dip to recover from.")
    meaning = f"The return was back after {result.recovery_steps:,.0f} environment steps."
    return Finding("finetune_recovery", "ok", meaning, "", result.recovery_steps)


def regret_finding(result: Outcome) -> Finding:
    """Say what was missed on the way."""
    meaning = (
        f"On average over evaluations, {result.regret:.0%} of the way from random actions to the "
        "best return was missed."
    )
    return Finding("finetune_regret", "ok", meaning, "", result.regret)


def recalibration_finding(shift: float, spread: float) -> Finding:
    """Judge how far the values of logged actions moved.

    Args:
        shift: Change of the mean Q since the start, in raw reward.
        spread: P95 - P5 of the log's discounted returns-to-go.
    """
    share = abs(shift) / spread if spread > 0 else math.inf if shift else 0.0
    meaning = (
        f"The mean Q of logged actions moved by {shift:+.3g} since the start, {share:.0%} of the "
        "spread of logged returns."
    )
    if share <= 1:
        return Finding("finetune_recalibration", "ok", meaning, "", shift)
    advice = (
        "Offline values were far off what is seen online: expect a dip, and calibrate them next "
        "time (Cal-QL)."
    )
    return Finding("finetune_recalibration", "watch", meaning, advice, shift)


def distance_finding(bits: float | None, reason: str = "") -> Finding:
    """Say how far the policy is from the offline one, or why that is not known."""
    if bits is None:
        return not_applicable("finetune_kl", reason)
    text = f"The policy is {bits:.2f} bits from the offline policy at logged states."
    return Finding("finetune_kl", "ok", text, "", bits, unit="bits")
