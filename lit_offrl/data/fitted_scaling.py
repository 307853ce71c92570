"""The scaling that a training split asks for."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data.packing import obs_statistics
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.data.transitions import Transitions
from lit_offrl.errors import InputError
from lit_offrl.scaling import Scaling


@dataclass(frozen=True)
class RewardTransform:
    """How rewards are scaled, see :class:`~lit_offrl.data.datamodule.OfflineDataModule`."""

    reward_range: float | None
    reward_scale: float
    reward_shift: float

    def __post_init__(self) -> None:
        if self.reward_range is not None and not 0 < self.reward_range < math.inf:
            raise InputError(f"`reward_range` must be positive, not {self.reward_range}.")
        if not (math.isfinite(self.reward_scale) and math.isfinite(self.reward_shift)):
            raise InputError("`reward_scale` and `reward_shift` must be finite.")
        if self.reward_scale <= 0:
            raise InputError(
                f"`reward_scale` must be positive, not {self.reward_scale}: it would turn the aim "
                "around."
            )

    def factor(self, returns: NDArray[np.float64], dataset_id: str) -> float:
        """What rewards are multiplied by, given the returns of the training episodes, (E,)."""
        if self.reward_range is None:
            return self.reward_scale
        if (spread := float(returns.max() - returns.min())) <= 0:
            raise InputError(
                f"Data set `{dataset_id}`: all training episodes have the same return, so "
                "`reward_range` cannot scale them: set it to null."
            )
        return self.reward_scale * self.reward_range / spread


def fitted_scaling(
    transitions: Transitions,
    spec: DatasetSpec,
    episodes: NDArray[np.int64],
    normalize_obs: bool,
    rewards: RewardTransform,
) -> Scaling:
    """Observation statistics and reward transform of some episodes, and the action bounds.

    Args:
        transitions: Raw data with whole episodes.
        spec: What is known of them.
        episodes: Those that are trained on.
        normalize_obs: Whether observations are standardized.
        rewards: How rewards are scaled.

    Raises:
        InputError: If the rewards do not allow it.
    """
    numbers = transitions.obs.shape[1]
    mean, std = np.zeros(numbers), np.ones(numbers)
    if normalize_obs:
        mean, std = obs_statistics(transitions, transitions.episode_rows(episodes))
        std = std + 1e-3
    return Scaling(
        obs_mean=_beside_images(torch.tensor(mean).float(), 0.0, spec),
        obs_std=_beside_images(torch.tensor(std).float(), 1.0, spec),
        action_low=None if spec.action_low is None else torch.tensor(spec.action_low),
        action_high=None if spec.action_high is None else torch.tensor(spec.action_high),
        reward_scale=rewards.factor(transitions.returns()[episodes], spec.dataset_id),
        reward_shift=rewards.reward_shift,
    )


def of_numbers(scaling: Scaling, spec: DatasetSpec) -> Scaling:
    """Scaling of the columns of an observation that are no pixels, (V,)."""
    if not spec.images:
        return scaling
    rest = ~_pixels(spec)
    mean, std = (
        column.expand(spec.obs_dim)[rest] for column in (scaling.obs_mean, scaling.obs_std)
    )
    return replace(scaling, obs_mean=mean, obs_std=std)


def _beside_images(numbers: Tensor, pixel: float, spec: DatasetSpec) -> Tensor:
    """One value per column of an observation, (O,); a single one if all are pixels."""
    if not spec.images:
        return numbers
    if not len(numbers):
        return torch.tensor([pixel])
    whole = torch.full((spec.obs_dim,), pixel)
    whole[~_pixels(spec)] = numbers
    return whole


def _pixels(spec: DatasetSpec) -> Tensor:
    """Which columns of an observation are pixels, (O,)."""
    found = torch.zeros(spec.obs_dim, dtype=torch.bool)
    for start, *shape in spec.images:
        found[start : start + math.prod(shape)] = True
    return found
