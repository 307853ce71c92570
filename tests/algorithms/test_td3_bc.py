"""TD3+BC against a reference written from its equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import BC, TD3BC
from lit_offrl.batch import Batch
from tests.algorithms.helpers import (
    ACTION_DIM,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    close,
    critic,
    critics,
    mlp,
    moved,
    polyak,
    random_batch,
    ready,
    record_noise,
    run_updates,
    snapshot,
)
from tests.algorithms.loops import values_of_a_loop

LR, DISCOUNT, STEP, ALPHA = 1e-2, 0.9, 0.1, 2.5
NOISE, CLIP = 0.4, 0.3  # a good part of the noise is clipped


def td3_bc(**options: Any) -> TD3BC:
    defaults = {
        "hidden": (8, 7),
        "lr": LR,
        "bc_alpha": ALPHA,
        "policy_noise": NOISE,
        "noise_clip": CLIP,
        "discount": DISCOUNT,
        "polyak": STEP,
    }
    return ready(TD3BC(OBS_DIM, ACTION_DIM, **{**defaults, **options}))


def reference(
    delay: int,
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def build(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = {net: ReferenceAdam(p, net, LR) for net in ("q", "policy")}
        done = [0]

        def update(batch: Batch) -> dict[str, Tensor]:
            s, a = batch.obs, batch.action
            shift = (NOISE * noise.pop(0)).clip(-CLIP, CLIP)
            next_a = mlp(p, "target_policy.net", batch.next_obs).tanh() + shift
            next_a = next_a.clip(-1, 1)
            next_q = torch.stack(critics(p, "target_q", batch.next_obs, next_a)).min(0).values
            y = torch.where(batch.terminated == 1, batch.reward, batch.reward + DISCOUNT * next_q)
            q_loss = sum(
                (((q - y.detach()) ** 2).mean() for q in critics(p, "q", s, a)), torch.zeros(())
            )
            adam["q"].step(q_loss)
            done[0] += 1
            if done[0] % delay:
                return {"loss/q": q_loss}

            pi = mlp(p, "policy.net", s).tanh()
            q_1 = critic(p, "q", s, pi, 0)
            scale = ALPHA / q_1.abs().mean().item()
            bc_loss = ((pi - a) ** 2).sum() / a.numel()
            policy_loss = bc_loss - scale * q_1.mean()
            adam["policy"].step(policy_loss)
            polyak(p, "q", "target_q", STEP)
            polyak(p, "policy", "target_policy", STEP)
            return {"loss/q": q_loss, "loss/policy": policy_loss, "loss/bc": bc_loss}

        return update

    return build


@pytest.mark.parametrize(("delay", "n_critics"), [(2, 2), (1, 3), (3, 1)])
def test_four_updates_equal_the_reference(delay: int, n_critics: int) -> None:
    algorithm = td3_bc(policy_delay=delay, n_critics=n_critics)
    assert_update_matches(algorithm, reference(delay), [random_batch(i) for i in range(4)])


def test_the_policy_and_all_targets_wait_for_the_second_update() -> None:
    algorithm = td3_bc()
    before = snapshot(algorithm)
    run_updates(algorithm, [random_batch(0)])
    middle = snapshot(algorithm)
    assert moved(before, middle) == {"q"}
    run_updates(algorithm, [random_batch(1)])
    assert moved(middle, snapshot(algorithm)) == {"q", "policy", "target_q", "target_policy"}


def test_without_q_it_is_deterministic_behavior_cloning() -> None:
    algorithm = td3_bc(bc_alpha=0.0, policy_delay=1)
    clone = BC(OBS_DIM, ACTION_DIM, policy="deterministic", hidden=(8, 7), lr=LR).double()
    clone.policy.load_state_dict(algorithm.policy.state_dict())
    batches = [random_batch(i) for i in range(5)]
    run_updates(algorithm, batches)
    run_updates(clone, batches)
    for name, value in snapshot(clone.policy).items():
        close(snapshot(algorithm.policy)[name], value, name, rtol=1e-13)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_policys_step_does_not_depend_on_the_scale_of_q(factor: float) -> None:
    policies = []
    for scale in (1.0, factor):
        torch.manual_seed(0)
        algorithm = td3_bc(policy_delay=1, lr=1e-12)  # Q stays
        for parameter in algorithm.q.trunk.layers[-1].parameters():
            parameter.data.mul_(scale)
        algorithm.optimize(algorithm.policy, LR)
        run_updates(algorithm, [random_batch(0)])
        policies.append(snapshot(algorithm.policy))
    for name, value in policies[0].items():
        close(policies[1][name], value, name, rtol=1e-6)


def test_the_target_noise_of_the_reference_test_is_clipped_in_part() -> None:
    algorithm = td3_bc()
    noise = record_noise(algorithm)
    run_updates(algorithm, [random_batch(i) for i in range(4)])
    clipped = torch.cat(noise).mul(NOISE).abs() > CLIP
    assert clipped.any()
    assert not clipped.all()


@pytest.mark.parametrize(("terminated", "value"), [(False, 2), (True, 1)])
def test_truncated_episodes_bootstrap_as_if_they_went_on(terminated: bool, value: float) -> None:
    def make() -> TD3BC:
        return TD3BC(1, 1, hidden=(8,), lr=0.02, discount=0.5, polyak=0.2)

    assert values_of_a_loop(make, terminated=terminated) == pytest.approx(value, abs=0.05)
