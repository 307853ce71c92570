"""Cal-QL, box and discrete: its bound, and CQL where the bound does not act."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import CQL, CalQL, DiscreteCalQL, DiscreteCQL
from lit_offrl.algorithms.cql import sampled_logsumexp
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from tests.algorithms.helpers import (
    ACTION_DIM,
    N_ACTIONS,
    OBS_DIM,
    close,
    random_batch,
    ready,
    record_noise,
    run_updates,
    snapshot,
)

SMALL: dict[str, Any] = {"hidden": (8, 7), "critic_hidden": (7, 6), "n_actions": 4}


def bounded(batch: Batch, value: float) -> Batch:
    return batch._replace(mc_return=torch.full_like(batch.reward, value))


@pytest.mark.parametrize("discrete", [False, True])
def test_without_a_bound_it_is_cql(discrete: bool) -> None:
    kinds: Any = (DiscreteCalQL, DiscreteCQL) if discrete else (CalQL, CQL)
    options = {"hidden": (8, 7)} if discrete else SMALL
    one, other = (
        ready(k(OBS_DIM, N_ACTIONS if discrete else ACTION_DIM, **options)) for k in kinds
    )
    other.load_state_dict(one.state_dict())
    batches = [bounded(random_batch(i, discrete=discrete), -torch.inf) for i in range(4)]
    found = []
    for algorithm in (one, other):
        record_noise(algorithm)
        found.append(run_updates(algorithm, batches))
    for name, value in snapshot(other).items():
        assert torch.equal(snapshot(one)[name], value), name
    assert all(metrics["calql/bound_rate"] == 0 for metrics in found[0])


def test_only_actions_of_the_policy_are_bounded() -> None:
    algorithm = CalQL(OBS_DIM, ACTION_DIM, **SMALL)
    q = torch.randn(2, 12, 5)  # 4 uniform, 4 of π(·|s), 4 of π(·|s')
    bound = torch.tensor([-10.0, 0.0, 0.5, 1.0, 10.0])
    batch = random_batch(0)._replace(mc_return=bound)
    found, metrics = algorithm.penalized(q, batch)
    assert torch.equal(found[:, :4], q[:, :4])
    for k in range(4, 12):
        for b in range(5):
            for j in range(2):
                assert found[j, k, b] == max(q[j, k, b].item(), bound[b].item())
    close(metrics["calql/bound_rate"], (bound > q[:, 4:]).float().mean(), rtol=1e-6)


def test_all_discrete_actions_are_bounded() -> None:
    algorithm = DiscreteCalQL(OBS_DIM, N_ACTIONS)
    q, bound = torch.randn(1, 5, N_ACTIONS), torch.tensor([-10.0, 0.0, 0.5, 1.0, 10.0])
    found, _ = algorithm.penalized(q, random_batch(0)._replace(mc_return=bound))
    for b in range(5):
        assert torch.equal(found[0, b], q[0, b].clamp(min=bound[b].item()))


def test_a_bound_above_all_values_leaves_no_gradient_of_the_policys_actions() -> None:
    """With G above every Q the penalty pushes down uniform actions alone, and the data's up."""
    q = torch.randn(1, 12, 5, requires_grad=True)
    algorithm = CalQL(OBS_DIM, ACTION_DIM, **SMALL)
    found, _ = algorithm.penalized(q, bounded(random_batch(0), 100.0))
    density = torch.zeros(12, 5)
    (gradient,) = torch.autograd.grad(sampled_logsumexp(found, density).sum(), q)
    assert (gradient[:, 4:] == 0).all() and (gradient[:, :4] >= 0).all()


@pytest.mark.parametrize("discrete", [False, True])
def test_values_of_the_penalty_are_compared_in_transformed_reward(discrete: bool) -> None:
    """The gap is that of CQL with the bounded values, whatever the targets are."""
    if discrete:
        algorithm: Any = ready(DiscreteCalQL(OBS_DIM, N_ACTIONS, hidden=(8, 7)))
        batch = bounded(random_batch(0, discrete=True), 0.3)
        q: Tensor = algorithm.q(batch.obs)
        wanted = q.clamp(min=0.3).logsumexp(-1) - torch.tensor(float(N_ACTIONS)).log()
        wanted = (wanted - q[:, torch.arange(len(batch.obs)), batch.action]).mean()
        (metrics,) = run_updates(algorithm, [batch])
        close(metrics["cql/gap"], wanted.detach(), rtol=1e-6)
        return
    algorithm = ready(CalQL(OBS_DIM, ACTION_DIM, **SMALL))
    low, high = (bounded(random_batch(0), value) for value in (-torch.inf, 5.0))
    gaps = []
    for batch in (low, high):
        fresh = ready(CalQL(OBS_DIM, ACTION_DIM, **SMALL))
        fresh.load_state_dict(algorithm.state_dict())
        record_noise(fresh)
        gaps.append(run_updates(fresh, [batch])[0]["cql/gap"].item())
    assert gaps[1] > gaps[0] + 1


@pytest.mark.parametrize("discrete", [False, True])
def test_batches_without_returns_are_refused(discrete: bool) -> None:
    algorithm = ready(DiscreteCalQL(OBS_DIM, N_ACTIONS) if discrete else CalQL(3, 2, **SMALL))
    with pytest.raises(InputError, match="Batches have no `mc_return`"):
        run_updates(algorithm, [random_batch(0, discrete=discrete)._replace(mc_return=None)])
