"""BC against a reference written from its equations."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import BC
from lit_offrl.algorithms.bc import PolicyKind
from lit_offrl.batch import Batch
from tests.algorithms.helpers import (
    ACTION_DIM,
    N_ACTIONS,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    mlp,
    random_batch,
    ready,
    run_updates,
)
from tests.algorithms.reference_policies import gaussian_log_prob, tanh_gaussian_log_prob

LR = 1e-2


def bc(policy: PolicyKind, **options: Any) -> BC:
    n = N_ACTIONS if policy == "categorical" else ACTION_DIM
    return ready(BC(OBS_DIM, n, policy=policy, hidden=(8, 7), lr=LR, **options))


def loss_of(p: Params, kind: PolicyKind, batch: Batch, logit_penalty: float) -> Tensor:
    out = mlp(p, "policy.net", batch.obs)
    if kind == "gaussian":
        log_std = p["policy.log_std"].clamp(-5, 2)
        return -gaussian_log_prob(batch.action, out.tanh(), log_std).mean()
    if kind == "tanh_gaussian":
        mean, log_std = out[:, :ACTION_DIM], out[:, ACTION_DIM:].clamp(-5, 2)
        z = 0.5 * ((1 + batch.action) / (1 - batch.action)).log()
        return -tanh_gaussian_log_prob(z, mean, log_std).mean()
    if kind == "deterministic":
        return sum(((out.tanh() - batch.action)[:, d] ** 2).mean() for d in (0, 1)) / torch.tensor(
            2
        )
    rows = torch.arange(len(out))
    nll = (out.exp().sum(-1).log() - out[rows, batch.action]).mean()
    return nll + logit_penalty * (out**2).mean()


@pytest.mark.parametrize("logit_penalty", [0.0, 0.5])
@pytest.mark.parametrize("kind", get_args(PolicyKind))
def test_three_updates_equal_the_reference(kind: PolicyKind, logit_penalty: float) -> None:
    def reference(p: Params, _: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = ReferenceAdam(p, "policy", LR)

        def update(batch: Batch) -> dict[str, Tensor]:
            loss = loss_of(p, kind, batch, logit_penalty)
            adam.step(loss)
            return {"loss/policy": loss}

        return update

    batches = [random_batch(i, discrete=kind == "categorical") for i in range(3)]
    assert_update_matches(bc(kind, logit_penalty=logit_penalty), reference, batches)


def test_the_likelihood_is_that_of_a_known_normal_distribution() -> None:
    algorithm = bc("gaussian")
    for parameter in algorithm.parameters():
        parameter.data.zero_()  # π = N(0, 1)
    batch = random_batch(0)
    (metrics,) = run_updates(algorithm, [batch])
    expected = batch.action.square().sum(-1).mean() / 2 + torch.tensor(2 * torch.pi).log()
    torch.testing.assert_close(metrics["loss/policy"], expected)


@pytest.mark.parametrize("kind", ["gaussian", "tanh_gaussian"])
def test_actions_on_the_bounds_leave_the_loss_finite(kind: PolicyKind) -> None:
    algorithm = bc(kind)
    batch = random_batch(0)
    batch = batch._replace(action=batch.action.sign())
    metrics = run_updates(algorithm, [batch, batch])
    assert all(m["loss/policy"].isfinite() for m in metrics)
    assert all(p.isfinite().all() for p in algorithm.parameters())


def test_cloning_converges_to_the_frequencies_of_the_data() -> None:
    algorithm = BC(1, 3, policy="categorical", hidden=(8,), lr=0.05).double()
    obs = torch.ones(4, 1, dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    batch = Batch(obs, torch.tensor([0, 0, 0, 2]), zero, obs, zero)
    run_updates(algorithm, [batch] * 400)
    probs = algorithm.policy(obs[:1]).probs
    torch.testing.assert_close(probs[0], torch.tensor([0.75, 0, 0.25]).double(), rtol=0, atol=0.01)
