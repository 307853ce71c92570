"""Data set specs and algorithms that need no data."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.data.spec import make_spec
from lit_offrl.scaling import Scaling


def spec_of(obs_space: gym.Space[Any], action_space: gym.Space[Any], **known: Any) -> DatasetSpec:
    floats, flags = np.zeros(0, np.float32), np.zeros(0, np.bool_)
    numbers = np.zeros(0, np.int64)
    empty = Transitions(floats, floats, floats, floats, flags, flags, numbers)
    return make_spec("test/set-v0", "hash", obs_space, action_space, empty, **known)


def spec_of_env(env_id: str, **options: Any) -> DatasetSpec:
    env = gym.make(env_id, **options)
    assert env.spec is not None
    return spec_of(env.observation_space, env.action_space, env_spec=env.spec.to_json())


def identity_scaling(spec: DatasetSpec) -> Scaling:
    return Scaling(
        torch.zeros(spec.obs_dim),
        torch.ones(spec.obs_dim),
        None if spec.action_low is None else torch.tensor(spec.action_low),
        None if spec.action_high is None else torch.tensor(spec.action_high),
    )


class Actor(LightningModule):
    """Acts by a function of the normalized observations."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.function = function

    def act(self, obs: Tensor) -> Tensor:
        assert not self.dropout.training
        assert not torch.is_grad_enabled()
        return self.function(obs)
