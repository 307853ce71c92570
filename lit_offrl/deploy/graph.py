"""A policy as one graph: raw observations in, raw actions out."""

import copy
import types
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from minari.serialization import deserialize_space
from torch import Tensor, nn

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.checkpoint import LoadedPolicy
from lit_offrl.networks import QNetwork

NOISE_SEED = 0


class PolicyGraph(nn.Module):
    """Greedy actions at raw observations, made of tensor operations alone.

    A policy that draws (BCQ) draws the same noise at every observation, so that its actions are a
    function of the observation.

    Args:
        policy: What was trained.
    """

    algorithm: OfflineAlgorithm
    low: Tensor
    high: Tensor
    sizes: Tensor
    start: Tensor

    def __init__(self, policy: LoadedPolicy) -> None:
        super().__init__()
        self.algorithm = traceable(policy.algorithm)
        self.algorithm.act(torch.zeros(1, policy.spec.obs_dim))  # noise is drawn, not traced
        self.scaling, space = policy.scaling, deserialize_space(policy.spec.action_space)
        self.box = isinstance(space, spaces.Box)
        names = ("low", "high") if self.box else ("sizes", "start")
        for name, value in zip(names, _bounds(space) if self.box else _sizes(space), strict=True):
            self.register_buffer(name, value)
        self.flat = isinstance(space, spaces.Discrete)
        """Whether an action is one number instead of a row of them."""

    def forward(self, obs: Tensor) -> Tensor:
        """Map raw flattened observations (B, O) to raw actions.

        Returns:
            Box actions (B, A) in float32; else int64 in the environment's own numbering, (B,) where
            its space is Discrete and (B, D) where it is MultiDiscrete.
        """
        action = self.algorithm.act(self.scaling.normalize_obs(obs))
        if self.box:
            raw = self.scaling.unscale_action(action)
            return torch.minimum(torch.maximum(raw, self.low), self.high)
        codes = []
        for size in reversed(self.sizes.unbind()):
            codes.append(action % size)
            action = torch.div(action, size, rounding_mode="floor")
        raw = torch.stack(codes[::-1], -1) + self.start  # (B, D)
        return raw.squeeze(-1) if self.flat else raw


def without_chance(algorithm: OfflineAlgorithm) -> OfflineAlgorithm:
    """Copy an algorithm so that it draws the same at every observation."""
    copied = copy.deepcopy(algorithm).cpu().eval().requires_grad_(False)
    noise: dict[tuple[int, ...], Tensor] = {}

    def randn(*shape: int) -> Tensor:
        *lead, rows, width = shape
        key = (*lead, width)
        if key not in noise:
            generator = torch.Generator().manual_seed(NOISE_SEED)
            noise[key] = torch.randn(*lead, 1, width, generator=generator)
        return noise[key].expand(*lead, rows, width)

    vars(copied)["randn"] = randn
    return copied


def traceable(algorithm: OfflineAlgorithm) -> OfflineAlgorithm:
    """Copy an algorithm so that it does the same operations for any number of observations."""
    copied = without_chance(algorithm).float()
    for module in copied.modules():
        if isinstance(module, QNetwork):  # whose path on a CPU depends on the number of rows
            vars(module)["forward"] = types.MethodType(_batched, module)
    return copied


def _batched(self: QNetwork, obs: Tensor, action: Tensor) -> Tensor:
    """``QNetwork.forward`` as a GPU runs it."""
    rows = action.reshape(-1, obs.shape[0], action.shape[-1])  # (N, B, A)
    return self.batched(self.encoder(obs), rows).reshape(-1, *action.shape[:-1])


def _bounds(space: Space[Any]) -> tuple[Tensor, Tensor]:
    """Bounds of a Box space, (A,) each, in float32 within the space's own."""
    assert isinstance(space, spaces.Box)
    low, high = space.low.ravel(), space.high.ravel()
    return _rounded(low, np.inf), _rounded(high, -np.inf)


def _rounded(bound: Any, inward: float) -> Tensor:
    """A bound in float32, moved by one step inward where rounding went past it."""
    near = bound.astype(np.float32)
    passed = near < bound if inward > 0 else near > bound
    return torch.from_numpy(np.where(passed, np.nextafter(near, np.float32(inward)), near))


def _sizes(space: Space[Any]) -> tuple[Tensor, Tensor]:
    """Numbers of values of each part of an action, and its first, (D,) each in int64."""
    if isinstance(space, spaces.Discrete):
        return torch.tensor([int(space.n)]), torch.tensor([int(space.start)])
    assert isinstance(space, spaces.MultiDiscrete)
    sizes, start = space.nvec.ravel(), space.start.ravel()
    return torch.from_numpy(sizes.astype(np.int64)), torch.from_numpy(start.astype(np.int64))
