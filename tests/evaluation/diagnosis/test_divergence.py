import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.behavior.models import TanhMixture
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.diagnosis.divergence import (
    END,
    as_mixture,
    categorical_kl,
    gaussian_kl,
    log_prob,
    policy_kl,
    sampled_kl,
)
from lit_offrl.evaluation.diagnosis.kl_answers import compare
from lit_offrl.evaluation.diagnosis.kl_findings import (
    Limits,
    behavior_finding,
    coverage_finding,
    judge,
    support_finding,
    too_close_finding,
    trust,
)
from lit_offrl.evaluation.finding import Finding
from lit_offrl.policies import Categorical, Deterministic, Gaussian, Greedy, TanhGaussian

NO_NOISE = torch.empty(16, 0)
DISCRETE = Limits(1.0, 5.0, 0.02)


def normal(mean: Any, std: Any) -> Gaussian:
    """Means (B, A) in float64."""
    mean, std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    return Gaussian(mean, std.log().expand_as(mean))


def bits(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Discrete actions.


@pytest.mark.parametrize(("share", "expected"), [(0.5, 1.0), (1 / 32, 5.0)])
def test_a_greedy_policy_pays_the_surprise_of_its_action(share: float, expected: float) -> None:
    behavior = Categorical(torch.tensor([[share, (1 - share) / 2, (1 - share) / 2]]).log())
    exact, low_variance = policy_kl(Greedy(torch.tensor([0]), 3), behavior, NO_NOISE)
    assert exact.item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(exact, low_variance)


def test_discrete_divergence_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(4), 5), rng.dirichlet(np.ones(4), 5)
    expected = [stats.entropy(a, b, base=2) for a, b in zip(p, q, strict=True)]
    found = categorical_kl(torch.from_numpy(p).log(), torch.from_numpy(q).log())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert not np.allclose(
        expected, categorical_kl(torch.from_numpy(q).log(), torch.from_numpy(p).log())
    )


def test_an_action_that_the_behavior_never_takes_is_infinitely_far_and_said_so() -> None:
    never = torch.tensor([[0.0, -torch.inf]])
    assert categorical_kl(torch.tensor([[0.5, 0.5]]).log(), never).item() == math.inf
    assert categorical_kl(never, never).item() == 0
    finding = behavior_finding(bits(0, math.inf), bits(0, math.inf), DISCRETE)
    assert (finding.verdict, finding.value) == ("fail", None)
    assert "50.0%" in finding.meaning


def test_torchs_own_distributions_are_understood() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25]])
    foreign = torch.distributions.Categorical(probs=probs)
    kl, _ = policy_kl(foreign, Categorical(torch.zeros(1, 3)), NO_NOISE)
    assert kl.item() == pytest.approx(math.log2(3) - 1.5)


# Gaussians.


def test_gaussian_divergence_equals_hand_values() -> None:
    one = gaussian_kl(normal([[2.0, 0.0]], 1.0), normal([[0.0, 0.0]], [1.0, 2.0]))
    expected = [2 / math.log(2), (math.log(2) + 1 / 8 - 1 / 2) / math.log(2)]
    np.testing.assert_allclose(one[0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("dims", "shift"), [(1, 2.633), (6, 1.075), (17, 0.6386)])
def test_five_bits_are_the_published_shifts(dims: int, shift: float) -> None:
    mean = [[shift] * dims]
    total = gaussian_kl(normal(mean, 1.0), normal([[0.0] * dims], 1.0)).sum().item()
    assert total == pytest.approx(5.0, abs=5e-3)


@pytest.mark.parametrize("end", [math.inf, 1.0, 3.8])
def test_gaussian_divergence_equals_integration(end: float) -> None:
    for mean, std, other, log_other in [(0.4, 0.7, -0.3, 1.2), (3.0, 0.5, 4.5, 0.2)]:
        p, q = stats.norm(mean, std), stats.norm(other, log_other)
        reach = min(end, 12.0)

        def density(x: float, p: Any = p, q: Any = q) -> float:
            return float(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)))

        inside = integrate.quad(density, -reach, reach, points=[mean], limit=200)[0]
        outside = 0.0
        if math.isfinite(end):
            ends = [(p.logsf(end), q.logsf(end)), (p.logcdf(-end), q.logcdf(-end))]
            outside = sum(math.exp(a) * (a - b) for a, b in ends)
        found = gaussian_kl(normal([[mean]], std), normal([[other]], log_other), end)
        assert found.item() * math.log(2) == pytest.approx(inside + outside, rel=1e-6)


def test_divergence_is_invariant_under_tanh() -> None:
    p, q = normal([[0.4, -0.2]], [0.5, 0.3]), normal([[0.1, 0.1]], [0.6, 0.4])
    plain = gaussian_kl(p, q).sum(-1)
    squashed, _ = policy_kl(TanhGaussian(p), TanhGaussian(q), torch.empty(0))
    assert squashed.item() == pytest.approx(plain.item(), abs=1e-4)  # little mass near a bound
    z = p.rsample(torch.randn(200_000, 1, 2, dtype=torch.float64))
    ratio = TanhGaussian(p).log_prob(z.tanh()) - TanhGaussian(q).log_prob(z.tanh())
    error = ratio.std() / len(ratio) ** 0.5 / math.log(2)
    assert abs(ratio.mean() / math.log(2) - plain).item() < 4 * error


def test_saturated_policies_that_act_alike_are_close() -> None:
    """Pre-tanh means of 6 and 9 give the same action, though their densities are far apart."""
    p, q = normal([[9.0]], 0.3), normal([[6.1]], 0.01)
    assert gaussian_kl(p, q).item() > 1e4
    kl, _ = policy_kl(TanhGaussian(p), TanhGaussian(q), torch.empty(0))
    assert kl.item() == pytest.approx(0.0, abs=1e-9)
    opposite, _ = policy_kl(TanhGaussian(normal([[-9.0]], 0.3)), TanhGaussian(q), torch.empty(0))
    assert opposite.item() > 1e4


# Mixtures, and Gaussians that are clipped.


def mixture(*means: float, std: float = 0.3, rows: int = 1) -> TanhMixture:
    base = Gaussian(
        torch.tensor(means)[:, None, None].expand(-1, rows, 1),
        torch.full((len(means), rows, 1), math.log(std)),
    )
    return TanhMixture(torch.full((len(means), rows), -math.log(len(means))), TanhGaussian(base))


def test_densities_add_up_to_one_with_the_bounds() -> None:
    for distribution in (normal([[0.9]], 0.4), TanhGaussian(normal([[1.5]], 1.5)), mixture(-1, 4)):
        grid = torch.linspace(-END + 1e-9, END - 1e-9, 200_001, dtype=torch.float64)
        density = log_prob(distribution, grid[:, None, None]).exp().flatten()
        atoms = log_prob(distribution, torch.tensor([[[-1.0]], [[1.0]]])).exp().sum()
        total = torch.trapezoid(density, grid) + atoms
        assert total.item() == pytest.approx(1.0, abs=2e-3)
        assert 0.01 < atoms < 0.6


def test_densities_agree_with_the_distributions_own_between_the_bounds() -> None:
    action = torch.tensor([[[0.3]], [[-0.9]]])
    for distribution in (normal([[0.9]], 0.4), TanhGaussian(normal([[1.5]], 1.5)), mixture(-1, 1)):
        expected = distribution.log_prob(action)
        torch.testing.assert_close(log_prob(distribution, action), expected.double())


def test_components_keep_their_weights_and_dimensions() -> None:
    base = normal([[[0.2, -0.5]], [[1.0, 0.1]]], 0.5)
    distribution = TanhMixture(torch.tensor([[0.3], [0.7]]).log(), TanhGaussian(base))
    action = torch.tensor([[0.1, -0.4]])
    expected = (
        sum(
            w * stats.norm.pdf(np.arctanh(action[0].numpy()), m, 0.5).prod()
            for w, m in zip((0.3, 0.7), base.mean[:, 0].numpy(), strict=True)
        )
        / (1 - action[0].double() ** 2).prod().numpy()
    )
    assert log_prob(distribution, action).exp().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clipped", [False, True])
def test_sampled_divergence_equals_integration(clipped: bool) -> None:
    base = normal([[0.5]], 0.4)
    policy: Any = base if clipped else TanhGaussian(base)
    behavior = mixture(-0.5, 1.0, std=0.5)
    grid = torch.linspace(-END, END, 100_003, dtype=torch.float64)[1:-1]
    p, q = (log_prob(d, grid[:, None, None]).flatten() for d in (policy, behavior))
    inside = torch.trapezoid(p.exp() * (p - q), grid)
    ends = torch.tensor([[[-1.0]], [[1.0]]])
    p, q = (log_prob(d, ends).flatten() for d in (policy, behavior))
    expected = (inside + (p.exp() * (p - q)).sum()).item() / math.log(2)
    noise = torch.randn(100_000, 1, 1, generator=torch.Generator().manual_seed(0))
    plain, low_variance = policy_kl(policy, behavior, noise)
    assert 0.1 < expected < 4
    assert plain.item() == pytest.approx(expected, rel=0.03)
    assert low_variance.item() == pytest.approx(expected, rel=0.03)


def test_a_clipped_gaussian_is_close_to_a_behavior_that_hits_the_bound_as_often() -> None:
    """Both put all but 2 % of their actions on the bound, though neither density knows of it."""
    policy, behavior = normal([[1.4]], 0.2), TanhGaussian(normal([[6.1]], 1.15))
    noise = torch.randn(4000, 1, 1, generator=torch.Generator().manual_seed(0))
    kl, _ = policy_kl(policy, behavior, noise)
    assert 0 <= kl.item() < 0.1


def test_the_low_variance_form_is_never_negative_and_less_noisy_nearby() -> None:
    log_ratio = 0.1 * torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    log_ratio = log_ratio + 0.005  # E ρ⁻¹ = 1: draws from p of two Gaussians 0.1 σ apart
    plain, low_variance = sampled_kl(log_ratio)
    assert (low_variance >= 0).all()
    assert low_variance.std() < plain.std() / 5
    exact = 0.005 / math.log(2)
    assert plain.mean().item() == pytest.approx(exact, rel=0.15)
    assert low_variance.mean().item() == pytest.approx(exact, rel=0.01)


class Uniform:
    """A distribution of a kind unknown here, on [-half, half]."""

    def __init__(self, half: float) -> None:
        self.half = half

    def sample(self) -> Tensor:
        return self.half * (2 * torch.rand(300, 1) - 1)

    def log_prob(self, action: Tensor) -> Tensor:
        return torch.full(action.shape[:-1], -math.log(2 * self.half))


def test_unknown_distributions_are_sampled() -> None:
    assert as_mixture(Uniform(1.0)) is None
    kl, _ = policy_kl(Uniform(0.25), Uniform(1.0), torch.empty(4, 300, 1))
    assert kl.shape == (300,)
    torch.testing.assert_close(kl, torch.full_like(kl, 2.0))


def test_a_policy_without_density_says_so() -> None:
    with pytest.raises(NotApplicableError, match="no density"):
        policy_kl(Deterministic(torch.zeros(1, 1)), mixture(0.0), torch.empty(4, 1, 1))


# Columns.


def behavior_of(mean: float, std: float = 0.5, action_dim: int = 1) -> BehaviorPolicy:
    """tanh N(mean, std²) everywhere."""
    behavior = BehaviorPolicy("tanh_gaussian", 2, action_dim).requires_grad_(False)
    last: Any = behavior.net.net[-1]  # type: ignore[index]
    last.weight.zero_()
    last.bias.copy_(torch.tensor([mean] * action_dim + [math.log(std)] * action_dim))
    return behavior


def test_deterministic_policies_get_support_and_distances() -> None:
    obs, logged = torch.zeros(3, 2), torch.tensor([[0.5], [0.0], [-0.5]])
    action = torch.tensor([0.0, 1.0, -0.5])[:, None].tanh()
    columns, reason = compare(
        Deterministic(action), behavior_of(0.0), obs, logged, torch.empty(16, 3, 1)
    )
    assert "no density" in reason
    assert set(columns) == {"support", "logged", "error", "random"}
    expected = bits(0, 2, 0.5) / math.log(2)  # (z / σ)² / 2 nats
    torch.testing.assert_close(columns["support"], expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        columns["logged"][[0]], bits(math.atanh(0.5) ** 2 * 2 / math.log(2)), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        columns["error"], (action - logged).double().square().flatten(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(columns["random"], bits(1 / 4 + 1 / 3, 1 / 3, 1 / 4 + 1 / 3))


def test_missed_is_how_much_worse_the_policy_predicts_the_log() -> None:
    obs, logged = torch.zeros(1, 2), torch.tensor([[0.0]])
    policy = TanhGaussian(normal([[1.0]], 0.5))
    columns, reason = compare(policy, behavior_of(0.0), obs, logged, torch.empty(16, 1, 1))
    assert (set(columns), reason) == ({"missed", "kl", "low_variance"}, "")
    expected = 2 / math.log(2)  # (1 / 0.5)² / 2 nats
    assert columns["missed"].item() == pytest.approx(expected, rel=1e-6)


# Verdicts.


@pytest.mark.parametrize(
    ("value", "n_dims", "verdict"),
    [
        (0.99, 1, "ok"),
        (1.0, 1, "watch"),
        (4.99, 1, "watch"),
        (5.0, 1, "fail"),
        (2.9, 6, "ok"),
        (3.0, 6, "watch"),
        (12.0, 6, "fail"),
    ],
)
def test_verdicts_are_on_totals_or_bits_per_dimension(
    value: float, n_dims: int, verdict: str
) -> None:
    limits = DISCRETE if n_dims == 1 else Limits(0.5, 2.0, 0.02, n_dims)
    finding = behavior_finding(bits(value), bits(value), limits)
    assert finding.verdict == verdict
    assert finding.value == pytest.approx(value / n_dims)
    assert finding.unit == ("bits" if n_dims == 1 else "bits per dimension")
    assert ("cql_alpha" in finding.advice) == (verdict != "ok")
    logged = support_finding(bits(value + 3), bits(3), None, replace(limits, floor=100.0))
    assert logged.verdict == verdict
    assert logged.value == pytest.approx((value + 3) / n_dims)


def test_the_floor_is_subtracted_and_shown() -> None:
    limits = Limits(1.0, 5.0, 0.02, floor=0.7)
    finding = behavior_finding(bits(1.6), bits(1.5), limits)
    assert finding.verdict == "ok"
    assert "1.6 bits" in finding.meaning and "0.7 bits" in finding.meaning
    assert "low-variance estimate is 1.5 bits" in finding.meaning
    assert behavior_finding(bits(1.71), bits(1.71), limits).verdict == "watch"


def test_mean_interval_tail_and_far_states_are_told() -> None:
    values = torch.cat([torch.zeros(90), torch.full((10,), 10.0)]).double()
    finding = behavior_finding(values, values, DISCRETE)
    assert finding.value == pytest.approx(1.0)
    half = 1.96 * 10 * math.sqrt(0.09 * 100 / 99) / 10
    assert finding.interval == pytest.approx((1 - half, 1 + half))
    assert "10.0%" in finding.meaning and "below 10 bits" in finding.meaning
    assert "low-variance" not in finding.meaning
    assert behavior_finding(bits(1), bits(1), DISCRETE).interval is None


def test_only_a_policy_nearer_than_the_limit_is_called_a_clone() -> None:
    limits = Limits(0.5, 2.0, 0.02, 2, floor=0.1)
    assert too_close_finding(0.139, limits).verdict == "watch"
    assert "you trained BC" in too_close_finding(0.05, limits).meaning
    clean = too_close_finding(0.141, limits)
    assert (clean.verdict, clean.advice) == ("ok", "")
    assert clean.value == pytest.approx(0.0205)
    blind = too_close_finding(1.0, Limits(0.5, 2.0, 0.02, 2, floor=1.0))
    assert (blind.verdict, blind.value) == ("not applicable", None)


def test_coverage_speaks_against_the_fit_only_where_the_policy_predicts_better() -> None:
    worse, better = bits(2.9, 3.1), bits(-2.9, -3.1)
    assert coverage_finding(worse, DISCRETE).verdict == "ok"
    assert "3 bits worse" in coverage_finding(worse, DISCRETE).meaning
    assert coverage_finding(better, DISCRETE).verdict == "watch"
    assert "3 bits better" in coverage_finding(better, DISCRETE).meaning
    assert coverage_finding(better / 10, DISCRETE).verdict == "ok"
    none = coverage_finding(bits(math.inf, 0, 0, 0), DISCRETE)
    assert (none.verdict, none.value) == ("not applicable", None)
    assert "25.0%" in none.meaning


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in findings}


def test_a_policy_without_density_is_judged_by_its_support() -> None:
    columns = {
        "support": bits(2, 2),  # 1.5 bits beyond the logged actions
        "logged": bits(0.5, 0.5),
        "error": bits(0.1, 0.3),
        "random": bits(0.5, 0.5),
    }
    findings = judge(columns, "It has none.", DISCRETE)
    assert verdicts(findings) == {
        "kl_behavior": "not applicable",
        "kl_support": "watch",
        "kl_too_close": "ok",
    }
    assert "infinite. It has none." in findings[0].meaning
    assert "logged actions 0.5 bits" in findings[1].meaning
    assert "0.4 of a random" in findings[1].meaning


def test_a_greedy_policy_that_imitates_the_mode_is_too_close() -> None:
    columns = {"kl": bits(1.5), "low_variance": bits(1.5), "missed": bits(math.inf)}
    clone = {**columns, "support": bits(0), "logged": bits(1)}
    assert verdicts(judge(clone, "", DISCRETE)) == {
        "kl_behavior": "watch",
        "kl_coverage": "not applicable",
        "kl_support": "ok",
        "kl_too_close": "watch",
    }
    other = {**columns, "support": bits(0.5), "logged": bits(1)}
    assert verdicts(judge(other, "", DISCRETE))["kl_too_close"] == "ok"


def test_outputs_that_are_no_numbers_fail() -> None:
    (finding,) = judge({"kl": bits(math.nan), "low_variance": bits(0)}, "", DISCRETE)
    assert (finding.verdict, finding.value) == ("fail", None)


def test_no_divergence_is_trusted_against_a_wrong_behavior_policy() -> None:
    found = [Finding("kl_behavior", "ok", "Near.", value=0.3)]
    fine = [Finding("behavior_ece", "ok", "")]
    assert trust(found, fine) == [*fine, *found]
    careful = trust(found, [Finding("behavior_ece", "watch", "")])[-1]
    assert (careful.verdict, careful.value) == ("ok", 0.3)
    assert careful.meaning == "With care, as behavior_ece of the fit says. Near."
    withdrawn = trust(found, [*fine, Finding("behavior_pit", "fail", "")])[-1]
    assert (withdrawn.verdict, withdrawn.value) == ("not applicable", 0.3)
    assert withdrawn.meaning.startswith("Not to be trusted, as behavior_pit")
