"""Episodes, their lengths and their returns."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import skew, spearmanr

from lit_offrl.data import Transitions
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.inspection.thresholds import EXPERT, MIN_EPISODES, TREND

Floats = NDArray[np.float64]


def positive_sided_variance(returns: Floats) -> float:
    """``E[max(G - mean G, 0)²]`` (Hong et al. 2023).

    >>> positive_sided_variance(np.array([0.0, 0.0, 0.0, 4.0]))
    2.25
    """
    return float(np.square(np.maximum(returns - returns.mean(), 0)).mean())


def trajectory_quality(returns: Floats, low: float, high: float) -> float:
    """``(mean G - low) / (high - low)`` (Schweighofer et al. 2022); 1 where all are equal.

    >>> trajectory_quality(np.array([0.0, 1.0]), low=0.0, high=2.0)
    0.25
    """
    return 1.0 if high == low else float((returns.mean() - low) / (high - low))


def good_share(returns: Floats, low: float, high: float) -> float:
    """Share of episodes at 0.9 or more of the way from ``low`` to ``high``."""
    return float((returns >= low + EXPERT * (high - low)).mean())


def scale_of(returns: Floats, spec: DatasetSpec) -> tuple[float, float, str]:
    """Returns that count as 0 and 1, and what they are."""
    low, high = spec.ref_min_score, spec.ref_max_score
    if low is not None and high is not None and low < high:
        return low, high, "reference scores"
    return float(returns.min()), float(returns.max()), "the worst and best episode, no reference"


def return_findings(transitions: Transitions, spec: DatasetSpec) -> list[Finding]:
    """Measure episodes and returns."""
    returns = transitions.returns()  # (E,)
    q = np.quantile(returns, [0, 0.25, 0.5, 0.75, 1])
    lopsided = float(skew(returns)) if returns.std() > 0 else 0.0
    summary = Finding(
        "returns",
        "ok",
        f"Returns: min {q[0]:.4g}, quartiles {q[1]:.4g}, {q[2]:.4g}, {q[3]:.4g}, max "
        f"{q[4]:.4g}; mean {returns.mean():.4g}, skew {lopsided:.2f}.",
        value=float(returns.mean()),
    )
    scaled = _scaled_findings(returns, spec)
    return [
        _episodes(transitions),
        summary,
        *scaled,
        trend_finding(returns),
        modes_finding(returns),
    ]


def _scaled_findings(returns: Floats, spec: DatasetSpec) -> list[Finding]:
    """Measure returns on the scale of the reference scores, or of the worst and best episode."""
    low, high, source = scale_of(returns, spec)
    quality, good = trajectory_quality(returns, low, high), good_share(returns, low, high)
    poor = float((returns < low + (1 - EXPERT) * (high - low)).mean())
    variance = positive_sided_variance(returns)
    spread = variance**0.5 / (high - low) if high > low else 0.0
    measures = {
        "trajectory_quality": (quality, f"The mean return is {quality:.0%} of the way"),
        "return_spread": (spread, f"Above the mean, returns spread by {spread:.0%} of the way"),
        "expert_share": (good, f"{good:.1%} of the episodes pass 90 % of the way"),
        "poor_share": (poor, f"{poor:.1%} of the episodes miss 10 % of the way"),
    }
    return [
        Finding(
            "positive_sided_variance",
            "ok",
            f"Above the mean, returns spread by {variance**0.5:.4g}: the more, the more there is "
            "to gain over imitation.",
            value=variance,
        ),
        *(
            Finding(name, "ok", f"{meaning} between {source}.", value=value)
            for name, (value, meaning) in measures.items()
        ),
    ]


def trend_finding(returns: Floats) -> Finding:
    """Correlate returns with the order of recording: in a replay buffer they rise.

    Args:
        returns: Undiscounted returns in the order of recording, (E,).
    """
    name = "return_trend"
    if len(returns) < MIN_EPISODES or returns.std() == 0:
        return not_applicable(name, "Few returns, or equal ones, show no trend.")
    trend = float(spearmanr(np.arange(len(returns)), returns).statistic)
    meaning = f"Returns and the order of the episodes have rank correlation {trend:.2f}"
    hint = ": they rise, as while a policy is trained" if trend >= TREND else ""
    return Finding(name, "ok", f"{meaning}{hint}.", value=trend)


def _episodes(transitions: Transitions) -> Finding:
    lengths = np.diff(transitions.episode_bounds)
    n, q = len(lengths), np.quantile(lengths, [0, 0.5, 1])
    ended = transitions.terminated.sum() / n
    cut = (transitions.truncated & ~transitions.terminated).sum() / n
    few = n < MIN_EPISODES
    return Finding(
        "episodes",
        "watch" if few else "ok",
        f"{n:,} episodes, {len(transitions):,} steps; lengths {q[0]:.0f} to {q[2]:.0f}, median "
        f"{q[1]:.0f}; {ended:.0%} terminated, {cut:.0%} truncated.",
        "Expect wide intervals: judge by more than one number, and collect more if you can."
        if few
        else "",
        value=float(n),
    )


def modes_finding(returns: Floats, most: int = 4) -> Finding:
    """Count the modes of the returns: the Gaussian mixture with the least BIC.

    Args:
        returns: Undiscounted returns, (E,).
        most: Largest number of components tried.
    """
    name = "return_modes"
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        return not_applicable(name, "Needs scikit-learn: `pip install lit-offrl[ml]`.")
    if len(returns) < 10 * most or returns.std() == 0:
        return not_applicable(name, f"{len(returns)} returns do not tell modes apart.")
    x = ((returns - returns.mean()) / returns.std())[:10_000, None]  # (n, 1)
    bic = [
        GaussianMixture(k, random_state=0, reg_covar=1e-4).fit(x).bic(x)
        for k in range(1, min(most, len(np.unique(returns))) + 1)
    ]
    count = int(np.argmin(bic)) + 1
    meaning = f"A mixture of {count} Gaussians fits the returns best (BIC)"
    hint = "several policies may have recorded the log" if count > 1 else "one mode"
    return Finding(name, "ok", f"{meaning}: {hint}.", value=float(count))
