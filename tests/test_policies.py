"""Distributions against torch.distributions, and the policy networks that make them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import (
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from lit_offrl.errors import NotApplicableError
from lit_offrl.policies import (
    Categorical,
    CategoricalPolicy,
    Deterministic,
    DeterministicPolicy,
    Gaussian,
    GaussianPolicy,
    Greedy,
    TanhGaussian,
    TanhGaussianPolicy,
)
from tests.algorithms.helpers import mlp, perturb, snapshot

N, B, OBS, A = 6, 5, 3, 2


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def normal(mean: Tensor, log_std: Tensor) -> Any:  # torch's methods are untyped
    return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)


@pytest.mark.parametrize("log_std", [some(A), some(B, A)], ids=["free of state", "of state"])
def test_the_gaussian_answers_as_torchs(log_std: Tensor) -> None:
    mean, action = some(B, A), some(N, B, A)
    ours, theirs = Gaussian(mean, log_std), normal(mean, log_std)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.imitation_loss(action[0]), -theirs.log_prob(action[0]))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.rsample(action), mean + log_std.exp() * action)
    assert torch.equal(ours.mode, mean)


def test_the_tanh_gaussian_density_is_torchs_at_safe_points() -> None:
    mean, log_std, noise = some(B, A), some(B, A) - 1, some(N, B, A)
    ours = TanhGaussian(Gaussian(mean, log_std))
    theirs: Any = TransformedDistribution(normal(mean, log_std), [TanhTransform()])
    action, log_prob = ours.rsample_with_log_prob(noise)
    safe = action.clamp(-0.99, 0.99)
    torch.testing.assert_close(ours.log_prob(safe), theirs.log_prob(safe))
    expected = theirs.base_dist.log_prob(mean + log_std.exp() * noise)
    expected = expected - (1 - action.square()).log().sum(-1)
    torch.testing.assert_close(log_prob, expected)
    assert torch.equal(ours.mode, mean.tanh())


def test_the_tanh_gaussian_density_integrates_to_one() -> None:
    policy = TanhGaussian(Gaussian(torch.tensor([[0.4]]), torch.tensor([[-0.5]])))
    grid = torch.linspace(-1, 1, 20001).reshape(-1, 1, 1)
    assert policy.log_prob(grid).exp().mean().item() * 2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tanh_gaussian_density_is_finite_at_the_bounds(dtype: torch.dtype) -> None:
    mean = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
    policy = TanhGaussian(Gaussian(mean, torch.zeros(2, 1, dtype=dtype)))
    log_prob = policy.log_prob(torch.tensor([[-1.0], [1.0]], dtype=dtype))
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(log_prob[0], log_prob[1])
    bound = 1 - 1e-5
    z = math.atanh(bound)
    exact = -z * z / 2 - math.log(2 * math.pi) / 2 - math.log(1 - bound * bound)
    assert log_prob[1].item() == pytest.approx(exact, rel=1e-3)


def test_densities_of_saturated_samples_are_those_before_tanh() -> None:
    z = torch.tensor([[12.0, -15.0]], dtype=torch.float64)
    policy = TanhGaussian(Gaussian(z, torch.zeros_like(z)))
    _, log_prob = policy.rsample_with_log_prob(torch.zeros_like(z))
    # 1 - tanh² z = 4 e^{-2|z|} up to a factor of 1 ± 1e-10
    exact = -math.log(2 * math.pi) - 2 * math.log(4) + 2 * (12 + 15)
    assert log_prob.item() == pytest.approx(exact, rel=1e-9)


def test_samples_lie_in_the_action_box_and_follow_the_distribution() -> None:
    mean, log_std = torch.full((20000, 1), 0.3), torch.full((20000, 1), -1.0)
    plain = Gaussian(mean, log_std).sample()
    assert plain.abs().max() == 1  # clipped
    assert plain.median().item() == pytest.approx(0.3, abs=0.02)
    squashed = TanhGaussian(Gaussian(mean, log_std)).sample()
    assert squashed.abs().max() < 1
    assert squashed.atanh().mean().item() == pytest.approx(0.3, abs=0.02)
    assert squashed.atanh().std().item() == pytest.approx(math.exp(-1), abs=0.02)


def test_a_deterministic_policy_has_no_density_and_is_scored_by_its_mean_error() -> None:
    action, other = some(B, A), some(B, A)
    policy = Deterministic(action)
    assert torch.equal(policy.mode, action)
    assert torch.equal(policy.sample(), action)
    expected = ((action - other) ** 2).sum(-1) / A
    torch.testing.assert_close(policy.imitation_loss(other), expected)
    with pytest.raises(NotApplicableError, match="no density"):
        policy.log_prob(other)


def test_the_categorical_answers_as_torchs() -> None:
    logits, action = 2 * some(B, 4), torch.tensor([0, 3, 1, 1, 2])
    ours = Categorical(logits)
    theirs: Any = TorchCategorical(logits=logits)
    torch.testing.assert_close(ours.probs, theirs.probs)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.imitation_loss(action), -theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode, logits.argmax(-1))
    many = Categorical(logits[:1].expand(20000, 4)).sample()
    frequency = torch.bincount(many, minlength=4) / 20000
    torch.testing.assert_close(frequency.double(), theirs.probs[0], rtol=0, atol=0.02)


def test_an_excluded_action_has_probability_and_entropy_zero() -> None:
    policy = Categorical(torch.tensor([[0.0, -math.inf, 0.0]]))
    assert policy.probs.tolist() == [[0.5, 0, 0.5]]
    assert policy.entropy().item() == pytest.approx(math.log(2))


def test_a_greedy_policy_puts_all_mass_on_its_action() -> None:
    action = torch.tensor([2, 0])
    policy = Greedy(action, 3)
    assert policy.probs.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert torch.equal(policy.mode, action)
    assert torch.equal(policy.sample(), action)
    assert policy.imitation_loss(torch.tensor([2, 1])).tolist() == [0, 1]


def test_the_gaussian_policy_squashes_its_mean_and_has_a_spread_free_of_the_state() -> None:
    policy = GaussianPolicy(OBS, A, (8,)).double()
    perturb(policy)
    p = {f"policy.{k}": v for k, v in snapshot(policy).items()}
    obs = some(B, OBS)
    torch.testing.assert_close(policy(obs).mean, mlp(p, "policy.net", obs).tanh())
    torch.testing.assert_close(policy(obs).log_std, p["policy.log_std"])
    policy.log_std.data = torch.tensor([-9.0, 9.0])
    assert policy(obs).log_std.tolist() == [-5, 2]


def test_the_tanh_gaussian_policy_shifts_and_bounds_its_spread() -> None:
    policy = TanhGaussianPolicy(OBS, A, (8,)).double()
    perturb(policy)
    p = {f"policy.{k}": v for k, v in snapshot(policy).items()}
    obs = some(B, OBS)
    out = mlp(p, "policy.net", obs)
    base = policy(obs).base
    torch.testing.assert_close(base.mean, out[:, :A])
    torch.testing.assert_close(base.log_std, out[:, A:] - 1)
    far = policy(1e6 * obs).base.log_std
    assert far.min() >= -20
    assert far.max() <= 2
    assert far.unique().numel() == 2


def test_deterministic_and_categorical_policies_read_their_networks() -> None:
    obs = some(B, OBS)
    box = DeterministicPolicy(OBS, A, (8,)).double()
    p = {f"policy.{k}": v for k, v in snapshot(box).items()}
    torch.testing.assert_close(box(obs).mode, mlp(p, "policy.net", obs).tanh())
    discrete = CategoricalPolicy(OBS, 4, (8,)).double()
    p = {f"policy.{k}": v for k, v in snapshot(discrete).items()}
    torch.testing.assert_close(discrete(obs).logits, mlp(p, "policy.net", obs))
