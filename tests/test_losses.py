"""Losses and targets against their formulas, written out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from lit_offrl.batch import Batch
from lit_offrl.losses import (
    awr_metrics,
    awr_weight,
    ensemble_huber,
    ensemble_mse,
    expectile_loss,
    prior_weight,
    quantile_huber_loss,
    quantile_td_loss,
)
from lit_offrl.targets import (
    double_q_action,
    polyak_update,
    quantile_target,
    soft_quantile_target,
    take_action,
    target_copy,
    td_target,
)

EXPECTILES = {0.5: 3.5, 0.7: 3.9, 0.9: 4.3, 0.99: 4.48}  # of {4.5, 2.5}, equally likely


def expectile(values: Tensor, level: float) -> Tensor:
    """Minimize the loss to convergence by gradient descent."""
    v = values.min().clone().requires_grad_()
    for _ in range(100):
        (gradient,) = torch.autograd.grad(expectile_loss(values - v, level), v)
        v = (v - 0.8 * gradient).detach().requires_grad_()
    return v.detach()


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(reward: Tensor, terminated: Tensor, truncated: Tensor | None = None) -> Batch:
    obs = torch.zeros(len(reward), 1)
    return Batch(obs, obs, reward, obs, terminated, truncated)


@pytest.mark.parametrize(("level", "value"), EXPECTILES.items())
def test_the_expectile_loss_is_minimal_at_the_guides_values(level: float, value: float) -> None:
    found = expectile(torch.tensor([4.5, 2.5], dtype=torch.float64), level)
    assert found.item() == pytest.approx(value, abs=1e-9)


def test_the_half_expectile_is_the_mean() -> None:
    values = some(7)
    assert expectile(values, 0.5).item() == pytest.approx(values.mean().item(), abs=1e-9)
    assert expectile_loss(values, 0.5).item() == pytest.approx(0.5 * values.square().mean().item())


def test_the_expectile_loss_weighs_positive_errors_by_tau() -> None:
    assert expectile_loss(torch.tensor([3.0]), 0.9).item() == pytest.approx(0.9 * 9)
    assert expectile_loss(torch.tensor([-3.0]), 0.9).item() == pytest.approx(0.1 * 9)


@pytest.mark.parametrize(("level", "value"), EXPECTILES.items())
def test_awr_weights_make_the_guides_policy_for_every_expectile(level: float, value: float) -> None:
    weight = awr_weight(torch.tensor([4.5, 2.5], dtype=torch.float64) - value, 3.0)
    assert (weight[0] / weight.sum()).item() == pytest.approx(1 / (1 + math.exp(-6)), abs=1e-12)


def test_awr_weights_are_clipped_and_never_infinite() -> None:
    weight = awr_weight(torch.tensor([-1e9, 0.0, 1.0, 1e9]), 2.0)
    torch.testing.assert_close(weight, torch.tensor([0.0, 1.0, math.exp(2), 100.0]))
    assert awr_weight(torch.tensor([-5.0, 7.0]), 0.0).tolist() == [1, 1]


def test_awr_metrics_count_clipped_rows_and_effective_rows() -> None:
    metrics = awr_metrics(torch.tensor([100.0, 100.0, 0.0, 0.0]))
    assert {k: v.item() for k, v in metrics.items()} == {
        "awr/weight": 50,
        "awr/clipped": 0.5,
        "awr/ess": 0.5,
    }


def test_the_squared_error_has_no_half_and_adds_up_over_critics() -> None:
    q, target = some(3, 5), some(5, seed=1)
    expected = sum((q[j, i] - target[i]) ** 2 / 5 for j in range(3) for i in range(5))
    assert ensemble_mse(q, target).item() == pytest.approx(float(expected), rel=1e-12)


def test_the_huber_loss_is_quadratic_up_to_one_and_adds_up_over_critics() -> None:
    q = torch.tensor([[0.5, 3.0], [-1.0, 0.0]], dtype=torch.float64)
    expected = (0.125 + 2.5) / 2 + (0.5 + 0.0) / 2
    assert ensemble_huber(q, torch.zeros(2)).item() == pytest.approx(expected)


def test_the_quantile_loss_is_the_double_sum_of_the_paper() -> None:
    n, b, m = 2, 3, 4
    quantiles, target = 2 * some(n, b, m), 2 * some(b, m, seed=1)
    expected = 0.0
    for j in range(n):
        for row in range(b):
            for i in range(m):
                for k in range(m):
                    u = float(target[row, k] - quantiles[j, row, i])
                    huber = u * u / 2 if abs(u) <= 1 else abs(u) - 0.5
                    expected += abs((i + 0.5) / m - (u < 0)) * huber / m / b
    assert quantile_huber_loss(quantiles, target).item() == pytest.approx(expected, rel=1e-12)
    assert quantile_td_loss(quantiles, target).item() == pytest.approx(expected, rel=1e-12)


def test_one_quantile_gives_the_plain_huber_loss() -> None:
    q, target = some(2, 5, 1), some(5, 1, seed=1)
    assert quantile_td_loss(q, target) == ensemble_huber(q[..., 0], target[:, 0])


def test_the_prior_weight_falls_with_the_density_down_to_its_bound() -> None:
    weight = prior_weight(torch.tensor([0.0, 0.25, 0.8, 0.9, 1.0]), 0.1)
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.6, 1 / 9, 0.1, 0.1]))


def test_targets_bootstrap_unless_terminated_even_when_truncated() -> None:
    reward = torch.tensor([1.0, 2.0, 3.0])
    batch = batch_of(reward, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    target = td_target(batch, 0.5, torch.tensor([10.0, 20.0, 30.0]))
    assert target.tolist() == [6, 2, 18]


def test_a_target_network_starts_equal_and_takes_no_gradients() -> None:
    net = nn.Linear(2, 3)
    target = target_copy(net)
    torch.testing.assert_close(target.weight, net.weight, rtol=0, atol=0)
    assert target.weight.data_ptr() != net.weight.data_ptr()
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_polyak_moves_the_target_by_its_step_and_leaves_the_network() -> None:
    net, target = nn.Linear(2, 3), nn.Linear(2, 3)
    before, weight = target.weight.detach().clone(), net.weight.detach().clone()
    polyak_update(net, target, 0.25)
    torch.testing.assert_close(target.weight.detach(), 0.75 * before + 0.25 * weight)
    assert torch.equal(net.weight, weight)


def test_the_double_q_action_has_the_largest_minimum_among_allowed_ones() -> None:
    q = torch.tensor([[[5.0, 2.0, 3.0]], [[0.0, 2.0, 4.0]]])  # minima 0, 2, 3
    assert double_q_action(q).tolist() == [2]
    assert double_q_action(q, torch.tensor([[True, True, False]])).tolist() == [1]


def test_an_action_picks_its_own_entry() -> None:
    values, action = some(2, 5, 4), torch.tensor([3, 0, 2, 1, 1])
    expected = [[values[j, i, action[i]].item() for i in range(5)] for j in range(2)]
    assert take_action(values, action).tolist() == expected


def test_quantile_targets_take_the_least_of_the_critics_and_discount_it() -> None:
    n, b, a, m = 2, 3, 4, 5
    quantiles, action = some(n, b, a, m), torch.tensor([1, 3, 0])
    probs = some(b, a, seed=1).softmax(-1)
    batch = batch_of(some(b, seed=2), torch.tensor([0, 1, 0], dtype=torch.float64))
    hard = quantile_target(batch, 0.9, action, quantiles)
    soft = soft_quantile_target(batch, 0.9, probs, quantiles)
    for i in range(b):
        for k in range(m):
            taken = [quantiles[j, i, action[i], k].item() for j in range(n)]
            mean = [
                sum(float(probs[i, x] * quantiles[j, i, x, k]) for x in range(a)) for j in (0, 1)
            ]
            alive = 0.9 * (1 - batch.terminated[i].item())
            reward = batch.reward[i].item()
            assert hard[i, k].item() == pytest.approx(reward + alive * min(taken), rel=1e-12)
            assert soft[i, k].item() == pytest.approx(reward + alive * min(mean), rel=1e-12)
