"""Whether a graph acts as the policy that it was made of."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from minari.serialization import deserialize_space
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.data.spaces import flatten_actions
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation import RawPolicy
from lit_offrl.scaling import Scaling

TOLERANCE = 1e-5
"""Largest difference of actions, as a share of their range; discrete ones must be equal."""
TIE = 1e-5
"""Relative difference of the values of two actions between which rounding may choose."""
MOST_TIES = 0.05
"""Share of the observations above which differences are no ties."""


@dataclass(frozen=True)
class Agreement:
    """How a graph acts beside the policy.

    Args:
        largest_difference: Of actions, as a share of their range, but for ties.
        ties: Observations at which the graph takes another action that the policy values alike
            to rounding.
    """

    largest_difference: float
    ties: int


def agree(
    name: str,
    found: NDArray[Any],
    algorithm: OfflineAlgorithm,
    policy: RawPolicy,
    obs: NDArray[Any],
) -> Agreement:
    """Compare a graph's actions with the policy's.

    A policy that takes the best of several actions jumps where two are equally good, and there
    rounding decides. Such rows are ties, if they are few.

    Args:
        name: The graph's name.
        found: Its actions, (B,), (B, A) or (B, D).
        algorithm: What was trained, to value actions.
        policy: The policy made of it.
        obs: Raw observations, (B, O).

    Raises:
        InputError: If actions differ elsewhere than at ties.
    """
    wanted = np.asarray(policy(obs))
    found = found.reshape(wanted.shape)
    difference = _difference(found, wanted, policy.scaling)  # (B,)
    apart = ~(difference <= (0.0 if policy.spec.discrete else TOLERANCE))
    wrong = apart.copy()
    if apart.any() and apart.mean() <= MOST_TIES:
        wrong[apart] = ~_tied(found[apart], wanted[apart], algorithm, policy, obs[apart])
    if wrong.any():
        raise InputError(
            f"{name} acts otherwise than the policy at {wrong.sum()} of {len(obs)} observations (by"
            f" up to {difference[wrong].max():.2g} of the range): nothing was written. Report this."
        )
    return Agreement(float(difference[~apart].max(initial=0.0)), int(apart.sum()))


def _difference(found: NDArray[Any], wanted: NDArray[Any], scaling: Scaling) -> NDArray[np.float64]:
    """Largest difference in each row, as a share of the range, (B,)."""
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    difference = difference.reshape(len(found), -1)  # (B, A)
    if scaling.action_low is not None and scaling.action_high is not None:
        difference /= (scaling.action_high - scaling.action_low).numpy()
    rows: NDArray[np.float64] = difference.max(1)
    return rows


@torch.no_grad()
def _tied(
    found: NDArray[Any],
    wanted: NDArray[Any],
    algorithm: OfflineAlgorithm,
    policy: RawPolicy,
    obs: NDArray[Any],
) -> NDArray[np.bool_]:
    """Whether two raw actions are worth the same to a critic, or as probable if discrete, (B,)."""
    space, like = deserialize_space(policy.spec.action_space), next(algorithm.parameters())
    normalized = policy.scaling.normalize_obs(torch.from_numpy(obs)).to(like)
    one, other = (
        policy.scaling.scale_action(torch.from_numpy(flatten_actions(space, actions))).to(like)
        for actions in (found, wanted)
    )
    scores: list[Callable[[Tensor], Tensor]] = [lambda a: algorithm.q_values(normalized, a)]
    if policy.spec.discrete:  # around a Gaussian's mode the density is flat
        one, other = one.long(), other.long()
        scores.append(lambda a: algorithm.policy(normalized).log_prob(a).unsqueeze(0))
    tied = torch.zeros(len(obs), dtype=torch.bool)
    for score in scores:
        with contextlib.suppress(NotApplicableError):
            mine, its = score(one), score(other)  # (n, B)
            tied |= ((mine - its).abs() <= TIE * (1 + its.abs())).any(0).cpu()
    return tied.numpy()
