"""How a policy is evaluated off-policy, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.estimators.fitted_q import check_size
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.verdict import Assessment


@dataclass(frozen=True)
class OffPolicyOptions:
    """How policies are evaluated.

    Args:
        policy: ``greedy`` is what is deployed; ``sampled`` draws from the policy's distribution;
            ``soft`` mixes the greedy discrete action with the logged behavior.
        softening: Share of the behavior in a ``soft`` policy.
        level: Confidence level of the intervals.
        behavior_updates: Gradient updates of each model of the behavior policy.
        fqe_updates: Gradient updates of FQE.
        fqe_members: Members of FQE, each on its own resample of episodes.
        model_updates: Gradient updates of the dynamics model; 0 leaves it out.
        rollouts: Episodes imagined in it.
        resamples: Bootstrap resamples of the importance-sampling estimates.
        seed: Seed of everything.
    """

    policy: Literal["greedy", "sampled", "soft"] = "greedy"
    softening: float = 0.1
    level: float = 0.95
    behavior_updates: int = 2_500
    fqe_updates: int = 5_000
    fqe_members: int = 5
    model_updates: int = 5_000
    rollouts: int = 500
    resamples: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.softening < 1 or not 0 < self.level < 1:
            raise InputError("`softening` and `level` must lie between 0 and 1.")
        if (
            min(self.model_updates, self.seed) < 0
            or min(self.rollouts, self.resamples, self.behavior_updates) < 1
        ):
            raise InputError("The counts given to off-policy evaluation must not be negative.")
        check_size(self.fqe_updates, self.fqe_members)


@dataclass(frozen=True)
class PolicyEvaluation:
    """What a log says of one policy.

    Args:
        policy: Name of the evaluated policy: ``greedy``, ``sampled``, ``0.1-soft``.
        discount: γ of all values.
        estimates: Of all estimators, those that do not apply too.
        assessment: What they say together.
        behavior: Value of the logged behavior, J(β), with its interval.
        findings: Support, and whether the behavior model and FQE can be trusted.
        spread: P95 - P5 of the logged discounted returns.
        n_episodes: Number of logged episodes.
        state_value: FQE's value of normalized observations (B, O): (B,), in raw reward.
    """

    policy: str
    discount: float
    estimates: list[Estimate]
    assessment: Assessment
    behavior: Estimate
    findings: list[Finding]
    spread: float
    n_episodes: int
    state_value: Callable[[Tensor], Tensor]


def fqe_finding(estimate: Estimate) -> Finding:
    """Say whether FQE had settled."""
    drift, error = estimate.details.get("drift"), estimate.std_error or 0.0
    if drift is None:
        return Finding("fqe_convergence", "ok", "FQE was solved exactly.")
    settled = not estimate.reason
    return Finding(
        "fqe_convergence",
        "ok" if settled else "watch",
        f"Over its last third FQE moved by {drift:.3g}, with a standard error of {error:.3g}.",
        "" if settled else "Give it more updates, `--fqe_updates`.",
        drift,
    )
