"""Whether offline estimates put several policies, such as checkpoints, into the right order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from lit_offrl.errors import InputError

RESAMPLES = 1000


@dataclass(frozen=True)
class RankQuality:
    """Whether estimates put policies into the right order.

    Args:
        spearman: Rank correlation of estimates and returns.
        interval: Its 95 % percentile-bootstrap interval over policies.
        regret: ``(best return - return of the policy with the best estimate)``, over
            the range of the returns: 0 is the best policy, 1 the worst.
    """

    spearman: float
    interval: tuple[float, float]
    regret: float


def rank_quality(estimates: ArrayLike, returns: ArrayLike, seed: int = 0) -> RankQuality:
    """Compare the order that estimates give to policies with that of their returns.

    DOPE's regret@1 divides by the best return, which means nothing for negative ones: here it is
    divided by ``max - min``.

    Args:
        estimates: Offline estimates of k policies, (k,).
        returns: Their returns, (k,).
        seed: Of the bootstrap.

    Raises:
        InputError: If there are fewer than 3 policies, or all values of a side are equal.

    >>> rank_quality([1.0, 2.0, 3.0], [-3.0, -1.0, -2.0]).regret
    0.5
    """
    one, other = (np.asarray(side, np.float64) for side in (estimates, returns))
    if one.shape != other.shape or len(one) < 3 or not np.isfinite([one, other]).all():
        raise InputError("Ranks need finite estimates and returns of the same 3 or more policies.")
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        raise InputError("All estimates or all returns are equal: there is no order to compare.")
    rng = np.random.default_rng(seed)
    resampled: list[float] = []
    while len(resampled) < RESAMPLES:
        rows = rng.integers(len(one), size=len(one))
        if np.ptp(one[rows]) > 0 and np.ptp(other[rows]) > 0:  # else there is no order
            resampled.append(spearmanr(one[rows], other[rows]).statistic)
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
    regret = (other.max() - other[one.argmax()]) / np.ptp(other)
    return RankQuality(float(spearmanr(one, other).statistic), (low, high), float(regret))
