"""IQL against a reference written from its equations."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import BC, IQL
from lit_offrl.batch import Batch
from tests.algorithms.helpers import (
    ACTION_DIM,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    close,
    critics,
    mlp,
    polyak,
    random_batch,
    ready,
    run_updates,
    snapshot,
)
from tests.algorithms.loops import values_of_a_loop
from tests.algorithms.reference_policies import gaussian_log_prob

LR, DISCOUNT, STEP = 1e-2, 0.9, 0.1


def iql(**options: Any) -> IQL:
    defaults = {"hidden": (8, 7), "lr": LR, "discount": DISCOUNT, "polyak": STEP}
    return ready(IQL(OBS_DIM, ACTION_DIM, **{**defaults, **options}))


def reference(
    expectile: float, inverse_temperature: float, deterministic: bool
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def build(p: Params, _: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = {net: ReferenceAdam(p, net, LR) for net in ("v", "q", "policy")}

        def update(batch: Batch) -> dict[str, Tensor]:
            s, a = batch.obs, batch.action
            q_bar = torch.stack(critics(p, "target_q", s, a)).min(0).values.detach()
            next_v = mlp(p, "v.net", batch.next_obs)[:, 0].detach()
            y = torch.where(batch.terminated == 1, batch.reward, batch.reward + DISCOUNT * next_v)
            v = mlp(p, "v.net", s)[:, 0]
            u = q_bar - v
            below = (u < 0).double()
            v_loss = ((below * (1 - expectile) + (1 - below) * expectile) * u**2).mean()
            per_critic = [((q - y) ** 2).mean() for q in critics(p, "q", s, a)]
            q_loss = torch.stack(per_critic).sum()
            weight = torch.minimum((inverse_temperature * u).exp(), torch.tensor(100.0)).detach()
            mean = mlp(p, "policy.net", s).tanh()
            if deterministic:
                cost = ((mean - a) ** 2).mean(-1)
            else:
                cost = -gaussian_log_prob(a, mean, p["policy.log_std"].clamp(-5, 2))
            policy_loss = (weight * cost).mean()

            adam["v"].step(v_loss)
            adam["q"].step(q_loss)
            adam["policy"].step(policy_loss)
            polyak(p, "q", "target_q", STEP)
            losses = {"loss/v": v_loss, "loss/q": q_loss, "loss/policy": policy_loss}
            return losses | {"v/data": v.mean(), "awr/weight": weight.mean()}

        return update

    return build


@pytest.mark.parametrize(
    ("expectile", "inverse_temperature", "deterministic", "n_critics"),
    [(0.7, 3.0, False, 2), (0.9, 10.0, False, 3), (0.5, 0.5, True, 1)],
)
def test_three_updates_equal_the_reference(
    expectile: float, inverse_temperature: float, deterministic: bool, n_critics: int
) -> None:
    algorithm = iql(
        expectile=expectile,
        inverse_temperature=inverse_temperature,
        deterministic_policy=deterministic,
        n_critics=n_critics,
    )
    assert_update_matches(
        algorithm,
        reference(expectile, inverse_temperature, deterministic),
        [random_batch(i) for i in range(3)],
    )


def test_some_weights_of_the_reference_test_are_clipped_and_some_are_not() -> None:
    algorithm = iql(expectile=0.9, inverse_temperature=10.0, n_critics=3)
    metrics = run_updates(algorithm, [random_batch(i) for i in range(3)])
    assert any(0 < m["awr/clipped"] < 1 for m in metrics)


@pytest.mark.parametrize("deterministic", [False, True])
def test_inverse_temperature_zero_is_behavior_cloning(deterministic: bool) -> None:
    algorithm = iql(inverse_temperature=0.0, deterministic_policy=deterministic)
    kind: Any = "deterministic" if deterministic else "gaussian"
    clone = BC(OBS_DIM, ACTION_DIM, policy=kind, hidden=(8, 7), lr=LR).double()
    clone.policy.load_state_dict(algorithm.policy.state_dict())
    batches = [random_batch(i) for i in range(5)]
    run_updates(algorithm, batches)
    run_updates(clone, batches)
    for name, value in snapshot(clone.policy).items():
        close(snapshot(algorithm.policy)[name], value, name, rtol=1e-13)


def test_v_and_the_policy_converge_to_the_guides_numbers() -> None:
    """Two logged actions at one state, worth 4.5 and 2.5: odds e^{β (4.5 - 2.5)}."""
    algorithm = IQL(
        1, 1, hidden=(8,), lr=0.03, expectile=0.7, inverse_temperature=0.5, polyak=1.0
    ).double()
    obs = torch.ones(4, 1, dtype=torch.float64)
    action = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], dtype=torch.float64)
    reward = torch.tensor([5.0, 4.0, 3.0, 2.0], dtype=torch.float64)
    run_updates(algorithm, [Batch(obs, action, reward, obs, torch.ones(4).double())] * 300)
    assert algorithm.v(obs)[0].item() == pytest.approx(3.9, abs=0.01)
    share = 1 / (1 + math.exp(-0.5 * 2))  # of the action 0.5
    assert algorithm.act(obs)[0].item() == pytest.approx(0.5 * share - 0.5 * (1 - share), abs=0.01)


@pytest.mark.parametrize(("terminated", "value"), [(False, 2), (True, 1)])
def test_truncated_episodes_bootstrap_as_if_they_went_on(terminated: bool, value: float) -> None:
    def make() -> IQL:
        return IQL(1, 1, hidden=(8,), lr=0.02, discount=0.5, polyak=0.2)

    assert values_of_a_loop(make, terminated=terminated) == pytest.approx(value, abs=0.05)
