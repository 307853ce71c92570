"""An algorithm as a policy of the environment: raw observations in, raw actions out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from lightning import LightningModule
from minari.serialization import deserialize_space
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_offrl.data import DatasetSpec
from lit_offrl.data.spaces import flatten_observations, unflatten_actions
from lit_offrl.errors import InputError
from lit_offrl.scaling import Scaling


class RawPolicy:
    """Greedy actions of an algorithm in the units and shapes of the environment.

    Args:
        algorithm: Module with ``act(obs)``; it may be in the midst of training.
        spec: Data set that it is trained on.
        scaling: Scaling that it is trained with.
    """

    def __init__(self, algorithm: LightningModule, spec: DatasetSpec, scaling: Scaling) -> None:
        act = getattr(algorithm, "act", None)
        if not callable(act):
            raise InputError(f"{type(algorithm).__name__} has no `act(obs)`: write one.")
        self.algorithm = algorithm
        self.spec = spec
        self.scaling = scaling
        self._act: Callable[[Tensor], Tensor] = act
        self._obs_space: Space[Any] = deserialize_space(spec.obs_space)
        self._action_space: Space[Any] = deserialize_space(spec.action_space)

    def __call__(self, obs: Any) -> Any:
        """Return the action at one observation, or actions at a batch of them.

        Args:
            obs: As the environment or a vector of environments gives it (array, list, tensor, or
                dict or tuple of them), or flattened, (O,) or (B, O).

        Returns:
            One action, in the action space's shape and type (an int where it is Discrete), or an
            array of them stacked on axis 0.
        """
        rows, single = self._flatten(obs)  # (B, O)
        normalized = self.scaling.normalize_obs(torch.from_numpy(rows))
        with torch.no_grad(), eval_mode(self.algorithm):
            parameter = next(self.algorithm.parameters())
            scaled = self._act(normalized.to(parameter)).cpu()
        flat = self.scaling.unscale_action(scaled.float() if scaled.is_floating_point() else scaled)
        actions = unflatten_actions(self._action_space, flat.numpy())
        if isinstance(self._action_space, spaces.Box):  # float32 may round past a float64 bound
            actions = np.clip(actions, self._action_space.low, self._action_space.high)
        if not single:
            return actions
        return int(actions[0]) if isinstance(self._action_space, spaces.Discrete) else actions[0]

    def _flatten(self, obs: Any) -> tuple[NDArray[np.float32], bool]:
        """Return rows (B, O), and whether there was but one observation."""
        space = self._obs_space
        if not _is_nested(space, obs):
            flat = _array(obs)
            if _is_flat(space, flat, self.spec.obs_dim):
                single = flat.ndim == 1
                return flat.reshape(-1, self.spec.obs_dim).astype(np.float32), single
        values = _arrays(space, obs)
        part, value = space, values
        while isinstance(part, spaces.Dict | spaces.Tuple):
            key: Any = next(iter(part.keys())) if isinstance(part, spaces.Dict) else 0
            part, value = part[key], value[key]
        single = value.ndim == len(part.shape or ())
        return flatten_observations(space, stack_one(values) if single else values), single


def _is_nested(space: Space[Any], obs: Any) -> bool:
    return (isinstance(space, spaces.Dict) and isinstance(obs, dict)) or (
        isinstance(space, spaces.Tuple) and isinstance(obs, tuple)
    )


def _is_flat(space: Space[Any], obs: NDArray[Any], obs_dim: int) -> bool:
    """Whether an array holds flattened observations, and not such as the space itself has."""
    if obs.ndim not in (1, 2) or obs.shape[-1] != obs_dim:
        return False
    if isinstance(space, spaces.Discrete):  # integers are the space's own, numbers one-hot
        return obs.dtype.kind == "f"
    return space.shape is None or obs.shape[obs.ndim - len(space.shape) :] != space.shape


def _arrays(space: Space[Any], obs: Any) -> Any:
    """Turn the leaves of an observation, or of a batch, into arrays."""
    if isinstance(space, spaces.Dict):
        return {key: _arrays(part, obs[key]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_arrays(part, value) for part, value in zip(space, obs, strict=True))
    return _array(obs)


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def stack_one(values: Any) -> Any:
    """Put a batch axis of length 1 before each leaf."""
    if isinstance(values, dict):
        return {key: stack_one(value) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(stack_one(value) for value in values)
    return np.asarray(values)[None]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off in ``module`` for a while."""
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True
