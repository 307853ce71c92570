"""What every off-policy estimator returns."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Family = Literal["importance sampling", "doubly robust", "FQE", "model-based"]
Status = Literal["valid", "dropped", "not applicable"]


@dataclass(frozen=True)
class Estimate:
    """Estimated discounted return of a policy from its first observations, in raw reward.

    Args:
        name: Name of the estimator: ``WIS``, ``FQE``.
        family: What it rests on; estimators of one family fail together.
        value: The estimate; None if not applicable.
        interval: Its interval of the level that the evaluation names (95 % unless asked).
        std_error: Its standard error.
        lower_bound: One-sided lower confidence bound, where the estimator has its own.
        status: Whether it may count, was dropped for weak evidence, or does not apply.
        reason: Why it was dropped or does not apply; else a remark, or empty.
        details: Numbers beside it, such as the effective sample size ``ess``.
    """

    name: str
    family: Family
    value: float | None = None
    interval: tuple[float, float] | None = None
    std_error: float | None = None
    lower_bound: float | None = None
    status: Status = "valid"
    reason: str = ""
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.name} is {self.value}: an estimator must say why, not NaN.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain types."""
        values = asdict(self)
        values["interval"] = None if self.interval is None else list(self.interval)
        return values


def inapplicable(name: str, family: Family, reason: str) -> Estimate:
    """Return an estimate that cannot be made, and why."""
    return Estimate(name, family, status="not applicable", reason=reason)
