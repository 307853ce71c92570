"""What is known of a data set beside its transitions."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.spaces.utils import flatdim
from minari.serialization import deserialize_space, serialize_space

from lit_offrl.data.spaces import image_parts, number_of_actions
from lit_offrl.data.transitions import Transitions
from lit_offrl.encoders import Image
from lit_offrl.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetSpec:
    """Identity, dimensions and environment of a data set, in plain types.

    Args:
        dataset_id: Minari id, or path of a D4RL file.
        content_hash: Hash of the stored data, the same wherever they lie.
        obs_dim: O, after flattening.
        action_dim: A, or the number of actions if ``discrete``.
        discrete: Whether an action is one index.
        action_low: Raw lower bounds of a Box action, A numbers.
        action_high: Raw upper bounds, likewise.
        multi_discrete: Sizes of the parts if a MultiDiscrete action was flattened to an index.
        obs_space: Observation space as Minari serializes it.
        action_space: Action space, likewise.
        env_spec: Gymnasium's JSON of the environment to evaluate in.
        ref_min_score: Return that counts as score 0.
        ref_max_score: Return that counts as score 100.
    """

    dataset_id: str
    content_hash: str
    obs_dim: int
    action_dim: int
    discrete: bool
    action_low: list[float] | None
    action_high: list[float] | None
    multi_discrete: list[int] | None
    obs_space: str
    action_space: str
    env_spec: str | None = None
    ref_min_score: float | None = None
    ref_max_score: float | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        """Where images lie in a flattened observation."""
        return image_parts(deserialize_space(self.obs_space))

    def refuse_images(self, who: str) -> None:
        """Say what does not work on images.

        Args:
            who: What was asked to.

        Raises:
            InputError: If there are images in observations.
        """
        if self.images:
            raise InputError(
                f"{who} does not work on images, which the observations of `{self.dataset_id}` "
                "hold: see docs/images.md for what does."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, safe in a ``weights_only`` checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DatasetSpec":
        """Rebuild what :meth:`to_dict` returned."""
        return cls(**values)


def make_spec(
    dataset_id: str,
    content_hash: str,
    obs_space: Space[Any],
    action_space: Space[Any],
    transitions: Transitions,
    **known: Any,
) -> DatasetSpec:
    """Derive dimensions and action bounds from the spaces.

    Args:
        dataset_id: See :class:`DatasetSpec`.
        content_hash: See :class:`DatasetSpec`.
        obs_space: Space of one observation.
        action_space: Space of one action.
        transitions: The data, whose extremes stand in for bounds that are infinite.
        known: The other fields of the spec.
    """
    low = high = multi_discrete = None
    if isinstance(action_space, spaces.Box):
        low, high = _bounds(dataset_id, action_space, transitions)
        action_dim = len(low)
    elif isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete):
        action_dim = number_of_actions(action_space)
        if isinstance(action_space, spaces.MultiDiscrete):
            multi_discrete = action_space.nvec.ravel().tolist()
    else:  # sources refuse other spaces when they read actions
        raise InputError(f"Data set `{dataset_id}`: actions of {action_space} are not supported.")
    return DatasetSpec(
        dataset_id=dataset_id,
        content_hash=content_hash,
        obs_dim=flatdim(obs_space),
        action_dim=action_dim,
        discrete=low is None,
        action_low=low,
        action_high=high,
        multi_discrete=multi_discrete,
        obs_space=serialize_space(obs_space),
        action_space=serialize_space(action_space),
        **known,
    )


def _bounds(
    dataset_id: str, space: spaces.Box, transitions: Transitions
) -> tuple[list[float], list[float]]:
    """Bounds of a Box action (A,); the data's own extremes in dimensions without bounds."""
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    open_dims = ~np.isfinite(low) | ~np.isfinite(high)
    if open_dims.any():
        _log.warning(
            "Data set `%s`: action dimensions %s have no finite bounds; the smallest and largest "
            "logged action stand in for them.",
            dataset_id,
            np.flatnonzero(open_dims).tolist(),
        )
        data_low, data_high = transitions.action.min(0), transitions.action.max(0)
        margin = np.where(data_high > data_low, 0.0, 1e-3)  # a constant dimension needs a width
        low = np.where(open_dims, data_low - margin, low)
        high = np.where(open_dims, data_high + margin, high)
    return low.tolist(), high.tolist()
