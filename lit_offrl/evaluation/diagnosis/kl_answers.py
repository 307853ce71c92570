"""Numbers per observation that say how a policy differs from the behavior policy."""

import math
from typing import Any

from torch import Tensor

from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.diagnosis.divergence import BITS_PER_NAT, log_prob, policy_kl
from lit_offrl.policies import Greedy


def compare(
    policy: Any, behavior: BehaviorPolicy, obs: Tensor, action: Tensor, noise: Tensor
) -> tuple[dict[str, Tensor], str]:
    """Compare a policy with the behavior policy, observation by observation.

    Args:
        policy: Distribution of actions at the observations.
        behavior: The behavior policy β̂.
        obs: Normalized observations, (B, O).
        action: Logged actions, (B, A) in [-1, 1], or indices, (B,).
        noise: Standard normal, (draws, B, A); not looked at for discrete actions.

    Returns:
        Columns (B,) in bits, and why the policy has no density, or "". With a density: ``kl``, its
        ``low_variance`` estimate, and ``missed``, ``log β̂(a|s) - log π(a|s)`` of logged actions.
        Of a deterministic policy: ``support`` and ``logged``, ``-log2 [β̂(a|s) / max β̂]`` of its
        actions and of the logged ones, and for Box actions ``error`` and ``random``, the squared
        distance to the logged action of its action, and that expected of a random one.
    """
    columns: dict[str, Tensor] = {}
    reason = ""
    at_obs = behavior.policy(obs)
    try:
        missed = log_prob(at_obs, action) - log_prob(policy, action)
        columns["missed"] = missed * BITS_PER_NAT
        columns["kl"], columns["low_variance"] = policy_kl(policy, at_obs, noise)
    except NotApplicableError as error:
        reason = str(error)
    if reason or isinstance(policy, Greedy):
        columns["support"] = _support_bits(behavior, obs, policy.mode)
        columns["logged"] = _support_bits(behavior, obs, action)
    if reason:
        columns["error"] = (policy.mode - action).double().square().mean(-1)
        # of u uniform on [-1, 1]: E (u - a)² = 1/3 + a²
        columns["random"] = action.double().square().mean(-1) + 1 / 3
    return columns, reason


def _support_bits(behavior: BehaviorPolicy, obs: Tensor, action: Tensor) -> Tensor:
    action = action.float() if action.is_floating_point() else action
    return -behavior.relative_log_density(obs, action).double() / math.log(2)
