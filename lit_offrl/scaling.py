"""Between a user's raw units and what the networks see."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """Observation statistics, action bounds and reward transform of a training split.

    Args:
        obs_mean: Mean observation, (O,).
        obs_std: Standard deviation plus 1e-3 (as TD3+BC), (O,); ones when not normalizing.
        action_low: Lower bounds of a Box action, (A,), or None for discrete actions.
        action_high: Upper bounds, likewise.
        reward_scale: r' = reward_scale * r + reward_shift.
        reward_shift: See ``reward_scale``.
    """

    obs_mean: Tensor
    obs_std: Tensor
    action_low: Tensor | None = None
    action_high: Tensor | None = None
    reward_scale: float = 1.0
    reward_shift: float = 0.0

    def normalize_obs(self, obs: Tensor) -> Tensor:
        """Standardize raw observations, (..., O); bytes are images alone, left to encoders."""
        if obs.dtype == torch.uint8:
            return obs
        return (obs - self.obs_mean) / self.obs_std

    def scale_action(self, action: Tensor) -> Tensor:
        """Map raw Box actions (..., A) to [-1, 1]; leave discrete ones alone."""
        if self.action_low is None or self.action_high is None:
            return action
        center = (self.action_high + self.action_low) / 2
        return (action - center) * 2 / (self.action_high - self.action_low)

    def unscale_action(self, action: Tensor) -> Tensor:
        """Map actions in [-1, 1] (..., A) to raw Box actions; leave discrete ones alone."""
        if self.action_low is None or self.action_high is None:
            return action
        raw = self.action_low + (action + 1) / 2 * (self.action_high - self.action_low)
        return torch.minimum(torch.maximum(raw, self.action_low), self.action_high)

    def transform_reward(self, reward: Tensor) -> Tensor:
        """Apply r' = scale * r + shift."""
        return self.reward_scale * reward + self.reward_shift

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, safe in a ``weights_only`` checkpoint."""
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scaling":
        """Rebuild what :meth:`to_dict` returned."""
        fields: dict[str, Any] = {
            k: torch.tensor(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fields)
