"""Calibration measures against references and on predictions of known truth."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.calibration import (
    expected_calibration_error,
    fit_temperature,
    ks_uniform,
    probability_integral,
    unexplained_share,
)
from lit_offrl.evaluation.behavior.models import TanhMixture
from lit_offrl.policies import Gaussian, TanhGaussian

N = 20_000


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(probs: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(probs, 1, generator=generator).squeeze(-1)


def test_ece_is_that_of_a_loop_over_bins() -> None:
    probs = some(500, 4).softmax(-1)
    action = drawn(some(500, 4, seed=2).softmax(-1))
    confidence, top = probs.double().numpy().max(1), probs.numpy().argmax(1)
    expected = noise = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            hits = (top == action.numpy())[inside]
            expected += inside.mean() * abs(confidence[inside].mean() - hits.mean())
            spread = (confidence * (1 - confidence))[inside].sum()
            noise += inside.mean() * np.sqrt(2 / np.pi * spread) / inside.sum()
    assert expected_calibration_error(probs, action) == pytest.approx((expected, noise))


def test_the_ece_of_a_true_model_is_what_chance_makes_of_it() -> None:
    probs = (2 * some(2000, 3)).softmax(-1)
    errors = [expected_calibration_error(probs, drawn(probs, seed)) for seed in range(20)]
    assert np.mean([e for e, _ in errors]) == pytest.approx(errors[0][1], rel=0.1)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_scaling_recovers_a_known_miscalibration(true: float) -> None:
    logits = 2 * some(N, 4)
    assert fit_temperature(logits * true, drawn(logits.softmax(-1))) == pytest.approx(
        true, rel=0.03
    )


def mixture() -> tuple[TanhMixture, Tensor]:
    """Two components, and 20,000 of its draws at as many observations, some of them clipped."""
    mean = torch.stack([some(N, 2) - 1, some(N, 2, seed=1) + 3])  # (2, N, 2)
    log_std = torch.stack([0.2 * some(N, 2, seed=2) - 1, 0.2 * some(N, 2, seed=3)])
    weight = torch.tensor([0.7, 0.3])
    k = (torch.rand(N, generator=torch.Generator().manual_seed(4)) > 0.7).long()
    z = mean[k, torch.arange(N)] + log_std[k, torch.arange(N)].exp() * some(N, 2, seed=5)
    action = torch.where(z.tanh().abs() < 0.999, z.tanh(), z.sign())
    log_weight = weight.log()[:, None].expand(2, N)
    return TanhMixture(log_weight, TanhGaussian(Gaussian(mean, log_std))), action


def test_the_pit_of_a_true_mixture_is_uniform_though_actions_are_clipped() -> None:
    true, action = mixture()
    assert (action.abs() == 1).float().mean() > 0.05
    u = probability_integral(true, action)
    assert u.min() >= 0 and u.max() <= 1
    assert ks_uniform(u).max() < 1.63 / N**0.5  # 1 % of chance


@pytest.mark.parametrize(
    ("shift", "widen", "least"), [(0.5, 1.0, 0.1), (0.0, 2.5, 0.1), (0.0, 0.4, 0.1)]
)
def test_the_pit_of_a_wrong_mixture_is_not(shift: float, widen: float, least: float) -> None:
    true, action = mixture()
    base = true.components.base
    wrong = Gaussian(base.mean + shift * base.log_std.exp(), base.log_std + np.log(widen))
    u = probability_integral(TanhMixture(true.log_weight, TanhGaussian(wrong)), action)
    assert ks_uniform(u).min() > least


def test_a_lower_bound_is_censored_like_an_upper_one() -> None:
    true, action = mixture()
    base = true.components.base
    mirrored = TanhMixture(true.log_weight, TanhGaussian(Gaussian(-base.mean, base.log_std)))
    assert ks_uniform(probability_integral(mirrored, -action)).max() < 1.63 / N**0.5


def test_the_distance_to_uniform_is_scipys() -> None:
    exponent = torch.tensor([0.7, 1.0, 1.3])
    u = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)).double() ** exponent
    theirs = [kstest(u[:, d].numpy(), "uniform").statistic for d in range(3)]
    np.testing.assert_allclose(ks_uniform(u).numpy(), theirs, rtol=1e-12)


def test_residuals_that_observations_predict_are_found_and_noise_is_not() -> None:
    obs, noise = some(N, 3), some(N, 2, seed=1)
    signal = obs[:, :1].abs() - obs[:, :1].abs().mean()  # not linear in the observation
    found = unexplained_share((signal + noise * signal.std()), obs)
    assert found == pytest.approx(0.5, abs=0.03)
    assert abs(unexplained_share(noise, obs) or 0.0) < 0.005


def test_chance_is_taken_off_the_explained_share() -> None:
    shares = [unexplained_share(some(300, 1, seed=s), some(300, 3, seed=99 + s)) for s in range(20)]
    assert abs(np.mean([share for share in shares if share is not None])) < 0.05


def test_a_share_of_too_few_rows_is_not_told() -> None:
    assert unexplained_share(some(60, 1), some(60, 3, seed=1)) is None


def test_calibration_of_no_rows_is_refused() -> None:
    with pytest.raises(InputError, match="at least one row"):
        expected_calibration_error(torch.ones(0, 2), torch.zeros(0, dtype=torch.long))
