"""What the distance from the behavior policy means, in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lit_offrl.evaluation.finding import Finding, Verdict, not_applicable, worst

FAR_BITS = 5.0
"""A state counts as far from the data above this."""
CLOSER = (
    "raise `cql_alpha` (CQL) or `bcq_threshold` (DiscreteBCQ), or lower `inverse_temperature` "
    "(IQL), `bc_alpha` (TD3+BC) or `max_perturbation` (BCQ)"
)
FREER = (
    "lower `cql_alpha` (CQL) or `bcq_threshold` (DiscreteBCQ), or raise `inverse_temperature` "
    "(IQL), `bc_alpha` (TD3+BC) or `max_perturbation` (BCQ)"
)


@dataclass(frozen=True)
class Limits:
    """Where the verdicts on a divergence change, and what it is measured against.

    Args:
        watch: From here on ``watch``, in bits, or in bits per dimension of Box actions.
        fail: From here on ``fail``.
        too_close: Below this a policy is called behavior cloning, in bits per dimension.
        n_dims: Dimensions of a Box action; 1 for discrete ones.
        floor: Self-KL: what two fits of the behavior policy differ by, in bits in total.
    """

    watch: float
    fail: float
    too_close: float
    n_dims: int = 1
    floor: float = 0.0

    @property
    def unit(self) -> str:
        """Unit of the numbers that verdicts are about."""
        return "bits" if self.n_dims == 1 else "bits per dimension"

    def verdict(self, bits: float) -> Verdict:
        """Verdict on a total of so many bits, after subtracting the floor."""
        excess = (bits - self.floor) / self.n_dims
        return "fail" if excess >= self.fail else "watch" if excess >= self.watch else "ok"

    def says(self, bits: float) -> str:
        """Write a number of bits out, in total and per dimension."""
        if self.n_dims == 1:
            return f"{bits:.3g} bits"
        return f"{bits / self.n_dims:.3g} bits per dimension ({bits:.3g} in total)"


def judge(columns: Mapping[str, Tensor], reason: str, limits: Limits) -> list[Finding]:
    """Turn the columns of all rows into findings.

    Args:
        columns: Those of :func:`~.kl_answers.compare`, (n,) each, n >= 1.
        reason: Why there is no density, or "".
        limits: Of the verdicts.
    """
    if any(column.isnan().any() for column in columns.values()):
        bad = "The policy's or the behavior policy's outputs are not numbers."
        return [Finding("kl_behavior", "fail", bad, "Lower the learning rates.")]
    findings = []
    if reason:
        findings.append(not_applicable("kl_behavior", f"The divergence is infinite. {reason}"))
    else:
        findings.append(behavior_finding(columns["kl"], columns["low_variance"], limits))
        findings.append(coverage_finding(columns["missed"], limits))
    distance = columns["kl"] if "support" not in columns else columns["support"]
    if "support" in columns:
        ratio = None
        if "error" in columns:
            ratio = (columns["error"].mean() / columns["random"].mean()).item()
        findings.append(support_finding(distance, columns["logged"], ratio, limits))
    if distance.isfinite().all():
        findings.append(too_close_finding(distance.mean().item(), limits))
    return findings


def trust(findings: list[Finding], of_fit: Sequence[Finding]) -> list[Finding]:
    """Withdraw verdicts that rest on a poorly fitted behavior policy, and add its findings.

    Where a finding of the fit says ``fail``, nothing is concluded; where it says ``watch``, each
    sentence says so.

    Args:
        findings: Of the divergence.
        of_fit: Of the behavior policy.
    """
    wrong = [finding for finding in of_fit if finding.verdict in ("watch", "fail")]
    if not wrong:
        return [*of_fit, *findings]
    names = ", ".join(finding.name for finding in wrong)
    failed = worst(wrong) == "fail"
    note = f"{'Not to be trusted' if failed else 'With care'}, as {names} of the fit says."
    return [
        *of_fit,
        *(
            replace(
                finding,
                verdict="not applicable" if failed else finding.verdict,
                advice="Mend the fit of the behavior policy first." if failed else finding.advice,
                meaning=f"{note} {finding.meaning}",
            )
            for finding in findings
        ),
    ]


def behavior_finding(bits: Tensor, low_variance: Tensor, limits: Limits) -> Finding:
    """Judge ``KL(π‖β̂)``.

    Args:
        bits: At each state, (n,), n >= 1.
        low_variance: The other estimate of it, (n,); the same numbers where there is a closed form.
        limits: Of the verdicts.
    """
    if (infinite := bits.isinf().double().mean().item()) > 0:
        return Finding(
            "kl_behavior",
            "fail",
            f"At {infinite:.1%} of the states the policy takes actions that the behavior policy "
            "never takes.",
            f"Hold the policy closer to the data: {CLOSER}.",
        )
    mean, interval = _mean_and_interval(bits, limits.n_dims)
    p95, far = bits.quantile(0.95).item(), (bits > FAR_BITS).double().mean().item()
    verdict = limits.verdict(mean)
    other = low_variance.mean().item()
    note = (
        "" if bits.equal(low_variance) else f" The low-variance estimate is {limits.says(other)}."
    )
    return Finding(
        "kl_behavior",
        verdict,
        f"The policy is {limits.says(mean)} from the behavior policy, whose own floor is "
        f"{limits.says(limits.floor)}; 95 % of states lie below {limits.says(p95)}, and {far:.1%} "
        f"are more than {FAR_BITS:g} bits away in total.{note}",
        "" if verdict == "ok" else f"Hold the policy closer to the data: {CLOSER}.",
        mean / limits.n_dims,
        interval,
        limits.unit,
    )


def coverage_finding(log_ratio: Tensor, limits: Limits) -> Finding:
    """Judge ``KL(β‖π)``, how much worse the policy predicts logged actions than β̂ does.

    That the policy leaves out what the log did is what learning is for; that it predicts the log
    better than β̂ speaks against β̂.

    Args:
        log_ratio: ``log β̂(a|s) - log π(a|s)`` of logged actions in bits, (n,).
        limits: Of the verdicts; ``watch`` below 0 marks a poor fit of β̂.
    """
    missed = log_ratio.isinf().double().mean().item()
    if missed > 0:
        return not_applicable(
            "kl_coverage",
            f"The policy gives no probability to {missed:.1%} of the logged actions, so the "
            "divergence of the behavior policy from it is infinite, as for every greedy policy.",
        )
    mean, interval = _mean_and_interval(log_ratio, limits.n_dims)
    better = interval is not None and interval[1] < -limits.watch
    return Finding(
        "kl_coverage",
        "watch" if better else "ok",
        f"The policy predicts logged actions {limits.says(abs(mean))} "
        f"{'better' if mean < 0 else 'worse'} than the fitted behavior policy does.",
        "The behavior policy is fitted poorly: trust no divergence from it." if better else "",
        mean / limits.n_dims,
        interval,
        limits.unit,
    )


def support_finding(
    bits: Tensor, logged_bits: Tensor, mse_ratio: float | None, limits: Limits
) -> Finding:
    """Judge how far below the behavior policy's most usual action a deterministic policy's lies.

    Logged actions lie below it themselves (0.72 bits per dimension where they are Gaussian), so
    the verdict is on what the policy's lie below those.

    Args:
        bits: ``-log2 [β̂(π(s)) / max β̂]`` at each state, (n,).
        logged_bits: The same of the logged actions, (n,).
        mse_ratio: Squared distance from the logged actions over that of random ones; None for
            discrete actions.
        limits: Of the verdicts.
    """
    mean, interval = _mean_and_interval(bits, limits.n_dims)
    logged = logged_bits.mean().item()
    verdict = replace(limits, floor=logged).verdict(mean)
    distance = (
        ""
        if mse_ratio is None
        else f"; its squared distance from them is {mse_ratio:.2g} of a random action's"
    )
    return Finding(
        "kl_support",
        verdict,
        f"The policy's actions lie {limits.says(mean)} below the behavior policy's most usual one, "
        f"logged actions {limits.says(logged)}{distance}.",
        "" if verdict == "ok" else f"Hold the policy closer to the data: {CLOSER}.",
        mean / limits.n_dims,
        interval,
        limits.unit,
    )


def too_close_finding(mean_bits: float, limits: Limits) -> Finding:
    """Say so where the policy cannot be told from the behavior policy.

    Args:
        mean_bits: Mean divergence in total; of a deterministic policy the bits of its support, as
            its divergence is never 0.
        limits: Of the verdicts.
    """
    if limits.floor / limits.n_dims >= limits.watch:
        return not_applicable(
            "kl_too_close",
            f"Two fits of the behavior policy are {limits.says(limits.floor)} apart, so a clone of "
            "it cannot be told from another policy.",
        )
    excess = (mean_bits - limits.floor) / limits.n_dims
    close = excess < limits.too_close
    return Finding(
        "kl_too_close",
        "watch" if close else "ok",
        f"The policy is {limits.says(mean_bits)} from the behavior policy, where two fits of that "
        f"are {limits.says(limits.floor)} apart: "
        f"{'you trained BC' if close else 'it is another policy'}.",
        f"If more than imitation was meant, give the policy more freedom: {FREER}."
        if close
        else "",
        excess,
        unit=limits.unit,
    )


def _mean_and_interval(bits: Tensor, n_dims: int) -> tuple[float, tuple[float, float] | None]:
    """Mean of rows in total, and its 95 % interval per dimension, as if rows were independent."""
    mean = bits.mean().item()
    if len(bits) < 2:
        return mean, None
    half = 1.96 * bits.std().item() / math.sqrt(len(bits))
    return mean, ((mean - half) / n_dims, (mean + half) / n_dims)
