"""BCQ against a reference written from its equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import BCQ
from lit_offrl.batch import Batch
from tests.algorithms.helpers import (
    ACTION_DIM,
    BATCH_SIZE,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    close,
    critic,
    critics,
    fix_output,
    mlp,
    polyak,
    random_batch,
    ready,
    record_noise,
)
from tests.algorithms.loops import values_of_a_loop

LR, DISCOUNT, STEP, PHI, WEIGHT, KL_WEIGHT, N = 1e-2, 0.9, 0.1, 0.2, 0.75, 0.5, 4


def bcq(**options: Any) -> BCQ:
    defaults = {
        "hidden": (8, 7),
        "vae_hidden": (9, 6),
        "lr": LR,
        "max_perturbation": PHI,
        "clipped_weight": WEIGHT,
        "n_actions": N,
        "n_candidates": 6,
        "kl_weight": KL_WEIGHT,
        "discount": DISCOUNT,
        "polyak": STEP,
    }
    return ready(BCQ(OBS_DIM, ACTION_DIM, **{**defaults, **options}))


def decode(p: Params, obs: Tensor, z: Tensor) -> Tensor:
    return mlp(p, "vae.decoder", torch.cat([obs, z], -1)).tanh()


def perturbed(p: Params, name: str, obs: Tensor, action: Tensor) -> Tensor:
    """a + ξ(s, a), ξ = Φ tanh(...), kept in the action box."""
    shift = PHI * mlp(p, f"{name}.net", torch.cat([obs, action], -1)).tanh()
    return (action + shift).clip(-1, 1)


def vae_loss(p: Params, batch: Batch, noise: Tensor) -> Tensor:
    out = mlp(p, "vae.encoder", torch.cat([batch.obs, batch.action], -1))
    mean, std = out[:, : 2 * ACTION_DIM], out[:, 2 * ACTION_DIM :].clip(-4, 15).exp()
    rebuilt = decode(p, batch.obs, mean + std * noise)
    kl = -0.5 * (1 + (std**2).log() - mean**2 - std**2)
    return ((rebuilt - batch.action) ** 2).mean() + KL_WEIGHT * kl.mean()


def reference(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
    adam = {net: ReferenceAdam(p, net, LR) for net in ("vae", "q", "perturbation")}

    def update(batch: Batch) -> dict[str, Tensor]:
        s, next_s = batch.obs, batch.next_obs
        g_loss = vae_loss(p, batch, noise.pop(0))
        adam["vae"].step(g_loss)

        best = torch.full((BATCH_SIZE,), -torch.inf, dtype=torch.float64)
        for z in noise.pop(0).clip(-0.5, 0.5):
            action = perturbed(p, "target_perturbation", next_s, decode(p, next_s, z))
            q = torch.stack(critics(p, "target_q", next_s, action))
            mixed = WEIGHT * q.min(0).values + (1 - WEIGHT) * q.max(0).values
            best = torch.maximum(best, mixed)
        y = (batch.reward + DISCOUNT * (1 - batch.terminated) * best).detach()
        errors = [((q - y) ** 2).mean() for q in critics(p, "q", s, batch.action)]
        q_loss = torch.stack(errors).sum()
        adam["q"].step(q_loss)

        (z,) = noise.pop(0).clip(-0.5, 0.5)
        generated = decode(p, s, z).detach()
        q_policy = critic(p, "q", s, perturbed(p, "perturbation", s, generated), 0)
        policy_loss = -q_policy.mean()
        adam["perturbation"].step(policy_loss)
        polyak(p, "q", "target_q", STEP)
        polyak(p, "perturbation", "target_perturbation", STEP)
        return {"loss/vae": g_loss, "loss/q": q_loss, "loss/policy": policy_loss}

    return update


@pytest.mark.parametrize("n_critics", [2, 3])
def test_three_updates_equal_the_reference(n_critics: int) -> None:
    batches = [random_batch(i) for i in range(3)]
    assert_update_matches(bcq(n_critics=n_critics), reference, batches)


def test_the_policy_takes_the_candidate_that_the_first_critic_likes_best() -> None:
    algorithm = bcq(n_candidates=20)
    algorithm.get_parameter("q.trunk.layers.1.bias").data[0] += 5  # the minimum is the other one
    noise = record_noise(algorithm)
    obs = random_batch(0).obs
    chosen = algorithm.act(obs)
    p = {k: v.detach() for k, v in algorithm.named_parameters()}
    (drawn,) = noise
    assert drawn.shape == (20, BATCH_SIZE, 2 * ACTION_DIM)
    actions = [perturbed(p, "perturbation", obs, decode(p, obs, z.clip(-0.5, 0.5))) for z in drawn]
    values = torch.stack([torch.stack(critics(p, "q", obs, action)) for action in actions])
    for i in range(BATCH_SIZE):
        close(chosen[i], actions[int(values[:, 0, i].argmax())][i])
    # the critics disagree, so that it matters which one is asked
    assert (values[:, 0].argmax(0) != values.amin(1).argmax(0)).any()


def test_one_unperturbed_candidate_is_the_decoded_action() -> None:
    algorithm = bcq(n_candidates=1, max_perturbation=0.0)
    noise = record_noise(algorithm)
    obs = random_batch(0).obs
    chosen = algorithm.act(obs)
    p = {k: v.detach() for k, v in algorithm.named_parameters()}
    close(chosen, decode(p, obs, noise[0][0].clip(-0.5, 0.5)))


def test_perturbed_actions_stay_near_and_inside_the_box() -> None:
    algorithm = bcq()
    for parameter in algorithm.perturbation.parameters():
        parameter.data.mul_(100)
    obs = random_batch(0).obs
    action = torch.linspace(-1, 1, BATCH_SIZE).double().unsqueeze(-1).expand(-1, ACTION_DIM)
    moved = algorithm.perturbation(obs, action)
    assert moved.abs().max() <= 1
    assert (moved - action).abs().max() <= PHI + 1e-12
    assert (moved - action).abs().max() > 0.9 * PHI


def test_the_encoders_spread_stays_within_its_bounds() -> None:
    algorithm = bcq()
    batch = random_batch(0)
    fix_output(algorithm.vae.encoder, 0.0, 0.0, 0.0, 0.0, -99.0, 0.0, 1.0, 99.0)
    _, log_std = algorithm.vae.encode(batch.obs, batch.action)
    assert log_std[0].tolist() == [-4, 0, 1, 15]


@pytest.mark.parametrize(("terminated", "value"), [(False, 2), (True, 1)])
def test_truncated_episodes_bootstrap_as_if_they_went_on(terminated: bool, value: float) -> None:
    def make() -> BCQ:
        return BCQ(1, 1, (8,), (8,), lr=0.02, n_actions=1, discount=0.5, polyak=0.2)

    assert values_of_a_loop(make, terminated=terminated) == pytest.approx(value, abs=0.05)
