"""CQL against a reference written from its equations."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms import CQL
from lit_offrl.algorithms.cql import sampled_logsumexp
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from tests.algorithms.cql_reference import Settings, reference
from tests.algorithms.helpers import (
    ACTION_DIM,
    BATCH_SIZE,
    OBS_DIM,
    Params,
    ReferenceAdam,
    assert_update_matches,
    close,
    critics,
    fix_output,
    mlp,
    perturb,
    polyak,
    random_batch,
    ready,
    record_noise,
    run_updates,
    snapshot,
)
from tests.algorithms.loops import values_of_a_loop
from tests.algorithms.reference_policies import tanh_gaussian_log_prob

VARIANTS = {
    "plain": Settings(),
    "three critics": Settings(n_critics=3),
    "one critic": Settings(n_critics=1),
    "temperature": Settings(temperature=2.5),
    "clipped gap": Settings(gap_clip=(-0.3, 1.5)),
    "lagrange": Settings(lagrange_gap=0.8),
    "max target backup": Settings(max_target_backup=True),
    "behavior prior": Settings(penalty_prior="behavior", temperature=1.5),
    "kl": Settings(policy_regularizer="kl"),
    "bc": Settings(policy_regularizer="bc"),
}


def cql(settings: Settings = VARIANTS["plain"]) -> CQL:
    options: dict[str, Any] = settings._asdict()
    algorithm = ready(CQL(OBS_DIM, ACTION_DIM, hidden=(8, 7), critic_hidden=(7, 8), **options))
    algorithm.log_alpha_entropy.value.data.fill_(-0.5)
    return algorithm


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_three_updates_equal_the_reference(settings: Settings) -> None:
    batches = [random_batch(i) for i in range(3)]
    assert_update_matches(cql(settings), reference(settings), batches)


def test_the_best_draw_is_that_of_the_least_hopeful_critic() -> None:
    """The maximum over draws is taken of the minimum: critics that oppose each other tell."""
    settings = Settings(max_target_backup=True, n_actions=8)
    algorithm = cql(settings)
    for name, parameter in algorithm.target_q.named_parameters():
        last = name.startswith("trunk.layers.1.")
        parameter.data[1] = -parameter.data[0] if last else parameter.data[0]
    assert_update_matches(algorithm, reference(settings), [random_batch(0)])


def sac_reference(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
    """Soft actor-critic without entropy in the backup (Haarnoja et al. 2018b, algorithm 1)."""
    c = VARIANTS["plain"]
    actor, critic = ReferenceAdam(p, "policy", c.policy_lr), ReferenceAdam(p, "q", c.q_lr)
    temperature = ReferenceAdam(p, "log_alpha_entropy", c.policy_lr)

    def act(obs: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = mlp(p, "policy.net", obs).chunk(2, -1)
        z = mean + (log_std - 1).exp() * epsilon
        return z.tanh(), tanh_gaussian_log_prob(z, mean, log_std - 1)

    def update(batch: Batch) -> dict[str, Tensor]:
        action, log_pi = act(batch.obs, noise[0])
        next_action, _ = act(batch.next_obs, noise[3][-1])
        noise.clear()
        next_q = torch.stack(critics(p, "target_q", batch.next_obs, next_action)).min(0).values
        y = (batch.reward + c.discount * (1 - batch.terminated) * next_q).detach()
        errors = [((q - y) ** 2).mean() for q in critics(p, "q", batch.obs, batch.action)]
        q_loss = torch.stack(errors).sum()
        q_pi = torch.stack(critics(p, "q", batch.obs, action)).min(0).values
        log_alpha = p["log_alpha_entropy.value"]
        policy_loss = (log_alpha.exp().detach() * log_pi - q_pi).mean()
        temperature.step(-log_alpha * (log_pi.detach() - ACTION_DIM).mean())
        actor.step(policy_loss)
        critic.step(q_loss)
        polyak(p, "q", "target_q", c.polyak)
        return {"loss/q": q_loss, "loss/policy": policy_loss}

    return update


def test_at_alpha_zero_it_is_soft_actor_critic() -> None:
    algorithm = cql(Settings(cql_alpha=0.0))
    assert_update_matches(algorithm, sac_reference, [random_batch(i) for i in range(3)])


def test_importance_weights_of_one_leave_plain_cql() -> None:
    plain, weighted = cql(), cql(Settings(penalty_prior="behavior", min_weight=1.0))
    weighted.load_state_dict(plain.state_dict(), strict=False)
    batches = [random_batch(i) for i in range(3)]
    for algorithm in (plain, weighted):
        record_noise(algorithm)
        run_updates(algorithm, batches)
    found = snapshot(weighted)
    for name, value in snapshot(plain).items():
        close(found[name], value, name)


def test_the_floor_of_the_weights_keeps_likely_actions_in_the_penalty() -> None:
    weighted = cql(Settings(penalty_prior="behavior"))
    fix_output(weighted.behavior.net, 0.0, 0.0, 2.0, 2.0)  # flat: b ≈ 1
    draws = {}
    for prior in ("behavior", "uniform"):
        weighted.penalty_prior = prior
        record_noise(weighted)
        batch = random_batch(0)
        _, _, draws[prior] = weighted._sample_actions(batch, weighted.policy(batch.obs))
    lift = draws["behavior"] - draws["uniform"]
    assert lift.min() > 1  # all weights are small
    assert lift.max().item() == pytest.approx(-math.log(0.1))


@pytest.mark.parametrize("d", [1, 3])
def test_at_q_zero_the_soft_maximum_is_the_log_volume_of_the_box(d: int) -> None:
    uniform = torch.full((30, BATCH_SIZE), -d * math.log(2))
    value = sampled_logsumexp(torch.zeros(2, 30, BATCH_SIZE), uniform)
    torch.testing.assert_close(value, torch.full((2, BATCH_SIZE), d * math.log(2)))
    if d == 3:  # what other code has, without - log 3N
        assert value[0, 0].item() == pytest.approx(2.079, abs=1e-3)
        assert value[0, 0].item() + math.log(30) == pytest.approx(5.481, abs=1e-3)


def test_all_three_proposals_estimate_the_same_integral() -> None:
    n = 3000
    algorithm = cql(Settings(n_actions=n))
    perturb(algorithm, "q.", seed=3)
    fix_output(algorithm.policy.net, 0.1, -0.2, 0.9, 0.9)
    batch = random_batch(0)
    record_noise(algorithm)
    _, actions, log_density = algorithm._sample_actions(batch, algorithm.policy(batch.obs))
    ticks = torch.linspace(-1, 1, 102, dtype=torch.float64)
    middle = (ticks[1:] + ticks[:-1]) / 2
    grid = torch.cartesian_prod(middle, middle).unsqueeze(1).expand(-1, BATCH_SIZE, -1)
    exact = algorithm.q(batch.obs, grid).exp().mean(1).log() + 2 * math.log(2)
    q = algorithm.q(batch.obs, actions)
    for part in (slice(0, n), slice(n, 2 * n), slice(2 * n, 3 * n)):
        estimate = sampled_logsumexp(q[:, part], log_density[part])
        torch.testing.assert_close(estimate, exact, rtol=0, atol=0.15)


def test_uniform_proposals_fill_the_whole_box() -> None:
    algorithm = cql()
    noise = record_noise(algorithm)
    batch = random_batch(0)
    _, actions, log_density = algorithm._sample_actions(batch, algorithm.policy(batch.obs))
    n = algorithm.n_actions
    torch.testing.assert_close(actions[:n], 2 * noise[0] - 1)
    torch.testing.assert_close(log_density[:n], torch.full_like(log_density[:n], math.log(0.25)))
    assert actions.abs().max() <= 1


def test_the_penalty_pushes_sampled_actions_down_and_logged_ones_up() -> None:
    algorithm = cql(Settings(cql_alpha=1e6, q_lr=1e-4))
    batch = random_batch(0)
    record_noise(algorithm)
    _, actions, log_density = algorithm._sample_actions(batch, algorithm.policy(batch.obs))

    def soft_max() -> Tensor:
        return sampled_logsumexp(algorithm.q(batch.obs, actions), log_density).mean()

    before = soft_max(), algorithm.q(batch.obs, batch.action).mean()
    record_noise(algorithm, seed=1)
    run_updates(algorithm, [batch] * 20)
    assert soft_max() - algorithm.q(batch.obs, batch.action).mean() < before[0] - before[1]
    q, density = torch.randn(2, 12, BATCH_SIZE, requires_grad=True), torch.zeros(12, BATCH_SIZE)
    (down,) = torch.autograd.grad(sampled_logsumexp(q, density).sum(), q)
    assert down.min() > 0
    torch.testing.assert_close(down.sum(1), torch.ones(2, BATCH_SIZE))


def test_rows_outside_the_clip_of_the_gap_feel_no_penalty() -> None:
    """With every gap beyond the clip, Q moves as at α = 0."""
    clipped, free = cql(Settings(gap_clip=(-200.0, -100.0))), cql(Settings(cql_alpha=0.0))
    free.load_state_dict(clipped.state_dict())
    for algorithm in (clipped, free):
        record_noise(algorithm)
        run_updates(algorithm, [random_batch(0)])
    for name, value in snapshot(free.q).items():
        close(snapshot(clipped.q)[name], value, name)


@pytest.mark.parametrize(("target", "grows"), [(-100.0, True), (100.0, False)])
def test_the_multiplier_grows_while_the_gap_is_too_wide(target: float, grows: bool) -> None:
    algorithm = cql(Settings(lagrange_gap=target))
    algorithm.log_multiplier.value.data.fill_(1.0)
    values = [m["cql/multiplier"].item() for m in run_updates(algorithm, [random_batch(0)] * 3)]
    assert values[0] == pytest.approx(math.e)  # that of before the update
    assert (values[2] > values[1] > values[0]) == grows
    assert (values[2] < values[1] < values[0]) != grows


def test_the_multiplier_starts_at_e_and_the_entropy_temperature_at_one() -> None:
    algorithm = CQL(OBS_DIM, ACTION_DIM, (8,), (8,), lagrange_gap=1.0)
    assert algorithm.log_multiplier().exp().item() == pytest.approx(math.e)
    assert algorithm.log_alpha_entropy().exp() == 1
    assert algorithm.target_entropy == -ACTION_DIM


def test_the_multiplier_is_bounded() -> None:
    algorithm = cql(Settings(lagrange_gap=0.0))
    algorithm.log_multiplier.value.data.fill_(50.0)
    (metrics,) = run_updates(algorithm, [random_batch(0)])
    assert metrics["cql/multiplier"] == 1e6


def test_the_kl_term_holds_the_entropy_so_that_no_bonus_is_added() -> None:
    steps = []
    for log_alpha in (-5.0, 5.0):
        torch.manual_seed(0)
        algorithm = cql(Settings(policy_regularizer="kl"))
        algorithm.log_alpha_entropy.value.data.fill_(log_alpha)
        record_noise(algorithm)
        run_updates(algorithm, [random_batch(0)])
        steps.append(snapshot(algorithm.policy))
    for name, value in steps[0].items():
        close(steps[1][name], value, name)


def test_the_kl_term_pulls_a_saturated_policy_back_to_the_behavior() -> None:
    """Where tanh is flat in floating point, the density must not be taken from the action."""
    algorithm = cql(Settings(policy_regularizer="kl", regularizer_weight=1e-2, policy_lr=1e-2))
    for net, mean in ((algorithm.policy.net, 8.0), (algorithm.behavior.net, 0.0)):
        fix_output(net, mean, mean, 2.0, 2.0)
    batch = random_batch(0)
    before = algorithm.policy(batch.obs).base.mean
    run_updates(algorithm, [batch] * 3)
    assert (algorithm.policy(batch.obs).base.mean < before).all()


def test_the_behavior_model_learns_the_logged_actions() -> None:
    algorithm = cql(Settings(policy_regularizer="kl"))
    batch = random_batch(0)
    before = algorithm.behavior(batch.obs).log_prob(batch.action).mean()
    run_updates(algorithm, [batch] * 20)
    assert algorithm.behavior(batch.obs).log_prob(batch.action).mean() > before + 0.5


@pytest.mark.parametrize(("log_std", "grows"), [(-4.0, True), (1.0, False)])
def test_the_entropy_temperature_grows_while_the_policy_is_too_narrow(
    log_std: float, grows: bool
) -> None:
    algorithm = cql()
    fix_output(algorithm.policy.net, 0.0, 0.0, log_std, log_std)
    before = algorithm.log_alpha_entropy().item()
    run_updates(algorithm, [random_batch(0)])
    assert (algorithm.log_alpha_entropy().item() > before) == grows


def test_the_networks_start_orthogonal_on_request() -> None:
    for orthogonal in (True, False):
        algorithm = CQL(OBS_DIM, ACTION_DIM, (8,), (8,), orthogonal_init=orthogonal)
        biases = [p for k, p in algorithm.named_parameters() if k.endswith("bias")]
        assert all(not bias.any() for bias in biases) == orthogonal
        for name, value in snapshot(algorithm.q).items():
            close(snapshot(algorithm.target_q)[name], value, name, rtol=0)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_the_bounds_of_the_gap_are_in_order(bounds: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="`gap_clip` must hold a lower and a higher"):
        CQL(OBS_DIM, ACTION_DIM, gap_clip=bounds)


@pytest.mark.parametrize(("terminated", "value"), [(False, 2), (True, 1)])
def test_truncated_episodes_bootstrap_as_if_they_went_on(terminated: bool, value: float) -> None:
    def make() -> CQL:
        options: dict[str, Any] = {"q_lr": 0.02, "polyak": 0.2, "discount": 0.5, "n_actions": 1}
        return CQL(1, 1, (8,), (8,), cql_alpha=0.0, **options)

    assert values_of_a_loop(make, terminated=terminated) == pytest.approx(value, abs=0.05)
