"""Weights of logged rows: how likely the present policy still is to act so."""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.batch import Layout
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.diagnosis.divergence import log_prob


def importance(
    algorithm: OfflineAlgorithm, behavior: BehaviorPolicy, layout: Layout, power: float
) -> Callable[[Tensor], Tensor]:
    """Return the function ``min(1, (π(a|s) / β̂(a|s))^κ)`` of packed logged rows (n, W), (n,).

    Args:
        algorithm: π, as it is when the function is called.
        behavior: β̂.
        layout: Columns of a row.
        power: κ; 0 weights all rows the same.

    Raises:
        InputError: If κ is negative or the policy has no density.
    """
    if power < 0:
        raise InputError(f"`importance_power` must not be negative, as {power} is.")

    if power == 0:
        return lambda rows: torch.ones(len(rows))

    @torch.no_grad()
    def weight(rows: Tensor) -> Tensor:
        batch = layout.unpack(rows.to(algorithm.device))
        try:
            wanted = log_prob(algorithm.policy(batch.obs), batch.action)
        except NotApplicableError:
            raise InputError(
                f"`importance_power` needs a density, which {type(algorithm).__name__}'s policy "
                "has not: leave it out."
            ) from None
        ratio = wanted - behavior.log_prob(batch.obs, batch.action)
        return (power * ratio).clamp(max=0).exp().float().cpu()

    return weight
