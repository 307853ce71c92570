"""ReBRAC against a reference written from its equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import TD3BC, ReBRAC
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from tests.algorithms.helpers import (
    ACTION_DIM,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    critics,
    mlp,
    polyak,
    random_batch,
    ready,
    run_updates,
    snapshot,
)
from tests.algorithms.online_reference import normed_critics, total

Q_LR, POLICY_LR, DISCOUNT, STEP, NOISE, CLIP = 1e-2, 3e-3, 0.9, 0.1, 0.4, 0.3
BATCHES = [random_batch(i) for i in range(4)]


def rebrac(**options: Any) -> ReBRAC:
    given = {
        "hidden": (8, 7),
        "critic_hidden": (7, 6),
        "q_lr": Q_LR,
        "policy_lr": POLICY_LR,
        "policy_noise": NOISE,
        "noise_clip": CLIP,
        "policy_penalty": 0.3,
        "critic_penalty": 0.7,
        "discount": DISCOUNT,
        "polyak": STEP,
    }
    return ready(ReBRAC(OBS_DIM, ACTION_DIM, **{**given, **options}))


def reference(
    delay: int = 2, layer_norm: bool = True
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def build(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = {"q": ReferenceAdam(p, "q", Q_LR), "policy": ReferenceAdam(p, "policy", POLICY_LR)}
        done = [0]

        def q_of(name: str, obs: Tensor, action: Tensor) -> Tensor:
            if layer_norm:
                return torch.stack(normed_critics(p, name, obs, action, relu_first=True))
            return torch.stack(critics(p, name, obs, action))

        def update(batch: Batch) -> dict[str, Tensor]:
            assert batch.next_action is not None and batch.has_next_action is not None
            shift = (NOISE * noise.pop(0)).clip(-CLIP, CLIP)
            next_a = (mlp(p, "target_policy.net", batch.next_obs).tanh() + shift).clip(-1, 1)
            far = ((next_a - batch.next_action) ** 2).sum(1)
            far = torch.where(batch.has_next_action == 1, far, 0.0)
            next_v = q_of("target_q", batch.next_obs, next_a).min(0).values - 0.7 * far
            y = torch.where(batch.terminated == 1, batch.reward, batch.reward + DISCOUNT * next_v)
            q = q_of("q", batch.obs, batch.action)
            q_loss = total([((q_j - y.detach()) ** 2).mean() for q_j in q])
            adam["q"].step(q_loss)
            done[0] += 1
            found = {"loss/q": q_loss, "rebrac/next_distance": far.mean()}
            if done[0] % delay:
                return found
            pi = mlp(p, "policy.net", batch.obs).tanh()
            q_min = q_of("q", batch.obs, pi).min(0).values
            distance = ((pi - batch.action) ** 2).sum(1).mean()
            policy_loss = 0.3 * distance - q_min.mean() / q_min.abs().mean().item()
            adam["policy"].step(policy_loss)
            polyak(p, "q", "target_q", STEP)
            polyak(p, "policy", "target_policy", STEP)
            return {**found, "loss/policy": policy_loss, "rebrac/distance": distance}

        return update

    return build


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"policy_delay": 1, "n_critics": 3}, {"delay": 1}),
        ({"layer_norm": False}, {"layer_norm": False}),
    ],
)
def test_four_updates_equal_the_reference(
    options: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert_update_matches(rebrac(**options), reference(**settings), BATCHES)


def test_without_penalties_and_norms_it_is_td3() -> None:
    td3 = ready(
        TD3BC(
            OBS_DIM,
            ACTION_DIM,
            hidden=(8, 7),
            lr=Q_LR,
            bc_alpha=1e9,  # the imitation term vanishes beside Q
            policy_noise=NOISE,
            noise_clip=CLIP,
            n_critics=1,
            discount=DISCOUNT,
            polyak=STEP,
        )
    )
    same_sizes = rebrac(
        policy_penalty=0.0,
        critic_penalty=0.0,
        layer_norm=False,
        n_critics=1,
        policy_lr=Q_LR,
        critic_hidden=(8, 7),
    )
    td3.load_state_dict(same_sizes.state_dict())
    for one in (same_sizes, td3):
        torch.manual_seed(0)
        run_updates(one, BATCHES)
    for name, value in snapshot(td3).items():
        torch.testing.assert_close(snapshot(same_sizes)[name], value, atol=1e-4, rtol=0)


def test_rows_without_a_next_action_have_no_penalty() -> None:
    whole = BATCHES[0]
    assert whole.next_action is not None and whole.has_next_action is not None
    other = whole._replace(
        next_action=torch.where(
            whole.has_next_action.unsqueeze(1) == 1, whole.next_action, torch.tensor(-7.0)
        )
    )
    states = []
    for batch in (whole, other):
        torch.manual_seed(0)
        algorithm = rebrac()
        torch.manual_seed(1)
        run_updates(algorithm, [batch, batch])
        states.append(snapshot(algorithm))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_is_missing_is_said() -> None:
    bare = BATCHES[0]._replace(next_action=None)
    with pytest.raises(InputError, match="Batches have no `next_action`"):
        run_updates(rebrac(), [bare])
