from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatten
from lightning import LightningModule
from torch import Tensor

from lit_offrl.errors import InputError
from lit_offrl.evaluation import RawPolicy
from tests.evaluation.fakes import Actor, identity_scaling, spec_of

NESTED = spaces.Dict(
    {
        "pair": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3]))),
        "image": spaces.Box(-1, 1, (2, 2), dtype=np.float64),
    }
)


def policy_of(obs_space: Any, action_space: Any, function: Any) -> RawPolicy:
    spec = spec_of(obs_space, action_space)
    return RawPolicy(Actor(function), spec, identity_scaling(spec))


def first_column(obs: Tensor) -> Tensor:
    return obs[:, :1]


def test_box_actions_get_the_units_shape_and_type_of_the_environment() -> None:
    high = np.array([[1.0, 0.4], [3.0, 5.0]])
    action_space = spaces.Box(-high, high, dtype=np.float64)
    act = policy_of(spaces.Box(-9, 9, (1,)), action_space, lambda obs: obs.expand(-1, 4))

    action = act([0.5])
    assert action.shape == (2, 2) and action.dtype == np.float64
    np.testing.assert_allclose(action, high / 2, rtol=1e-6)
    batch = act([[0.5], [7.0]])  # 7 lies outside [-1, 1]
    assert batch.shape == (2, 2, 2)
    assert (batch[1] == high).all() and action_space.contains(batch[1])


def test_observations_are_normalized() -> None:
    spec = spec_of(spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,)))
    shifted = replace(identity_scaling(spec), obs_mean=torch.tensor([2.0, 0.0]))
    shifted = replace(shifted, obs_std=torch.tensor([4.0, 1.0]))
    assert RawPolicy(Actor(first_column), spec, shifted)([3.0, 0.0]).item() == 0.25


def test_discrete_actions_count_from_the_start_of_their_space() -> None:
    act = policy_of(
        spaces.Box(-9, 9, (1,)), spaces.Discrete(3, start=5), lambda obs: obs[:, 0].long()
    )
    one = act(np.array([2.0]))
    assert one == 7 and isinstance(one, int)
    assert act(torch.tensor([[0.0], [1.0]])).tolist() == [5, 6]


def test_multi_discrete_actions_are_unravelled() -> None:
    act = policy_of(
        spaces.Box(-9, 9, (1,)), spaces.MultiDiscrete([2, 3]), lambda obs: obs[:, 0].long()
    )
    assert act([5.0]).tolist() == [1, 2]
    assert act([[1.0], [3.0]]).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("as_tensors", [False, True])
def test_nested_observations_are_flattened_as_gymnasium_does(as_tensors: bool) -> None:
    seen: list[Tensor] = []

    def function(obs: Tensor) -> Tensor:
        seen.append(obs)
        return obs[:, :1]

    act = policy_of(NESTED, spaces.Box(-1, 1, (1,)), function)
    NESTED.seed(0)
    samples: list[Any] = [NESTED.sample() for _ in range(3)]
    rows: list[Any] = [flatten(NESTED, sample) for sample in samples]
    flat = np.stack(rows).astype(np.float32)
    wrap: Any = torch.as_tensor if as_tensors else np.asarray
    stacked = {
        "pair": tuple(wrap(np.stack([s["pair"][i] for s in samples])) for i in range(2)),
        "image": wrap(np.stack([s["image"] for s in samples])),
    }
    assert act(samples[0]).shape == (1,)
    assert act(stacked).shape == act(flat).shape == (3, 1)
    assert act(flat[0]).shape == (1,)
    for found, expected in zip(seen, (flat[:1], flat, flat, flat[:1]), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


def test_discrete_observations_may_be_numbers_or_one_hot() -> None:
    act = policy_of(spaces.Discrete(3), spaces.Discrete(3), lambda obs: obs.argmax(-1))
    assert act(2) == act(np.int64(2)) == act(np.array([0.0, 0.0, 1.0])) == 2
    assert act(np.array([2, 0])).tolist() == [2, 0]
    assert act(np.eye(3, dtype=np.float32)).tolist() == [0, 1, 2]


def test_observations_of_another_size_are_refused() -> None:
    act = policy_of(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,)), first_column)
    with pytest.raises(ValueError, match="5 numbers per step"):
        act(np.zeros(5))


def test_acting_leaves_the_training_mode_of_each_part_as_it_was() -> None:
    act = policy_of(spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), first_column)
    act.algorithm.train()
    act([0.0])
    assert all(part.training for part in act.algorithm.modules())
    act.algorithm.eval()
    act([0.0])
    assert not any(part.training for part in act.algorithm.modules())


def test_a_module_that_cannot_act_is_refused() -> None:
    spec = spec_of(spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
    with pytest.raises(InputError, match="no `act"):
        RawPolicy(LightningModule(), spec, identity_scaling(spec))
