"""Discrete IQL against its equations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms.bc import BC
from lit_offrl.algorithms.discrete_iql import DiscreteIQL
from lit_offrl.batch import Batch
from tests.algorithms.discrete_reference import (
    assert_only_termination_cuts_the_bootstrap,
    batches,
    heads,
    last_bias,
    spread,
)
from tests.algorithms.helpers import (
    N_ACTIONS,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    close,
    mlp,
    moved,
    polyak,
    run_updates,
    snapshot,
)
from tests.algorithms.solving import losses_of_update

LR, DISCOUNT = 3e-2, 0.9


def iql(**changes: object) -> DiscreteIQL:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "hidden": (7, 6),
        "lr": LR,
        "discount": DISCOUNT,
        "polyak": 0.1,
        **changes,
    }
    algorithm = DiscreteIQL(OBS_DIM, N_ACTIONS, **settings)  # type: ignore[arg-type]
    spread(algorithm)
    last_bias(algorithm.v)[:] -= 3.0  # so that advantages have both signs
    return algorithm


def reference(
    expectile: float, inverse_temperature: float
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def make(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adams = [ReferenceAdam(p, net, LR) for net in ("v", "q", "policy")]

        def update(batch: Batch) -> dict[str, Tensor]:
            rows = range(len(batch.reward))
            q, target = heads(p, "q", batch.obs), heads(p, "target_q", batch.obs)
            v, next_v = mlp(p, "v.net", batch.obs), mlp(p, "v.net", batch.next_obs).detach()
            logits = mlp(p, "policy.net", batch.obs)
            v_loss = q_loss = policy_loss = torch.zeros((), dtype=torch.float64)
            for b in rows:
                a = int(batch.action[b])
                u = min(t.detach()[b, a, 0] for t in target) - v[b, 0]
                v_loss = v_loss + (expectile if u > 0 else 1 - expectile) * u * u

                y = batch.reward[b]
                if batch.terminated[b] == 0:
                    y = y + DISCOUNT * next_v[b, 0]
                for member in q:
                    q_loss = q_loss + (member[b, a, 0] - y) ** 2

                weight = min(float((inverse_temperature * u.detach()).exp()), 100.0)
                pi = logits[b].exp() / logits[b].exp().sum()
                policy_loss = policy_loss - weight * pi[a].log()
            losses = [loss / len(rows) for loss in (v_loss, q_loss, policy_loss)]
            for adam, loss in zip(adams, losses, strict=True):
                adam.step(loss)
            polyak(p, "q", "target_q", 0.1)
            return dict(zip(("loss/v", "loss/q", "loss/policy"), losses, strict=True))

        return update

    return make


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("n_critics", [1, 2])
@pytest.mark.parametrize(("expectile", "inverse_temperature"), [(0.7, 3.0), (0.9, 10.0)])
def test_updates_equal_an_independent_reference(
    expectile: float, inverse_temperature: float, n_critics: int, updates: int
) -> None:
    algorithm = iql(
        expectile=expectile, inverse_temperature=inverse_temperature, n_critics=n_critics
    )
    assert_update_matches(algorithm, reference(expectile, inverse_temperature), batches(updates))


def test_weights_above_and_below_the_clip_occur_in_the_parity_test() -> None:
    algorithm = iql(inverse_temperature=10.0, expectile=0.9)
    (metrics,) = run_updates(algorithm, batches(1))
    assert 0 < metrics["awr/clipped"] < 1


def test_each_loss_moves_only_its_own_network() -> None:
    algorithm = iql()
    algorithm.polyak = 0.0
    losses = losses_of_update(algorithm, batches(1)[0])
    assert set(losses) == {algorithm.v, algorithm.q, algorithm.policy}
    for net, loss in losses.items():
        others = [p for other in losses if other is not net for p in other.parameters()]
        gradients = torch.autograd.grad(loss, others, retain_graph=True, allow_unused=True)
        assert all(g is None for g in gradients)
        gradients = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
        assert all(g.any() for g in gradients)


def test_minimizing_leaves_the_target_critic_alone() -> None:
    algorithm = iql()
    algorithm.polyak = 0.0
    before = snapshot(algorithm)
    run_updates(algorithm, batches(1))
    assert moved(before, snapshot(algorithm)) == {"v", "q", "policy"}


def test_only_termination_cuts_the_bootstrap() -> None:
    assert_only_termination_cuts_the_bootstrap(iql())


def test_values_of_actions_outside_the_data_play_no_part() -> None:
    algorithm, batch = iql(), batches(1)[0]
    batch = batch._replace(action=batch.action.clamp(max=N_ACTIONS - 2))
    losses = losses_of_update(algorithm, batch)
    for critic in (algorithm.q, algorithm.target_q):
        last_bias(critic)[..., -1] += 1000.0
    for net, loss in losses_of_update(algorithm, batch).items():
        assert torch.equal(loss, losses[net])


def test_at_inverse_temperature_zero_the_policy_is_behavior_cloning() -> None:
    algorithm = iql(inverse_temperature=0.0)
    bc = BC(OBS_DIM, N_ACTIONS, policy="categorical", hidden=(7, 6), lr=LR).double()
    bc.policy.load_state_dict(algorithm.policy.state_dict())
    ours, theirs = run_updates(algorithm, batches(5)), run_updates(bc, batches(5))
    close(ours[-1]["loss/policy"], theirs[-1]["loss/policy"])
    for name, value in snapshot(bc.policy).items():
        close(snapshot(algorithm.policy)[name], value, name)


def test_the_policy_is_the_regressed_one_and_not_the_argmax_of_q() -> None:
    algorithm, obs = iql(), batches(1)[0].obs
    policy = algorithm.policy(obs)
    assert torch.equal(algorithm.act(obs), policy.log_probs.argmax(-1))
    assert (algorithm.act(obs) != algorithm.action_values(obs).amin(0).argmax(-1)).any()


def test_q_values_are_the_entries_of_action_values() -> None:
    algorithm, batch = iql(), batches(1)[0]
    table = algorithm.action_values(batch.obs)
    assert table.shape == (2, 9, N_ACTIONS)
    expected = [[table[j, b, batch.action[b]] for b in range(9)] for j in range(2)]
    assert algorithm.q_values(batch.obs, batch.action).tolist() == [
        [x.item() for x in row] for row in expected
    ]
