"""Discrete BCQ against its equations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms.discrete_bcq import DiscreteBCQ, in_support
from lit_offrl.algorithms.dqn import DQN
from lit_offrl.batch import Batch
from lit_offrl.policies import Categorical, Greedy
from tests.algorithms.discrete_reference import (
    assert_only_termination_cuts_the_bootstrap,
    batches,
    best_action,
    heads,
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

LR, DISCOUNT, ADAM_EPS = 3e-2, 0.9, 1e-4


def bcq(**changes: object) -> DiscreteBCQ:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "hidden": (7, 6),
        "lr": LR,
        "discount": DISCOUNT,
        "adam_eps": ADAM_EPS,
        "polyak": 0.1,
        **changes,
    }
    algorithm = DiscreteBCQ(OBS_DIM, N_ACTIONS, **settings)  # type: ignore[arg-type]
    spread(algorithm)
    return algorithm


def supported(p: Params, obs: Tensor, threshold: float) -> list[list[int]]:
    """Actions with ``G(a|s) / max G(·|s) >= threshold``, row by row."""
    g = mlp(p, "behavior.net", obs).detach().exp()
    return [[a for a in range(N_ACTIONS) if row[a] / row.max() >= threshold] for row in g]


def reference(
    threshold: float, logit_penalty: float, polyak_step: float = 0.1, period: int = 1
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    def make(p: Params, noise: list[Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
        adam = ReferenceAdam(p, "q", LR, ADAM_EPS)
        behavior_adam = ReferenceAdam(p, "behavior", LR, ADAM_EPS)

        def update(batch: Batch) -> dict[str, Tensor]:
            rows = range(len(batch.reward))
            next_online = heads(p, "q", batch.next_obs)
            next_target = heads(p, "target_q", batch.next_obs)
            allowed = supported(p, batch.next_obs, threshold)
            chosen = [best_action(values(next_online, b), allowed[b]) for b in rows]
            y = [pessimistic_target(batch, b, DISCOUNT, next_target, chosen[b]) for b in rows]
            q_loss = mean_huber(batch, heads(p, "q", batch.obs), y)

            logits = mlp(p, "behavior.net", batch.obs)  # (B, A)
            log_g = logits - logits.exp().sum(1, keepdim=True).log()
            nll = torch.stack([-log_g[b, int(batch.action[b])] for b in rows]).mean()
            behavior_loss = nll + logit_penalty * (logits * logits).sum() / logits.numel()

            adam.step(q_loss)
            behavior_adam.step(behavior_loss)
            if adam.t % period == 0:
                polyak(p, "q", "target_q", polyak_step)
            return {"loss/q": q_loss, "loss/behavior": behavior_loss}

        return update

    return make


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("n_critics", [1, 2])
@pytest.mark.parametrize(("threshold", "logit_penalty"), [(0.3, 1e-2), (0.6, 0.5), (0.0, 0.0)])
def test_updates_equal_an_independent_reference(
    threshold: float, logit_penalty: float, n_critics: int, updates: int
) -> None:
    algorithm = bcq(bcq_threshold=threshold, logit_penalty=logit_penalty, n_critics=n_critics)
    assert_update_matches(algorithm, reference(threshold, logit_penalty), batches(updates))


def test_with_a_period_of_three_the_target_is_copied_at_the_third_and_sixth_update() -> None:
    algorithm = bcq(target_period=3, polyak=1.0)
    assert_update_matches(algorithm, reference(0.3, 1e-2, 1.0, 3), batches(7))


def test_the_mask_binds_and_differs_from_an_absolute_one_in_the_parity_test() -> None:
    algorithm, obs = bcq(), batches(1)[0].next_obs
    behavior = algorithm.behavior(obs)
    relative, absolute = in_support(behavior, 0.3), behavior.probs >= 0.3
    q = algorithm.action_values(obs)[0]
    best = [q.masked_fill(~mask, -torch.inf).argmax(-1) for mask in (relative, absolute)]
    assert (best[0] != q.argmax(-1)).any()
    assert (best[0] != best[1]).any()


def test_each_loss_moves_only_its_own_network() -> None:
    algorithm = bcq()
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


def test_only_termination_cuts_the_bootstrap() -> None:
    assert_only_termination_cuts_the_bootstrap(bcq())


def test_with_threshold_zero_q_learns_as_in_double_dqn() -> None:
    algorithm = bcq(bcq_threshold=0.0, n_critics=2)
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
    dqn.load_state_dict(algorithm.state_dict(), strict=False)
    ours, theirs = run_updates(algorithm, batches(5)), run_updates(dqn, batches(5))
    assert torch.equal(ours[-1]["loss/q"], theirs[-1]["loss/q"])
    for name, value in snapshot(dqn).items():
        assert torch.equal(snapshot(algorithm)[name], value)
    obs = batches(1)[0].obs
    assert torch.equal(algorithm.act(obs), dqn.act(obs))


def test_with_threshold_one_the_likeliest_action_is_taken_and_bootstrapped_from() -> None:
    algorithm, batch = bcq(bcq_threshold=1.0), batches(1)[0]
    for obs in (batch.obs, batch.next_obs):
        assert torch.equal(algorithm.act(obs), algorithm.behavior(obs).logits.argmax(-1))
    greedy = algorithm.behavior(batch.next_obs).logits.argmax(-1)
    y = (
        batch.reward
        + DISCOUNT
        * (1 - batch.terminated)
        * algorithm.target_q(batch.next_obs)[0, range(9), greedy]
    )
    (metrics,) = run_updates(algorithm, [batch])
    q = bcq().q_values(batch.obs, batch.action)[0]
    close(metrics["loss/q"], torch.nn.functional.huber_loss(q, y))


def test_the_mask_is_relative_to_the_likeliest_action() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.97, 0.02, 0.01]])
    assert in_support(Categorical(probs.log()), 0.4).tolist() == [
        [True, True, False],
        [False, False, True],
        [True, False, False],
    ]


def test_no_action_is_best_among_none() -> None:
    logits = 5 * torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    for threshold in (0.0, 0.3, 1.0):
        mask = in_support(Categorical(logits), threshold)
        assert mask.gather(-1, logits.argmax(-1, keepdim=True)).all()


def test_a_masked_action_is_never_taken_however_good_its_value() -> None:
    algorithm, obs = bcq(), batches(1)[0].obs
    last_bias(algorithm.behavior)[2] = -50.0
    last_bias(algorithm.q)[..., 2] = 1000.0
    assert (algorithm.action_values(obs).amin(0).argmax(-1) == 2).all()
    assert (algorithm.act(obs) != 2).all()


def test_the_policy_is_greedy_on_the_minimum_over_critics_within_the_support() -> None:
    algorithm, obs = bcq(n_critics=2), batches(1)[0].obs
    assert isinstance(algorithm.policy(obs), Greedy)
    table = algorithm.action_values(obs)
    ratio = algorithm.behavior(obs).probs
    for b, action in enumerate(algorithm.act(obs).tolist()):
        allowed = [a for a in range(N_ACTIONS) if ratio[b, a] >= 0.3 * ratio[b].max()]
        assert action == max(allowed, key=lambda a: table[:, b, a].min().item())
    assert algorithm.q_values(obs, algorithm.act(obs)).shape == (2, 9)
