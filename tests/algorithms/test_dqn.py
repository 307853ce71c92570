"""DQN against its equations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms.dqn import DQN
from lit_offrl.batch import Batch
from lit_offrl.losses import ensemble_huber
from lit_offrl.networks import DiscreteQNetwork
from lit_offrl.policies import Greedy
from lit_offrl.targets import double_q_action, take_action, td_target
from tests.algorithms.discrete_reference import (
    assert_only_termination_cuts_the_bootstrap,
    batches,
    best_action,
    heads,
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
    moved,
    polyak,
    random_batch,
    run_updates,
    snapshot,
)
from tests.algorithms.solving import losses_of_update, solve_fixed_point

LR, DISCOUNT, ADAM_EPS = 3e-2, 0.9, 1e-4


def dqn(**changes: object) -> DQN:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "hidden": (7, 6),
        "lr": LR,
        "discount": DISCOUNT,
        "adam_eps": ADAM_EPS,
        "polyak": 0.1,
        **changes,
    }
    algorithm = DQN(OBS_DIM, N_ACTIONS, **settings)  # type: ignore[arg-type]
    spread(algorithm)
    return algorithm


def reference(
    double: bool, polyak_step: float, period: int
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def make(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = ReferenceAdam(p, "q", LR, ADAM_EPS)

        def update(batch: Batch) -> dict[str, Tensor]:
            online = heads(p, "q", batch.obs)
            next_online = heads(p, "q", batch.next_obs)
            next_target = heads(p, "target_q", batch.next_obs)
            chooser = next_online if double else next_target
            y = [
                pessimistic_target(batch, b, DISCOUNT, next_target, best_action(values(chooser, b)))
                for b in range(len(batch.reward))
            ]
            loss = mean_huber(batch, online, y)
            adam.step(loss)
            if adam.t % period == 0:
                polyak(p, "q", "target_q", polyak_step)
            return {"loss/q": loss}

        return update

    return make


@pytest.mark.parametrize("n_critics", [1, 2])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("updates", [1, 3])
def test_updates_equal_an_independent_reference(double: bool, n_critics: int, updates: int) -> None:
    algorithm = dqn(double=double, n_critics=n_critics)
    assert_update_matches(algorithm, reference(double, 0.1, 1), batches(updates))


def test_with_a_period_of_three_the_target_is_copied_at_the_third_and_sixth_update() -> None:
    algorithm = dqn(target_period=3, polyak=1.0)
    assert_update_matches(algorithm, reference(False, 1.0, 3), batches(7))


def test_the_target_stays_between_periods_and_equals_q_after_a_copy() -> None:
    algorithm = dqn(target_period=3, polyak=1.0)
    before = snapshot(algorithm.target_q)
    run_updates(algorithm, batches(2))
    assert moved(before, snapshot(algorithm.target_q)) == set()
    run_updates(algorithm, batches(1))
    for name, value in snapshot(algorithm.q).items():
        close(snapshot(algorithm.target_q)[name], value)


def test_errors_on_both_sides_of_the_huber_threshold_occur_in_the_parity_test() -> None:
    algorithm, batch = dqn(), batches(1)[0]
    error = algorithm.q_values(batch.obs, batch.action)[0] - td_target(
        batch, DISCOUNT, algorithm.target_q(batch.next_obs)[0].amax(-1)
    )
    assert (error.abs() > 1).any()
    assert (error.abs() < 1).any()


def test_double_and_plain_targets_differ_in_the_parity_test() -> None:
    algorithm, batch = dqn(), batches(1)[0]
    chosen = [net(batch.next_obs)[0].argmax(-1) for net in (algorithm.q, algorithm.target_q)]
    assert (chosen[0] != chosen[1]).any()


def test_minimizing_moves_only_q() -> None:
    algorithm = dqn()
    algorithm.polyak = 0.0
    before = snapshot(algorithm)
    run_updates(algorithm, batches(1))
    assert moved(before, snapshot(algorithm)) == {"q"}


def test_the_target_network_takes_no_gradients_and_starts_as_a_copy() -> None:
    algorithm = DQN(OBS_DIM, N_ACTIONS)
    assert not any(p.requires_grad for p in algorithm.target_q.parameters())
    for online, target in zip(
        algorithm.q.parameters(), algorithm.target_q.parameters(), strict=True
    ):
        assert torch.equal(online, target)
        assert online.data_ptr() != target.data_ptr()


@pytest.mark.parametrize("double", [False, True])
def test_only_termination_cuts_the_bootstrap(double: bool) -> None:
    assert_only_termination_cuts_the_bootstrap(dqn(double=double))


def test_the_value_of_a_loop_without_end_is_the_geometric_sum() -> None:
    # One state that returns to itself with reward 1, marked as truncated: Q = 1 / (1 - γ) = 10.
    algorithm = DQN(1, 1, hidden=(), discount=0.9).double()
    one = torch.ones(1, dtype=torch.float64)
    loop = Batch(
        one.unsqueeze(-1), torch.zeros(1, dtype=torch.long), one, one.unsqueeze(-1), 0 * one, one
    )
    solve_fixed_point(algorithm, loop, [algorithm.q], q=algorithm.q, target_q=algorithm.target_q)
    close(algorithm.action_values(loop.obs).flatten(), torch.tensor([10.0]))


def test_the_loss_sums_over_critics_and_averages_over_the_batch() -> None:
    torch.manual_seed(0)
    algorithm = dqn(n_critics=2)
    batch = random_batch(0, discrete=True)
    once = losses_of_update(algorithm, batch)[algorithm.q]
    doubled = Batch(*(None if x is None else torch.cat([x, x]) for x in batch))  # type: ignore[arg-type]
    close(losses_of_update(algorithm, doubled)[algorithm.q], once)
    q, y = torch.randn(2, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    close(
        ensemble_huber(q, y),
        sum((ensemble_huber(member.unsqueeze(0), y) for member in q), torch.zeros(())).double(),
    )


def test_the_policy_is_greedy_on_the_minimum_over_critics() -> None:
    q = torch.tensor([[[5.0, 1.0, 2.0]], [[0.0, 1.0, 3.0]]])  # (2, 1, 3): minima 0, 1, 2
    assert double_q_action(q).tolist() == [2]
    assert double_q_action(q, torch.tensor([[True, True, False]])).tolist() == [1]
    algorithm, obs = dqn(n_critics=2), batches(1)[0].obs
    best = torch.minimum(*algorithm.action_values(obs)).argmax(-1)
    policy = algorithm.policy(obs)
    assert isinstance(policy, Greedy)
    assert torch.equal(policy.mode, best)
    assert torch.equal(algorithm.act(obs), best)


def test_q_values_are_the_entries_of_action_values() -> None:
    algorithm, batch = dqn(n_critics=2), batches(1)[0]
    table = algorithm.action_values(batch.obs)
    assert table.shape == (2, 9, N_ACTIONS)
    for j in range(2):
        for b in range(9):
            chosen = algorithm.q_values(batch.obs, batch.action)[j, b]
            assert chosen == table[j, b, batch.action[b]]
    assert torch.equal(take_action(table, batch.action)[0], table[0, range(9), batch.action])


def test_the_values_of_a_quantile_head_are_its_means() -> None:
    net = DiscreteQNetwork(OBS_DIM, N_ACTIONS, (5,), 2, n_quantiles=3)
    obs = torch.randn(6, OBS_DIM, generator=torch.Generator().manual_seed(0))
    assert net.quantiles(obs).shape == (2, 6, N_ACTIONS, 3)
    assert torch.equal(net(obs), net.quantiles(obs).mean(-1))
