import math

import pytest
import torch

from lit_offrl.algorithms.bc import BC
from lit_offrl.algorithms.pex import PEX
from lit_offrl.errors import InputError
from lit_offrl.evaluation.diagnosis.divergence import categorical_kl, gaussian_kl
from lit_offrl.online.exploration import Exploration, Explorer, within
from lit_offrl.policies import Categorical, Deterministic, Gaussian, Greedy, TanhGaussian

NAT = math.log(2)


def gaussians() -> tuple[Gaussian, Gaussian]:
    torch.manual_seed(0)
    one = Gaussian(torch.randn(64, 3), torch.randn(64, 3) * 0.3)
    other = Gaussian(torch.randn(64, 3), torch.randn(3) * 0.3)
    return one, other


def test_gaussians_are_moved_onto_the_budget_and_no_further() -> None:
    wanted, trusted = gaussians()
    free = gaussian_kl(wanted, trusted).sum(-1)  # bits
    found = within(wanted, trusted, 1.5 * NAT)
    assert isinstance(found, Gaussian)
    bits = gaussian_kl(found, trusted).sum(-1)
    far = free > 1.5
    assert 0.2 < far.float().mean() < 1
    torch.testing.assert_close(bits[far], torch.full_like(bits[far], 1.5), atol=1e-4, rtol=0)
    assert torch.equal(found.mean[~far], wanted.mean[~far])


def test_squashed_gaussians_stay_squashed() -> None:
    wanted, trusted = gaussians()
    found = within(TanhGaussian(wanted), TanhGaussian(trusted), NAT)
    plain = within(wanted, trusted, NAT)
    assert isinstance(found, TanhGaussian) and isinstance(plain, Gaussian)
    assert torch.equal(found.base.mean, plain.mean)


def test_discrete_policies_are_moved_onto_the_budget() -> None:
    torch.manual_seed(0)
    wanted, trusted = Categorical(3 * torch.randn(64, 5)), Categorical(torch.randn(64, 5))
    found = within(wanted, trusted, 0.7 * NAT)
    assert isinstance(found, Categorical)
    free = categorical_kl(wanted.log_probs, trusted.log_probs)
    bits = categorical_kl(found.log_probs, trusted.log_probs)
    assert (free > 0.7).sum() > 10
    torch.testing.assert_close(
        bits, torch.where(free > 0.7, torch.full_like(bits, 0.7), free), atol=1e-3, rtol=0
    )


def test_no_budget_leaves_the_trusted_policy() -> None:
    wanted, trusted = gaussians()
    found = within(wanted, trusted, 0.0)
    assert isinstance(found, Gaussian)
    torch.testing.assert_close(found.mean, trusted.mean, atol=1e-3, rtol=0)
    action = torch.tensor([0, 1])
    greedy = Exploration(epsilon=0).widened(Greedy(action, 3))
    other = Exploration(epsilon=0).widened(Greedy(1 - action, 3))
    assert torch.equal(within(greedy, other, 0.0).mode, 1 - action)


def test_the_budget_grows_without_bound() -> None:
    exploration = Exploration(kl_budget=2.0, kl_relax_steps=100)
    assert exploration.budget(0) == pytest.approx(2 * NAT)
    assert exploration.budget(50) == pytest.approx(4 * NAT)
    assert exploration.budget(100) == exploration.budget(1000) == math.inf
    assert Exploration().budget(0) == math.inf


def test_epsilon_mixes_in_uniform_actions() -> None:
    widened = Exploration(epsilon=0.2).widened(Greedy(torch.tensor([1]), 4))
    assert isinstance(widened, Categorical)
    torch.testing.assert_close(widened.probs, torch.tensor([[0.05, 0.85, 0.05, 0.05]]))


def test_a_deterministic_policy_gets_the_noise_asked_for() -> None:
    torch.manual_seed(0)
    policy = Deterministic(torch.full((20_000, 1), 0.3))
    action = Exploration(noise=0.05).widened(policy).sample()
    assert action.mean().item() == pytest.approx(0.3, abs=2e-3)
    assert action.std().item() == pytest.approx(0.05, rel=0.03)
    assert torch.equal(Exploration(noise=0.0).widened(policy).sample(), policy.action)


def test_a_stochastic_policy_is_scaled_down_to_greedy() -> None:
    wanted, _ = gaussians()
    half = Exploration(sample_scale=0.5).widened(wanted)
    assert isinstance(half, Gaussian)
    torch.testing.assert_close(half.log_std.exp(), 0.5 * wanted.log_std.exp())
    greedy = Exploration(sample_scale=0.0).widened(TanhGaussian(wanted))
    assert torch.equal(greedy.sample(), wanted.mean.tanh())


def test_a_discrete_policy_is_cooled_down_to_greedy() -> None:
    policy = Categorical(torch.tensor([[0.1, 0.6, 0.3]]).log())
    cooled = Exploration(sample_scale=0.5, epsilon=0.0).widened(policy)
    assert isinstance(cooled, Categorical)
    torch.testing.assert_close(cooled.probs, torch.tensor([[1.0, 36.0, 9.0]]) / 46)
    for scale in (0.0, 1e-40):
        greedy = Exploration(sample_scale=scale, epsilon=0.3).widened(policy)
        assert isinstance(greedy, Categorical)
        torch.testing.assert_close(greedy.probs, torch.tensor([[0.1, 0.8, 0.1]]))
    as_it_is = Exploration(epsilon=0.0).widened(policy)
    assert isinstance(as_it_is, Categorical)
    torch.testing.assert_close(as_it_is.probs, policy.probs)


def test_the_explorer_obeys_the_budget_and_forgets_it_later() -> None:
    torch.manual_seed(0)
    algorithm, offline = BC(2, 1), BC(2, 1)
    obs = torch.randn(4096, 2)
    explorer = Explorer(algorithm, offline, Exploration(kl_budget=1e-6, kl_relax_steps=10))
    torch.manual_seed(1)
    bound = explorer.act(obs, 0)
    torch.manual_seed(1)
    free = explorer.act(obs, 10)
    torch.manual_seed(1)
    of_offline = offline.policy(obs).sample().clamp(-1, 1)
    torch.manual_seed(1)
    own = algorithm.policy(obs).sample().clamp(-1, 1)
    assert (bound - of_offline).abs().max() < 0.01
    assert torch.equal(free, own)
    assert (own - of_offline).abs().max() > 0.05


def test_policies_of_two_kinds_have_no_budget() -> None:
    squashed = TanhGaussian(Gaussian(torch.zeros(1, 1), torch.zeros(1, 1)))
    for one, other in ((squashed, squashed.base), (squashed.base, squashed)):
        with pytest.raises(InputError, match="two policies of one kind"):
            within(one, other, 0.0)


def test_an_algorithm_that_explores_by_itself_takes_no_budget() -> None:
    pex, offline, obs = PEX(2, 1), BC(2, 1), torch.zeros(1, 2)
    for exploration in (Exploration(kl_budget=1.0), Exploration(sample_scale=0.5)):
        with pytest.raises(InputError, match="PEX chooses between two policies"):
            exploration.refuse_unfit(pex, offline, obs)
    Exploration().refuse_unfit(pex, offline, obs)


def test_the_offline_policy_explores_while_the_run_warms_up() -> None:
    pex, offline, obs = PEX(2, 1), BC(2, 1), torch.randn(64, 2)
    explorer = Explorer(pex, offline, Exploration(sample_scale=0.0))
    torch.testing.assert_close(explorer.act(obs, 0, warming_up=True), offline.act(obs))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": -1.0}, "`noise`"),
        ({"epsilon": 1.5}, "`epsilon`"),
        ({"kl_budget": -1.0}, "`kl_budget`"),
        ({"kl_budget": 1.0, "noise": 0.0}, "must be positive"),
        ({"kl_relax_steps": 0}, "`kl_relax_steps`"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Exploration(**settings)  # type: ignore[arg-type]
