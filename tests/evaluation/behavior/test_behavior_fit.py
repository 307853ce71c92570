"""Fits of behavior models to logs of known behaviors, and what is said of wrong ones."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.findings import overfit_finding, score_findings
from lit_offrl.evaluation.behavior.fit import fit_behavior, score_behavior
from lit_offrl.evaluation.behavior.models import as_mixture
from lit_offrl.evaluation.behavior.policy import logged_propensities
from lit_offrl.evaluation.behavior.scores import divergence_bits
from lit_offrl.evaluation.finding import Finding
from lit_offrl.scaling import Scaling
from tests.evaluation.behavior.behavior_makers import (
    box_spec,
    component_model,
    discrete_log,
    discrete_probs,
    discrete_spec,
    gaussian_log,
    log,
    table_spec,
)
from tests.evaluation.fakes import identity_scaling

BOX, DISCRETE = box_spec(2, 2), discrete_spec(2, 3)
UPDATES = 400


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in findings}


def fit(transitions: Transitions, spec: Any, **options: Any) -> Any:
    options = {"updates": UPDATES} | options
    return fit_behavior(transitions, identity_scaling(spec), spec, **options)


# Fits.


def test_a_table_is_the_closed_form() -> None:
    state, action = np.array([0, 0, 0, 1]), np.array([1, 1, 0, 1])
    obs = np.eye(3)[state]
    spec = table_spec(3, 2)
    scaling = Scaling(torch.tensor([0.6, 0.3, 0.0]), torch.tensor([0.4, 0.4, 1e-3]))
    fitted = fit_behavior(log(obs, action, 2), scaling, spec)
    assert fitted.kind == "tabular"
    k = 1e-3
    expected = [[1 + k, 2 + k], [k, 1 + k], [k, k]]
    rows = torch.tensor(expected) / torch.tensor(expected).sum(1, keepdim=True)
    seen = scaling.normalize_obs(torch.eye(3))
    torch.testing.assert_close(fitted.policy.probs(seen), rows)
    torch.testing.assert_close(
        fitted.policy.log_prob(seen, torch.tensor([0, 1, 1])), rows[[0, 1, 2], [0, 1, 1]].log()
    )
    none = torch.tensor([[0, 0, 0], [1, 1, 1]])
    unseen = [[False, True, True], [False, False, True]]
    assert fitted.policy.unseen(seen, none).tolist() == unseen


def test_a_table_reads_states_though_normalization_made_them_all_zeros() -> None:
    scaling = Scaling(torch.tensor([0.0, 1.0, 0.0]), torch.full((3,), 1e-3))
    data = log(np.eye(3)[[1, 1]], np.array([0, 0]), 1)
    fitted = fit_behavior(data, scaling, table_spec(3, 2))
    assert fitted.policy.probs(torch.zeros(1, 3))[0, 0] > 0.99


def test_a_table_is_scored_on_episodes_that_it_has_not_counted() -> None:
    obs, action = np.eye(2)[np.zeros(40, int)], np.repeat(np.arange(2), [36, 4])
    fits = [fit(log(obs, action, 4), table_spec(2, 2), seed=seed) for seed in range(30)]
    worst = max(fits, key=lambda f: f.nll)  # the seed that holds the odd episode out
    assert worst.nll == pytest.approx(-math.log(1e-3 / 36.002), rel=1e-4)
    assert worst.policy.net.counts[0].tolist() == [36, 4]


@pytest.mark.slow
def test_a_tanh_gaussian_recovers_its_generator() -> None:
    fitted = fit(gaussian_log(6000), BOX, kind="tanh_gaussian", updates=800)
    obs = some(500, 2, seed=9).float()
    base = as_mixture(fitted.policy.policy(obs)).components.base
    mean = obs[:, :1] * torch.tensor([1.0, -1.0]) / 2
    spread = base.log_std[0] - math.log(0.3)
    kl = spread + (0.09 + (mean - base.mean[0]).square()) / (2 * (2 * base.log_std[0]).exp()) - 0.5
    assert kl.sum(-1).mean() / math.log(2) < 0.05
    assert set(verdicts(fitted.findings()).values()) == {"ok"}
    # entropy of N(0, 0.3²) twice, plus the mean log slope of tanh
    z = np.arctanh(gaussian_log(6000).action)
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e * 0.09)
    expected = entropy + np.log(1 - np.tanh(z) ** 2).sum(1).mean()
    assert fitted.nll == pytest.approx(expected, abs=0.08)


@pytest.mark.slow
def test_two_modes_are_given_to_the_mixture() -> None:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(4000, 2))
    side = rng.choice([-1.0, 1.0], size=(4000, 1))
    z = side * 0.7 + 0.1 * rng.normal(size=(4000, 2))
    data = log(obs, np.tanh(z).astype(np.float32), 20)
    fitted = fit(data, BOX)
    assert fitted.kind == "mixture"
    assert fitted.nll < fit(data, BOX, kind="tanh_gaussian").nll - 1
    assert fitted.pit_statistic < 0.1


def test_a_categorical_recovers_its_generator_and_the_logged_propensities() -> None:
    data = discrete_log(8000)
    fitted = fit(data, DISCRETE)
    obs = some(500, 2, seed=9).float()
    wrong = fitted.policy.probs(obs) - torch.from_numpy(discrete_probs(obs.numpy()))
    assert wrong.abs().mean() < 0.03
    assert fitted.policy.temperature == pytest.approx(1.0, abs=0.15)
    assert set(verdicts(fitted.findings()).values()) == {"ok"}
    logged = logged_propensities(data, identity_scaling(DISCRETE))
    assert logged is not None
    action = torch.from_numpy(np.asarray(data.action))
    estimated = fitted.policy.log_prob(torch.from_numpy(data.obs), action)
    assert (logged - estimated).mean().abs() < 0.02
    assert (logged - estimated).abs().mean() < 0.1


def test_a_fit_repeats_itself_and_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one = fit(gaussian_log(400), BOX, kind="mixture", updates=20)
    assert torch.equal(torch.rand(1), expected)
    two = fit(gaussian_log(400), BOX, kind="mixture", updates=20)
    other = fit(gaussian_log(400), BOX, kind="mixture", updates=20, seed=1)
    assert one.scores == two.scores and one.self_kl_bits == two.self_kl_bits
    assert one.scores != other.scores


def test_the_best_weights_on_held_out_episodes_are_kept() -> None:
    data = gaussian_log(200)
    noise = np.tanh(0.5 * np.random.default_rng(1).normal(size=(200, 2))).astype(np.float32)
    data = dataclasses.replace(data, action=noise)  # 200 rows are soon learned by heart
    entropy = math.log(2 * math.pi * math.e * 0.25) + np.log(1 - noise**2).sum(1).mean()
    fitted = fit(data, BOX, kind="tanh_gaussian")
    assert fitted.nll < entropy + 0.5
    in_sample = fit(data, BOX, kind="tanh_gaussian", held_out_fraction=0.0)
    assert in_sample.nll < entropy - 0.3
    assert in_sample.in_sample and in_sample.nll == in_sample.nll_train
    assert verdicts(in_sample.findings())["behavior_overfit"] == "not applicable"


def test_logits_are_divided_by_a_temperature_that_suits_held_out_episodes() -> None:
    data = discrete_log(200)
    noise = np.random.default_rng(0).integers(3, size=200)
    fitted = fit(dataclasses.replace(data, action=noise), DISCRETE)
    assert fitted.policy.temperature > 1.2
    assert fitted.nll < math.log(3) + 0.1


def test_a_model_knows_how_much_of_the_log_lies_in_its_tail() -> None:
    data = gaussian_log(2000)
    odd = data.action.copy()
    odd[::50] = 0.999
    fitted = fit(dataclasses.replace(data, action=odd), BOX, kind="tanh_gaussian", updates=100)
    assert fitted.policy.logged_unseen == pytest.approx(fitted.scores.unseen)
    assert 0 < fitted.scores.unseen < 0.05


def test_one_episode_is_scored_in_sample_and_has_no_self_kl() -> None:
    fitted = fit(discrete_log(100, episode_length=100), DISCRETE, updates=20)
    assert fitted.in_sample
    assert verdicts(fitted.findings())["behavior_self_kl"] == "not applicable"


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    fit(gaussian_log(200), BOX, updates=21, progress=lambda *done: seen.append(done))
    assert seen[-1] == (62, 62)
    assert seen == sorted(seen)


@pytest.mark.slow
def test_self_kl_falls_with_more_data_and_is_what_a_clone_is_off_by() -> None:
    few, many = (fit(discrete_log(n), DISCRETE, updates=600) for n in (400, 12_000))
    assert many.self_kl_bits < few.self_kl_bits / 3
    clone = fit(discrete_log(12_000, seed=5), DISCRETE, updates=600)
    bits, _ = divergence_bits(clone.policy, many.policy, some(1000, 2).float())
    assert abs(bits - many.self_kl_bits) < 0.02


def test_the_divergence_of_gaussians_is_the_closed_form_per_dimension() -> None:
    zero = torch.zeros(1, 4, 2)
    one = component_model(torch.zeros(1, 4), zero, zero - 2)
    other = component_model(torch.zeros(1, 4), zero + torch.tensor([0.1, 0.0]), zero - 2)
    total, per_dim = divergence_bits(one, other, torch.zeros(4, 1))
    expected = 0.01 / (2 * math.exp(-4)) / math.log(2)
    assert total == pytest.approx(expected, rel=0.1)
    assert per_dim == pytest.approx((expected, 0.0), rel=0.1, abs=1e-6)


# Drills.


@pytest.mark.slow
def test_a_model_of_shuffled_box_actions_is_found_out_and_its_clean_twin_is_not() -> None:
    data = gaussian_log(4000)
    shuffled = dataclasses.replace(
        data, action=data.action[np.random.default_rng(0).permutation(len(data))]
    )
    wrong = fit(shuffled, BOX, kind="tanh_gaussian")
    scores = score_behavior(wrong.policy, data, identity_scaling(BOX))
    found = verdicts(score_findings(scores))
    assert found == {"behavior_pit": "ok", "behavior_unexplained": "fail"}  # PIT cannot see it
    clean = fit(data, BOX, kind="tanh_gaussian")
    other = score_findings(
        score_behavior(clean.policy, gaussian_log(4000, 1), identity_scaling(BOX))
    )
    assert set(verdicts(other).values()) == {"ok"}


@pytest.mark.slow
def test_models_of_shuffled_discrete_actions_are_found_out_and_their_clean_twin_is_not() -> None:
    data, scaling = discrete_log(4000), identity_scaling(DISCRETE)
    order = np.random.default_rng(0).permutation(len(data))
    rows = fit(dataclasses.replace(data, action=data.action[order]), DISCRETE)
    found = verdicts(score_findings(score_behavior(rows.policy, data, scaling)))
    assert found["behavior_unexplained"] == "fail"
    swapped: Any = 2 - data.action
    labels = fit(dataclasses.replace(data, action=swapped), DISCRETE)
    found = verdicts(score_findings(score_behavior(labels.policy, data, scaling)))
    assert found == {"behavior_ece": "fail", "behavior_unexplained": "fail"}
    clean = fit(data, DISCRETE)
    found = verdicts(score_findings(score_behavior(clean.policy, discrete_log(4000, 1), scaling)))
    assert set(found.values()) == {"ok"}


def test_few_episodes_never_fail_a_model() -> None:
    data = gaussian_log(400, episode_length=100)
    moved = dataclasses.replace(data, action=np.roll(data.action, 1, 1))
    fitted = fit(gaussian_log(2000), BOX, kind="tanh_gaussian")
    found = score_findings(score_behavior(fitted.policy, moved, identity_scaling(BOX)))
    assert set(verdicts(found).values()) == {"watch"}
    assert all(finding.advice for finding in found)


def test_a_gap_of_the_nll_is_judged_per_dimension() -> None:
    assert overfit_finding(-3.0, -4.0, 6, False).verdict == "ok"
    assert overfit_finding(-3.0, -4.0, 3, False).verdict == "watch"


# Input.


def test_kinds_that_do_not_suit_the_actions_are_refused() -> None:
    with pytest.raises(InputError, match="tanh_gaussian or mixture, not categorical"):
        fit(gaussian_log(40), BOX, kind="categorical")
    with pytest.raises(InputError, match="categorical, not tabular"):
        fit(discrete_log(40), DISCRETE, kind="tabular")
    assert fit(log(np.eye(2), np.array([0, 1]), 1), table_spec(2, 2), kind="categorical")
    with pytest.raises(InputError, match="held_out_fraction"):
        fit(discrete_log(40), DISCRETE, held_out_fraction=1.0)
    with pytest.raises(InputError, match="updates"):
        fit(discrete_log(40), DISCRETE, updates=0)


def test_actions_that_are_not_finite_are_refused() -> None:
    data = gaussian_log(100)
    broken = dataclasses.replace(data, action=np.full_like(data.action, np.nan))
    with pytest.raises(InputError, match="not finite"):
        fit(broken, BOX, kind="tanh_gaussian", updates=20)
