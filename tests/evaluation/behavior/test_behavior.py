"""The behavior models: densities, modes and support, and logged propensities."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, MixtureSameFamily, Normal

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.behavior.models import TanhMixture, tanh_gaussian_mode
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy, logged_propensities, low_density
from lit_offrl.policies import Gaussian, TanhGaussian
from tests.evaluation.behavior.behavior_makers import (
    box_spec,
    component_model,
    discrete_log,
    discrete_spec,
    gaussian_log,
)
from tests.evaluation.fakes import identity_scaling

BOX, DISCRETE = box_spec(2, 2), discrete_spec(2, 3)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Densities.


def test_the_density_of_a_mixture_is_torchs() -> None:
    weight, mean, log_std = some(3, 5).log_softmax(0), some(3, 5, 2), some(3, 5, 2, seed=1) - 1
    z = some(7, 5, 2, seed=2)
    parts: Any = Independent(Normal(mean.movedim(0, 1), log_std.exp().movedim(0, 1)), 1)
    torchs: Any = MixtureSameFamily(TorchCategorical(logits=weight.T), parts)
    expected = torchs.log_prob(z) - (1 - z.tanh().square()).log().sum(-1)
    ours = TanhMixture(weight, TanhGaussian(Gaussian(mean, log_std)))
    torch.testing.assert_close(ours.log_prob(z.tanh()), expected)


def test_draws_of_a_mixture_come_from_its_components_by_weight() -> None:
    n = 4000
    log_weight = torch.tensor([0.8, 0.2]).log()[:, None].expand(2, n)
    mean = torch.tensor([-1.0, 1.0])[:, None, None].expand(2, n, 2)
    mixture = TanhMixture(log_weight, TanhGaussian(Gaussian(mean, torch.full_like(mean, -3.0))))
    drawn = mixture.sample()
    assert (drawn[:, 0] > 0).float().mean() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(drawn[:, 0] > 0, drawn[:, 1] > 0)
    torch.testing.assert_close(mixture.mode, mean[0].tanh())


@pytest.mark.parametrize("log_std", [-3.0, -0.5, 0.0, 1.0])
@pytest.mark.parametrize("mean", [-2.0, -0.3, 0.1, 4.0])
def test_the_mode_of_a_tanh_gaussian_is_the_best_of_a_grid(mean: float, log_std: float) -> None:
    shape = (1, 1, 1)
    base = torch.full(shape, mean).double(), torch.full(shape, log_std).double()
    policy = component_model(torch.zeros(1, 1, dtype=torch.float64), *base)
    grid = torch.linspace(-7, 7, 100_001, dtype=torch.float64).tanh()[:, None, None]
    best = policy.policy(torch.zeros(1, 1)).log_prob(grid).max()
    assert policy.mode_log_prob(torch.zeros(1, 1)).item() == pytest.approx(best.item(), abs=1e-5)
    assert tanh_gaussian_mode(*base).sign().item() == math.copysign(1, mean)


def test_the_mode_of_a_mixture_is_the_densest_of_its_components_modes() -> None:
    mean = torch.tensor([-0.5, 0.5]).view(2, 1, 1)
    policy = component_model(
        torch.tensor([[0.9], [0.1]]).log(), mean, torch.tensor([0.0, -4.0]).view(2, 1, 1)
    )
    narrow = policy.policy(torch.zeros(1, 1)).log_prob(torch.tensor([[0.5]]).tanh())
    torch.testing.assert_close(policy.mode_log_prob(torch.zeros(1, 1)), narrow, rtol=0, atol=1e-3)


def test_the_relative_density_is_the_gaussians_before_tanh() -> None:
    mean, log_std = some(1, 6, 3) / 2, some(1, 6, 3, seed=1) / 4 - 1
    policy = component_model(torch.zeros(1, 6, dtype=torch.float64), mean, log_std)
    z = mean + log_std.exp() * torch.tensor([0.0, 1.0, -2.0])
    answer = policy.relative_log_density(torch.zeros(6, 1), z[0].tanh())
    torch.testing.assert_close(answer, torch.full((6,), -2.5, dtype=torch.float64))


def test_the_relative_density_knows_no_distance_beyond_the_bound_nor_below_the_resolution() -> None:
    mean = torch.tensor([[[9.0], [0.0]]])
    policy = component_model(torch.zeros(1, 2), mean, torch.full((1, 2, 1), -5.0))
    answer = policy.relative_log_density(torch.zeros(2, 1), torch.tensor([[1.0], [0.05]]))
    torch.testing.assert_close(answer, torch.tensor([0.0, -0.5]), rtol=0, atol=2e-3)


def test_a_wide_component_is_not_dwarfed_by_a_narrow_one() -> None:
    mean, log_std = torch.zeros(2, 1, 6), torch.tensor([-4.0, -0.5]).view(2, 1, 1).expand(2, 1, 6)
    policy = component_model(torch.tensor([[0.5], [0.5]]).log(), mean, log_std)
    action = torch.full((1, 6), 0.6).atanh().sub(0.1).tanh()
    assert policy.policy(torch.zeros(1, 1)).log_prob(action) < policy.mode_log_prob(
        torch.zeros(1, 1)
    ) + math.log(1e-3)
    assert not policy.unseen(torch.zeros(1, 1), action)
    assert policy.unseen(torch.zeros(1, 1), torch.full((1, 6), 0.97))


def test_a_rare_component_lies_lower_by_its_weight() -> None:
    mean = torch.tensor([-0.8, 0.8]).view(2, 1, 1)
    log_weight = torch.tensor([[0.75], [0.25]]).log()
    policy = component_model(log_weight, mean, torch.full((2, 1, 1), -2.0))
    at_means = policy.relative_log_density(torch.zeros(1, 1), mean.tanh())
    torch.testing.assert_close(at_means, torch.tensor([[0.0], [-math.log(3)]]))


@pytest.mark.parametrize("action_dim", [1, 6, 17])
def test_few_of_a_models_own_actions_count_as_unseen(action_dim: int) -> None:
    n = 100_000
    mean = torch.zeros(1, n, action_dim)
    policy = component_model(torch.zeros(1, n), mean, torch.full_like(mean, -1.5))
    own = (math.exp(-1.5) * some(n, action_dim)).tanh().float()
    share = policy.unseen(torch.zeros(n, 1), own).float().mean()
    assert share == pytest.approx(2.0e-4, abs=1.5e-4)
    assert low_density(1) == pytest.approx(math.log(1e-3))


def test_a_box_model_has_no_probabilities() -> None:
    with pytest.raises(NotApplicableError, match="discrete"):
        BehaviorPolicy("mixture", 2, 2).probs(torch.zeros(1, 2))


def test_a_density_at_the_bound_is_finite_at_the_narrowest() -> None:
    policy = BehaviorPolicy("tanh_gaussian", 1, 1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.net.net[-1].bias.copy_(torch.tensor([math.atanh(1 - 1e-5), -99.0]))  # type: ignore
    assert 10 < policy.log_prob(torch.zeros(1, 1), torch.ones(1, 1)).item() < 15


# Logged propensities.


@pytest.mark.parametrize("value", [-math.inf, math.nan, 0.1])
def test_impossible_propensities_are_refused_and_named(value: float) -> None:
    data = discrete_log(60)
    logged = np.asarray(data.behavior_log_prob).copy()
    logged[[45, 50]] = value
    with pytest.raises(InputError, match=r"row 45 \(episode 2\)"):
        logged_propensities(
            dataclasses.replace(data, behavior_log_prob=logged), identity_scaling(DISCRETE)
        )


def test_logged_densities_of_box_actions_are_turned_into_scaled_units() -> None:
    spec = box_spec(2, 2, high=3.0)
    data = dataclasses.replace(gaussian_log(4), behavior_log_prob=np.full(4, 0.5, np.float32))
    scaled = logged_propensities(data, identity_scaling(spec))
    assert scaled is not None and scaled.dtype == torch.float64
    torch.testing.assert_close(scaled, torch.full((4,), 0.5 + 2 * math.log(3)).double())
    assert logged_propensities(gaussian_log(4), identity_scaling(spec)) is None
