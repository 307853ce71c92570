"""Discrete CQL against its equations."""

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms.discrete_cql import DiscreteCQL
from lit_offrl.algorithms.dqn import DQN
from lit_offrl.batch import Batch
from lit_offrl.losses import quantile_huber_loss
from lit_offrl.policies import Greedy
from tests.algorithms.discrete_reference import (
    assert_only_termination_cuts_the_bootstrap,
    batches,
    best_action,
    heads,
    huber,
    last_bias,
    mean_huber,
    pessimistic_target,
    spread,
    values,
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

LR, DISCOUNT, ADAM_EPS, ALPHA = 3e-2, 0.9, 1e-4, 0.7


def cql(**changes: object) -> DiscreteCQL:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "hidden": (7, 6),
        "lr": LR,
        "discount": DISCOUNT,
        "adam_eps": ADAM_EPS,
        "cql_alpha": ALPHA,
        "polyak": 0.1,
        **changes,
    }
    algorithm = DiscreteCQL(OBS_DIM, N_ACTIONS, **settings)  # type: ignore[arg-type]
    spread(algorithm)
    return algorithm


def soft_target(batch: Batch, row: int, online: list[Tensor], target: list[Tensor]) -> list[float]:
    """``r + γ min_j Σ_a π(a|s') θ̄_jk(s', a)``, π = softmax of the online minimum, one row."""
    q_min = [min(member[a] for member in values(online, row)) for a in range(N_ACTIONS)]
    pi = torch.tensor(q_min, dtype=torch.float64).exp()
    pi = pi / pi.sum()
    m = target[0].shape[-1]
    soft = [min(float((pi * q.detach()[row, :, k]).sum()) for q in target) for k in range(m)]
    goes_on = batch.terminated[row] == 0
    return [float(batch.reward[row]) + (DISCOUNT * x if goes_on else 0.0) for x in soft]


def quantile_regression(theta: Tensor, y: list[float]) -> Tensor:
    """QR-DQN's loss of one row: sum over quantiles of the mean over targets."""
    m, loss = len(theta), torch.zeros((), dtype=torch.float64)
    for i in range(m):
        level = (2 * i + 1) / (2 * m)
        for target in y:
            u = target - theta[i]
            loss = loss + (level if u >= 0 else 1 - level) * huber(u) / m
    return loss


def reference(
    n_quantiles: int = 1,
    backup: str = "max",
    double: bool = True,
    min_weight: float | None = None,
    polyak_step: float = 0.1,
    period: int = 1,
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def make(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = ReferenceAdam(p, "q", LR, ADAM_EPS)
        behavior_adam = ReferenceAdam(p, "behavior", LR, ADAM_EPS)

        def update(batch: Batch) -> dict[str, Tensor]:
            rows = range(len(batch.reward))
            online = heads(p, "q", batch.obs, n_quantiles)
            next_online = heads(p, "q", batch.next_obs, n_quantiles)
            next_target = heads(p, "target_q", batch.next_obs, n_quantiles)
            y = []
            for b in rows:
                if backup == "soft_pi":
                    y.append(soft_target(batch, b, next_online, next_target))
                else:
                    chooser = values(next_online if double else next_target, b)
                    a = best_action(chooser)
                    y.append(pessimistic_target(batch, b, DISCOUNT, next_target, a))

            if n_quantiles == 1:
                td = mean_huber(batch, online, y)
            else:
                parts = [
                    quantile_regression(q[b, int(batch.action[b])], y[b])
                    for q in online
                    for b in rows
                ]
                td = torch.stack(parts).sum() / len(rows)

            weight = torch.ones(len(rows), N_ACTIONS, dtype=torch.float64)
            if min_weight is not None:
                g = mlp(p, "behavior.net", batch.obs).exp()
                g = g / g.sum(1, keepdim=True)
                for b in rows:
                    relative = g[b].detach() / g[b].detach().max()
                    weight[b] = ((1 - relative) / (1 + relative)).clamp(min=min_weight)
                nll = torch.stack([-g[b, int(batch.action[b])].log() for b in rows]).mean()
                behavior_adam.step(nll)

            penalty = torch.zeros((), dtype=torch.float64)
            for q in online:
                for b in rows:
                    mean = q[b].mean(-1)  # (A,)
                    partition = (weight[b] * mean.exp()).sum() / weight[b].sum()
                    penalty = penalty + partition.log() - mean[int(batch.action[b])]
            loss = td + ALPHA * penalty / len(rows)
            adam.step(loss)
            if adam.t % period == 0:
                polyak(p, "q", "target_q", polyak_step)
            return {
                "loss/q": loss,
                "loss/td": td,
                "cql/gap": penalty / len(rows) / len(online),
            }

        return update

    return make


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("n_critics", [1, 2])
@pytest.mark.parametrize("n_quantiles", [1, 3])
@pytest.mark.parametrize(("backup", "double"), [("max", True), ("max", False), ("soft_pi", True)])
def test_updates_equal_an_independent_reference(
    backup: str, double: bool, n_quantiles: int, n_critics: int, updates: int
) -> None:
    algorithm = cql(backup=backup, double=double, n_quantiles=n_quantiles, n_critics=n_critics)
    assert_update_matches(algorithm, reference(n_quantiles, backup, double), batches(updates))


@pytest.mark.parametrize("min_weight", [0.1, 0.4])
@pytest.mark.parametrize("n_quantiles", [1, 3])
def test_updates_with_a_behavior_prior_equal_an_independent_reference(
    n_quantiles: int, min_weight: float
) -> None:
    algorithm = cql(penalty_prior="behavior", min_weight=min_weight, n_quantiles=n_quantiles)
    assert_update_matches(algorithm, reference(n_quantiles, min_weight=min_weight), batches(3))


def test_with_a_period_of_three_the_target_is_copied_at_the_third_and_sixth_update() -> None:
    algorithm = cql(target_period=3, polyak=1.0)
    assert_update_matches(algorithm, reference(polyak_step=1.0, period=3), batches(7))


def test_minimizing_moves_only_q_and_the_behavior_policy_only_itself() -> None:
    algorithm = cql(penalty_prior="behavior")
    algorithm.polyak = 0.0
    before = snapshot(algorithm)
    run_updates(algorithm, batches(1))
    assert moved(before, snapshot(algorithm)) == {"q", "behavior"}
    losses = losses_of_update(algorithm, batches(1)[0])
    assert set(losses) == {algorithm.q, algorithm.behavior}
    for net, other in ((algorithm.q, algorithm.behavior), (algorithm.behavior, algorithm.q)):
        gradients = torch.autograd.grad(
            losses[net], list(other.parameters()), retain_graph=True, allow_unused=True
        )
        assert all(g is None for g in gradients)


def test_the_uniform_prior_has_no_behavior_policy() -> None:
    assert not hasattr(cql(), "behavior")


@pytest.mark.parametrize("backup", ["max", "soft_pi"])
def test_only_termination_cuts_the_bootstrap(backup: str) -> None:
    assert_only_termination_cuts_the_bootstrap(cql(backup=backup))
    assert_only_termination_cuts_the_bootstrap(cql(backup=backup, n_quantiles=3))


def test_without_a_penalty_it_is_double_dqn() -> None:
    algorithm = cql(cql_alpha=0.0, n_critics=2)
    dqn = DQN(
        OBS_DIM,
        N_ACTIONS,
        hidden=(7, 6),
        lr=LR,
        double=True,
        n_critics=2,
        discount=DISCOUNT,
        polyak=0.1,
        adam_eps=ADAM_EPS,
    ).double()
    dqn.load_state_dict(algorithm.state_dict())
    ours, theirs = run_updates(algorithm, batches(5)), run_updates(dqn, batches(5))
    close(ours[-1]["loss/q"], theirs[-1]["loss/q"])
    for name, value in snapshot(algorithm).items():
        close(value, snapshot(dqn)[name], name)


def test_with_all_weights_one_the_behavior_prior_is_the_plain_penalty() -> None:
    plain, weighted = cql(), cql(penalty_prior="behavior", min_weight=1.0)
    weighted.load_state_dict(plain.state_dict(), strict=False)
    run_updates(plain, batches(4))
    run_updates(weighted, batches(4))
    for name, value in snapshot(plain).items():
        close(snapshot(weighted)[name], value, name)


def test_the_penalty_is_log_sum_exp_less_log_of_the_number_of_actions() -> None:
    algorithm, batch = cql(), batches(1)[0]
    q = algorithm.action_values(batch.obs)[0]
    data = q[range(9), batch.action]
    (metrics,) = run_updates(algorithm, [batch])
    close(metrics["cql/gap"], (q.exp().sum(-1).log() - data).mean() - log(N_ACTIONS))
    close(metrics["loss/q"], metrics["loss/td"] + ALPHA * metrics["cql/gap"])
    close(metrics["q/data"], data.mean())
    close(metrics["q/max"], q.amax(-1).mean())


def test_the_penalty_ignores_the_level_of_q() -> None:
    algorithm, batch = cql(), batches(1)[0]
    (before,) = run_updates(algorithm, [batch])
    algorithm = cql()
    last_bias(algorithm.q)[:] += 50.0
    (after,) = run_updates(algorithm, [batch])
    close(after["cql/gap"], before["cql/gap"])


def test_the_penalty_pushes_the_logged_action_up_and_the_others_down() -> None:
    algorithm = cql(cql_alpha=1e6, hidden=())
    batch = batches(1)[0]
    before = algorithm.action_values(batch.obs)[0].detach()
    gap_before = losses_of_update(algorithm, batch)[algorithm.q]
    run_updates(algorithm, [batch])
    after = algorithm.action_values(batch.obs)[0].detach()
    advantage = [q[range(9), batch.action] - q.mean(-1) for q in (before, after)]
    assert advantage[1].mean() > advantage[0].mean()
    assert losses_of_update(algorithm, batch)[algorithm.q] < gap_before


def test_the_prior_is_relative_to_the_likeliest_action() -> None:
    algorithm = cql(penalty_prior="behavior", min_weight=0.1)
    with torch.no_grad():
        for parameter in algorithm.behavior.parameters():
            parameter.zero_()
    # Uniform behavior: all actions are the mode, all weights are equal, so the gap is the plain.
    batch = batches(1)[0]
    q = algorithm.action_values(batch.obs)[0]
    (metrics,) = run_updates(algorithm, [batch])
    plain = q.exp().mean(-1).log() - q[range(9), batch.action]
    close(metrics["cql/gap"], plain.mean())


def test_the_quantiles_of_a_known_distribution_are_recovered() -> None:
    # Rewards 0, 10, 20, 30, each as often: Huber's smoothing is small at this scale, and the two
    # levels ¼ and ¾ lie on the flat parts between 0 and 10, and 20 and 30.
    theta = torch.tensor([[[-5.0, 40.0]]], requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=8.0)
    reward = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    for _ in range(60):
        optimizer.zero_grad()
        quantile_huber_loss(theta.expand(1, 4, 2), reward).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    low, high = theta.detach().flatten().tolist()
    assert -1 <= low <= 11
    assert 19 <= high <= 31


def test_the_policy_is_greedy_on_the_minimum_over_critics() -> None:
    algorithm, obs = cql(n_critics=2, n_quantiles=3), batches(1)[0].obs
    best = torch.minimum(*algorithm.action_values(obs)).argmax(-1)
    assert isinstance(algorithm.policy(obs), Greedy)
    assert torch.equal(algorithm.act(obs), best)
    assert algorithm.q_values(obs, best).shape == (2, 9)
