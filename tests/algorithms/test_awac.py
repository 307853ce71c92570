"""AWAC against a reference written from its equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import AWAC, BC
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
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
from tests.algorithms.online_reference import total
from tests.algorithms.reference_policies import gaussian_log_prob

LR, DISCOUNT, STEP = 1e-2, 0.9, 0.1


def awac(**options: Any) -> AWAC:
    given = {"hidden": (8, 7), "lr": LR, "discount": DISCOUNT, "polyak": STEP}
    return ready(AWAC(OBS_DIM, ACTION_DIM, **{**given, **options}))


def reference(
    temperature: float = 1.0, softmax: bool = False
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def build(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = {net: ReferenceAdam(p, net, LR) for net in ("q", "policy")}

        def policy(obs: Tensor) -> tuple[Tensor, Tensor]:
            mean = mlp(p, "policy.net", obs).tanh()
            return mean, p["policy.log_std"].clip(-5, 2).expand_as(mean)

        def draw(obs: Tensor) -> Tensor:
            mean, log_std = policy(obs)
            return (mean + log_std.exp() * noise.pop(0)).clip(-1, 1)

        def lowest(name: str, obs: Tensor, action: Tensor) -> Tensor:
            return torch.stack(critics(p, name, obs, action)).min(0).values

        def update(batch: Batch) -> dict[str, Tensor]:
            next_q = lowest("target_q", batch.next_obs, draw(batch.next_obs))
            y = torch.where(batch.terminated == 1, batch.reward, batch.reward + DISCOUNT * next_q)
            q = critics(p, "q", batch.obs, batch.action)
            adam["q"].step(q_loss := total([((q_j - y.detach()) ** 2).mean() for q_j in q]))
            drawn = draw(batch.obs)
            gain = lowest("q", batch.obs, batch.action) - lowest("q", batch.obs, drawn)
            weight = (gain / temperature).exp().clip(max=100)
            if softmax:
                weight = (gain / temperature).softmax(0) * len(gain)
            log_prob = gaussian_log_prob(batch.action, *policy(batch.obs))
            policy_loss = -(weight.detach() * log_prob).mean()
            adam["policy"].step(policy_loss)
            polyak(p, "q", "target_q", STEP)
            return {"loss/q": q_loss, "loss/policy": policy_loss, "awr/weight": weight.mean()}

        return update

    return build


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"awr_temperature": 0.05, "n_critics": 3}, {"temperature": 0.05}),
        (
            {"awr_temperature": 0.3, "normalize": "batch_softmax"},
            {"temperature": 0.3, "softmax": True},
        ),
    ],
)
def test_four_updates_equal_the_reference(
    options: dict[str, Any], settings: dict[str, Any]
) -> None:
    batches = [random_batch(i) for i in range(4)]
    assert_update_matches(awac(**options), reference(**settings), batches)


@pytest.mark.parametrize("normalize", ["none", "batch_softmax"])
def test_a_high_temperature_is_behavior_cloning(normalize: str) -> None:
    algorithm = awac(awr_temperature=1e12, normalize=normalize)
    clone = BC(OBS_DIM, ACTION_DIM, hidden=(8, 7), lr=LR).double()
    clone.policy.load_state_dict(algorithm.policy.state_dict())
    batches = [random_batch(i) for i in range(4)]
    run_updates(algorithm, batches)
    run_updates(clone, batches)
    for name, value in snapshot(clone.policy).items():
        close(snapshot(algorithm.policy)[name], value, name, rtol=1e-6)


def test_softmax_weights_do_not_overflow() -> None:
    algorithm = AWAC(OBS_DIM, ACTION_DIM, awr_temperature=1e-3, normalize="batch_softmax")
    weight = algorithm._weight(torch.tensor([-5.0, 0.0, 5.0]))
    torch.testing.assert_close(weight, torch.tensor([0.0, 0.0, 3.0]))
    with pytest.raises(InputError, match="`awr_temperature`"):
        AWAC(OBS_DIM, ACTION_DIM, awr_temperature=0.0)
