"""What comes of fitted Q evaluation: a value with its interval, and Q for doubly robust use."""

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.estimators.fqe import FQE

SAMPLES = 10
"""Actions drawn where a value of a sampled policy of Box actions is asked for."""


@dataclass(frozen=True)
class FQEResult:
    """Estimated discounted return of a policy by fitted Q evaluation, in raw reward.

    Q and V of a row come from the member that was not fitted on the row's episode.

    Args:
        member_values: Estimate of each bootstrapped member, (K,).
        fold: Member that each episode was kept from, (E,).
        q: Cross-fitted Q(s, a), (N,).
        v: Cross-fitted V(s), (N,).
        tail_v: Cross-fitted V of each episode's last observation, 0 if it terminated, (E,).
        bellman_residual: Root mean square of the cross-fitted ``r + γ V(s') - Q(s, a)``.
        curve: Estimate after so many updates.
        drift: Change over the last third of the updates, of a line through the curve.
        clipped_share: Share of targets that left the range of possible returns, in that third.
        scale: Standard deviation of the logged returns-to-go.
        fqe: The fitted ensemble.
    """

    member_values: Tensor
    fold: Tensor
    q: Tensor
    v: Tensor
    tail_v: Tensor
    bellman_residual: float
    curve: dict[int, float]
    drift: float
    clipped_share: float
    scale: float
    fqe: FQE

    @torch.no_grad()
    def state_value(self, obs: Tensor) -> Tensor:
        """V(s), mean over members, of normalized observations (B, O): (B,)."""
        choice = self.fqe.choose(obs, SAMPLES)
        return self.fqe.expected(self.fqe.target_q, obs, choice).mean(0)

    @property
    def value(self) -> float:
        """Mean over members."""
        return float(self.member_values.mean())

    @property
    def std_error(self) -> float:
        """Standard deviation over members, each of which is fitted on a bootstrap resample."""
        return float(self.member_values.std())

    @property
    def converged(self) -> bool:
        """Whether the last third of the updates moved the estimate by next to nothing."""
        return abs(self.drift) <= max(self.std_error, 0.05 * self.scale)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student t interval over members."""
        t = float(stats.t.ppf((1 + level) / 2, len(self.member_values) - 1))
        return self.value - t * self.std_error, self.value + t * self.std_error

    def q_and_v(self) -> tuple[Tensor, Tensor]:
        """Cross-fitted Q(s, a) and V(s) of all rows, (N,) each."""
        return self.q, self.v

    def estimate(self, level: float = 0.95) -> Estimate:
        """Return the estimate as all estimators report it."""
        unsettled = f"The estimate still moved by {self.drift:.3g}: give FQE more updates."
        return Estimate(
            "FQE",
            "FQE",
            self.value,
            self.interval(level),
            self.std_error,
            reason="" if self.converged else unsettled,
            details={
                "bellman_residual": self.bellman_residual,
                "drift": self.drift,
                "clipped_share": self.clipped_share,
            },
        )
