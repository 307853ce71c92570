"""Algorithms on observations with images: the same updates, with an encoder in each network."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_offrl.algorithms import (
    BC,
    DQN,
    IQL,
    DiscreteBCQ,
    DiscreteCQL,
    DiscreteIQL,
    OfflineAlgorithm,
)
from lit_offrl.algorithms.replicas import Replicas
from lit_offrl.algorithms.update_path import _OneUpdate
from lit_offrl.batch import Batch
from lit_offrl.compiled import CompiledUpdate
from tests.algorithms.helpers import (
    ACTION_DIM,
    N_ACTIONS,
    Params,
    ReferenceAdam,
    assert_update_matches,
    moved,
    perturb,
    polyak,
    random_batch,
    snapshot,
)

SHAPE = (2, 36, 36)
WIDTH = 2 * 36 * 36 + 3
IMAGES: dict[str, Any] = {"images": ((1, *SHAPE),), "hidden": (8,)}
DISCRETE: dict[str, Callable[..., OfflineAlgorithm]] = {
    "BC": partial(BC, policy="categorical"),
    "DQN": partial(DQN, n_critics=2),
    "DiscreteCQL": DiscreteCQL,
    "DiscreteCQL, behavior prior": partial(DiscreteCQL, penalty_prior="behavior", n_quantiles=3),
    "DiscreteIQL": DiscreteIQL,
    "DiscreteBCQ": DiscreteBCQ,
}
BOX: dict[str, Callable[..., OfflineAlgorithm]] = {
    "BC": BC,
    "BC tanh": partial(BC, policy="tanh_gaussian"),
    "BC deterministic": partial(BC, policy="deterministic"),
    "IQL": IQL,
}
CASES = [(make, N_ACTIONS) for make in DISCRETE.values()] + [
    (make, ACTION_DIM) for make in BOX.values()
]
NAMES = [f"{name}, discrete" for name in DISCRETE] + list(BOX)


def prepared(algorithm: OfflineAlgorithm) -> OfflineAlgorithm:
    """Turn to float64, with targets that differ a little: convolutions add up many weights."""
    algorithm.double()
    perturb(algorithm, scale=0.02)
    return algorithm


def image_batch(seed: int, discrete: bool, size: int = 6) -> Batch:
    """A batch with one number, an image, and two more numbers in each observation."""
    batch = random_batch(seed, discrete=discrete, size=size)
    generator = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randint(256, (2, size, WIDTH), generator=generator).double()
    for rows in (obs, next_obs):
        rows[:, [0, -2, -1]] = torch.randn(size, 3, generator=generator).double()
    return batch._replace(obs=obs, next_obs=next_obs)


@pytest.mark.parametrize(("make", "n"), CASES, ids=NAMES)
def test_an_update_moves_the_encoder_of_every_network(
    make: Callable[..., OfflineAlgorithm], n: int
) -> None:
    algorithm = prepared(make(WIDTH, n, **IMAGES))
    before = snapshot(algorithm)
    algorithm.update(image_batch(0, n == N_ACTIONS))
    after = snapshot(algorithm)
    encoders = [name for name in before if ".encoder." in name]
    networks = {name.split(".")[0] for name in before if "." in name}
    assert {name.split(".")[0] for name in encoders} == networks
    assert moved(before, after) >= {n for n in networks if n != "target_q"}
    assert all(not before[name].equal(after[name]) for name in encoders if "weight" in name)


@pytest.mark.parametrize(("make", "n"), CASES, ids=NAMES)
def test_a_recorded_update_is_the_update(make: Callable[..., OfflineAlgorithm], n: int) -> None:
    algorithms = []
    for _ in range(2):
        torch.manual_seed(0)
        algorithms.append(make(WIDTH, n, **IMAGES))
    eager, recorded = algorithms
    for one in algorithms:
        one.start(0, 10)
    run = CompiledUpdate(_OneUpdate(recorded), required=True, compiles=False)
    for seed in range(2):
        batch = image_batch(seed, n == N_ACTIONS)
        single = batch.with_fields(
            f.float() if f.is_floating_point() else f for f in batch.fields()
        )
        expected = eager.train_update(single)
        found = run(single)
        recorded.update_number += 1
        assert found is not None
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    for name, value in snapshot(eager).items():
        torch.testing.assert_close(snapshot(recorded)[name], value, rtol=1e-3, atol=1e-5)


def encoded(p: Params, name: str, obs: Tensor) -> Tensor:
    """Features of the nature network, written with functions."""
    h = obs[:, 1:-2].reshape(len(obs), *SHAPE) / 255
    for i, stride in ((0, 4), (2, 2), (4, 1)):
        key = f"{name}.encoder.nets.0.{i}"
        h = F.relu(F.conv2d(h, p[f"{key}.weight"], p[f"{key}.bias"], stride=stride))
    return torch.cat([obs[:, :1], h.flatten(1), obs[:, -2:]], 1)


def q_of(p: Params, name: str, obs: Tensor) -> Tensor:
    h = encoded(p, name, obs) @ p[f"{name}.net.layers.0.weight"][0]
    h = F.relu(h + p[f"{name}.net.layers.0.bias"][0])
    return h @ p[f"{name}.net.layers.1.weight"][0] + p[f"{name}.net.layers.1.bias"][0]


def test_an_update_of_cql_is_that_of_the_equations() -> None:
    def reference(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = ReferenceAdam(p, "q", 1e-3)

        def update(batch: Batch) -> dict[str, Tensor]:
            rows = torch.arange(len(batch.reward))
            best = q_of(p, "q", batch.next_obs).argmax(1)
            next_q = q_of(p, "target_q", batch.next_obs)[rows, best].detach()
            target = batch.reward + 0.9 * (1 - batch.terminated) * next_q
            all_q = q_of(p, "q", batch.obs)
            q = all_q[rows, batch.action]
            td = F.smooth_l1_loss(q, target)
            gap = (all_q.exp().sum(1).log() - q).mean() - math.log(N_ACTIONS)
            loss = td + 0.5 * gap
            adam.step(loss)
            polyak(p, "q", "target_q", 0.1)
            return {"loss/td": td, "loss/q": loss}

        return update

    algorithm = prepared(
        DiscreteCQL(WIDTH, N_ACTIONS, lr=1e-3, cql_alpha=0.5, discount=0.9, polyak=0.1, **IMAGES)
    )
    assert_update_matches(algorithm, reference, [image_batch(seed, True) for seed in range(3)])


def test_seeds_trained_at_once_are_each_their_own_run() -> None:
    def made() -> list[OfflineAlgorithm]:
        members: list[OfflineAlgorithm] = []
        for seed in (3, 5):
            torch.manual_seed(seed)
            members.append(DiscreteCQL(WIDTH, N_ACTIONS, **IMAGES).double())
            members[-1].seed = seed
        return members

    singles, replicas = made(), Replicas(made())
    replicas.start(0, 3)
    for single in singles:
        single.start(0, 3)
    for update in range(3):
        own = [image_batch(10 * update + i, True) for i in range(2)]
        for single, batch in zip(singles, own, strict=True):
            single.train_update(batch)
        fields = zip(*own, strict=True)
        replicas.train_update(Batch._make(None if f[0] is None else torch.stack(f) for f in fields))
    for single, member in zip(singles, replicas.algorithms, strict=True):
        for name, value in snapshot(single).items():
            torch.testing.assert_close(snapshot(member)[name], value, rtol=1e-6, atol=1e-9)
