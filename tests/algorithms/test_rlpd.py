"""RLPD against a reference written from its equations, and against plain SAC."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import RLPD
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from tests.algorithms.helpers import (
    ACTION_DIM,
    BATCH_SIZE,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    critics,
    moved,
    polyak,
    random_batch,
    ready,
    record_noise,
    run_updates,
    snapshot,
)
from tests.algorithms.loops import values_of_a_loop
from tests.algorithms.online_reference import normed_critics, tanh_policy, total
from tests.algorithms.reference_policies import tanh_gaussian_log_prob

LR, DISCOUNT, STEP = 1e-2, 0.9, 0.1


def rlpd(**options: Any) -> RLPD:
    given = {
        "hidden": (8, 7),
        "critic_hidden": (7, 6),
        "lr": LR,
        "n_critics": 5,
        "discount": DISCOUNT,
        "polyak": STEP,
    }
    return ready(RLPD(OBS_DIM, ACTION_DIM, **{**given, **options}))


def reference(
    period: int = 1,
    subset: int = 2,
    layer_norm: bool = True,
    entropy_backup: bool = True,
    target_entropy: float = -ACTION_DIM / 2,
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    """One update as RLPD's algorithm 1 has it."""

    def build(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = {net: ReferenceAdam(p, net, LR) for net in ("q", "policy", "log_alpha_entropy")}
        done = [0]
        n = len(p["q.obs_layer.weight"])

        def q_of(name: str, obs: Tensor, action: Tensor) -> list[Tensor]:
            return (normed_critics if layer_norm else critics)(p, name, obs, action)

        def update(batch: Batch) -> dict[str, Tensor]:
            alpha = p["log_alpha_entropy.value"].exp().item()
            mean, log_std = tanh_policy(p, batch.next_obs)
            z = mean + log_std.exp() * noise.pop(0)
            values = torch.stack(q_of("target_q", batch.next_obs, z.tanh()))
            if subset < n:
                values = values[noise.pop(0).argsort(descending=True)[:subset]]
            bonus = alpha * tanh_gaussian_log_prob(z, mean, log_std) if entropy_backup else 0
            next_v = values.min(0).values - bonus
            y = torch.where(batch.terminated == 1, batch.reward, batch.reward + DISCOUNT * next_v)
            errors = [((q - y.detach()) ** 2).mean() for q in q_of("q", batch.obs, batch.action)]
            adam["q"].step(q_loss := total(errors))
            polyak(p, "q", "target_q", STEP)
            done[0] += 1
            if done[0] % period:
                return {"loss/q": q_loss}
            mean, log_std = tanh_policy(p, batch.obs)
            z = mean + log_std.exp() * noise.pop(0)
            log_prob = tanh_gaussian_log_prob(z, mean, log_std)
            q = torch.stack(q_of("q", batch.obs, z.tanh())).mean(0)
            policy_loss = (alpha * log_prob - q).mean()
            gap = (log_prob.mean() + target_entropy).item()
            alpha_loss = -p["log_alpha_entropy.value"] * gap
            adam["policy"].step(policy_loss)
            adam["log_alpha_entropy"].step(alpha_loss)
            return {"loss/q": q_loss, "loss/policy": policy_loss}

        return update

    return build


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"n_target_critics": 1}, {"subset": 1}),
        ({"policy_period": 3}, {"period": 3}),
        ({"entropy_backup": False}, {"entropy_backup": False}),
        ({"target_entropy": -1.7}, {"target_entropy": -1.7}),
        ({"layer_norm": False}, {"layer_norm": False}),
    ],
)
def test_four_updates_equal_the_reference(
    options: dict[str, Any], settings: dict[str, Any]
) -> None:
    batches = [random_batch(i) for i in range(4)]
    assert_update_matches(rlpd(**options), reference(**settings), batches)


def test_two_critics_without_norm_are_sac() -> None:
    algorithm = rlpd(n_critics=2, n_target_critics=2, layer_norm=False)
    sac = reference(subset=2, layer_norm=False)
    assert_update_matches(algorithm, sac, [random_batch(i) for i in range(4)])


def test_the_subset_changes_with_the_update_and_is_shared_by_the_batch() -> None:
    algorithm = rlpd()
    q = torch.arange(5.0, dtype=torch.float64).unsqueeze(1).expand(5, BATCH_SIZE).clone()
    noise = record_noise(algorithm)
    smallest = [algorithm._subset_min(q) for _ in range(200)]
    assert all((row == row[0]).all() for row in smallest)
    assert {tuple(drawn.shape) for drawn in noise} == {(5,)}
    counts = torch.bincount(torch.stack(smallest)[:, 0].long(), minlength=5)
    # the smaller of two of 0..4: 4, 3, 2, 1 of 10 pairs
    assert counts[4] == 0
    torch.testing.assert_close(
        counts[:4] / 200, torch.tensor([0.4, 0.3, 0.2, 0.1]), atol=0.08, rtol=0.0
    )


def test_the_policy_waits_for_its_period() -> None:
    algorithm = rlpd(policy_period=2)
    before = snapshot(algorithm)
    run_updates(algorithm, [random_batch(0)])
    middle = snapshot(algorithm)
    assert moved(before, middle) == {"q", "target_q"}
    run_updates(algorithm, [random_batch(1)])
    after = moved(middle, snapshot(algorithm))
    assert after == {"q", "target_q", "policy", "log_alpha_entropy"}


@pytest.mark.parametrize(("terminated", "value"), [(False, 2), (True, 1)])
def test_truncated_episodes_bootstrap_as_if_they_went_on(terminated: bool, value: float) -> None:
    def make() -> RLPD:
        return RLPD(
            1, 1, (8,), (8,), lr=0.02, n_critics=2, entropy_backup=False, discount=0.5, polyak=0.2
        )

    assert values_of_a_loop(make, terminated=terminated) == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_target_critics": 0}, "n_target_critics"),
        ({"n_target_critics": 11}, r"\[1, 10\]"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RLPD(OBS_DIM, ACTION_DIM, **options)  # type: ignore[arg-type]
