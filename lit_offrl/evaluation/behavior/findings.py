"""What the scores of a behavior model mean, in words.

Thresholds are on distances and not on p-values, which would condemn every model once the log is
long enough. A KS distance of 0.1 is that of a Gaussian whose mean is off by a quarter of σ, 0.2 by
half. What chance makes of a true model is taken off first. Few held-out episodes cannot tell a
wrong model from episodes that differ, so fewer than 10 of them never fail one.
"""

import math

from lit_offrl.evaluation.behavior.scores import Scores
from lit_offrl.evaluation.finding import Finding, Verdict, not_applicable

ECE_LIMITS = (0.05, 0.15)
PIT_LIMITS = (0.1, 0.2)
UNEXPLAINED_LIMITS = (0.1, 0.3)
OVERFIT_NATS = 0.25
"""NLL per action dimension by which held-out rows may be worse than fitted ones."""
MIN_EPISODES = 10

REMEDY = "Do not rest importance sampling on it: use logged propensities, or FQE with its support."


def score_findings(scores: Scores) -> list[Finding]:
    """Findings on calibration: ECE or PIT, and what the observations still predict."""
    findings = [_ece(scores) if scores.pit is None else _pit(scores, scores.pit)]
    return [*findings, _unexplained(scores)]


def _verdict(value: float, limits: tuple[float, float], scores: Scores) -> Verdict:
    if value > limits[1] and scores.n_episodes >= MIN_EPISODES:
        return "fail"
    return "watch" if value > limits[0] else "ok"


def _on(scores: Scores) -> str:
    return f"on {scores.n_rows:,} rows of {scores.n_episodes:,} episodes"


def _ece(scores: Scores) -> Finding:
    assert scores.ece is not None and scores.ece_noise is not None
    verdict = _verdict(scores.ece - scores.ece_noise, ECE_LIMITS, scores)
    meaning = (
        f"The behavior model's confidence is off by {scores.ece:.3f} {_on(scores)}, where chance "
        f"makes {scores.ece_noise:.3f} (ECE; limit {ECE_LIMITS[0]})."
    )
    return Finding("behavior_ece", verdict, meaning, _advice(verdict), scores.ece)


def _pit(scores: Scores, pit: tuple[float, ...]) -> Finding:
    worst = max(range(len(pit)), key=pit.__getitem__)
    # Dvoretzky, Kiefer and Wolfowitz: passed by chance in 5 % of cases, over all dimensions
    noise = math.sqrt(math.log(2 * len(pit) / 0.05) / (2 * scores.n_rows))
    verdict = _verdict(pit[worst] - noise, PIT_LIMITS, scores)
    meaning = (
        f"The behavior model's distribution of action dimension {worst} is off by "
        f"{pit[worst]:.3f} {_on(scores)}, where chance makes up to {noise:.3f} (KS distance of "
        f"the PIT; limit {PIT_LIMITS[0]})."
    )
    return Finding("behavior_pit", verdict, meaning, _advice(verdict), pit[worst])


def _unexplained(scores: Scores) -> Finding:
    name, share = "behavior_unexplained", scores.unexplained
    if share is None:
        return not_applicable(
            name, f"{scores.n_rows:,} rows are too few to see what a behavior model leaves out."
        )
    verdict = _verdict(share, UNEXPLAINED_LIMITS, scores)
    meaning = (
        f"Observations still predict {max(share, 0):.1%} of what the behavior model takes for "
        f"chance, {_on(scores)} (limit {UNEXPLAINED_LIMITS[0]:.0%})."
    )
    return Finding(name, verdict, meaning, _advice(verdict), share)


def _advice(verdict: Verdict) -> str:
    return "" if verdict == "ok" else REMEDY


def overfit_finding(nll: float, nll_train: float, dims: int, in_sample: bool) -> Finding:
    """Compare the NLL of held-out rows with that of fitted ones.

    Args:
        nll: Of the held-out rows, in nats.
        nll_train: Of the fitted rows.
        dims: Number of action dimensions; 1 for discrete actions.
        in_sample: Whether no rows were held out.
    """
    name = "behavior_overfit"
    if in_sample:
        return not_applicable(name, "No episodes were held out to see whether β̂ is overfitted.")
    gap = (nll - nll_train) / dims
    meaning = (
        f"Held-out actions cost the behavior model {gap:.2f} nats per action dimension more than "
        f"fitted ones (NLL {nll:.2f} and {nll_train:.2f}; limit {OVERFIT_NATS})."
    )
    if gap <= OVERFIT_NATS:
        return Finding(name, "ok", meaning, value=gap, unit="nats")
    advice = "The log is small for its behavior: take its KL and densities as rough."
    return Finding(name, "watch", meaning, advice, gap, unit="nats")


def self_kl_finding(bits: float | None, dims: int) -> Finding:
    """Say how far two halves of the log agree on their behavior.

    Args:
        bits: KL between fits to the halves.
        dims: Number of action dimensions; 1 for discrete actions.
    """
    name = "behavior_self_kl"
    if bits is None:
        return not_applicable(name, "One episode has no halves to compare.")
    meaning = (
        f"Behavior models of two halves of the episodes differ by {bits:.2f} bits "
        f"({bits / dims:.2f} per action dimension): no KL to the behavior is known better."
    )
    if bits / dims <= 1:
        return Finding(name, "ok", meaning, value=bits, unit="bits")
    advice = "A KL of a policy to this log's behavior says little: judge it by the floor's excess."
    return Finding(name, "watch", meaning, advice, bits, unit="bits")
