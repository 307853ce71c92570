from typing import Any

import gymnasium as gym
import pytest
import torch

from lit_offrl.algorithms import (
    BC,
    CQL,
    IQL,
    RLPD,
    TD3BC,
    CalQL,
    DiscreteCalQL,
    DiscreteCQL,
    OfflineAlgorithm,
)
from lit_offrl.algorithms.pex import PEX
from lit_offrl.checkpoint import LoadedPolicy, TrainingInfo
from lit_offrl.errors import InputError
from lit_offrl.online.modes import Mode, finetuned, frozen
from lit_offrl.policies import GaussianPolicy
from tests.evaluation.fakes import identity_scaling, spec_of

OBS = gym.spaces.Box(-1, 1, (3,))
SMALL: dict[str, Any] = {"hidden": (8, 8)}
CRITIC: dict[str, Any] = {**SMALL, "critic_hidden": (8, 8)}


def loaded(algorithm: OfflineAlgorithm, discrete: bool = False) -> LoadedPolicy:
    actions: Any = gym.spaces.Discrete(2) if discrete else gym.spaces.Box(-1, 1, (2,))
    spec = spec_of(OBS, actions)
    return LoadedPolicy(algorithm, spec, identity_scaling(spec), TrainingInfo(0, 0))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("kind", [BC, IQL, TD3BC])
def test_continue_keeps_algorithm_networks_and_settings(kind: Any) -> None:
    old = kind(3, 2, discount=0.9, **SMALL)
    new = finetuned(loaded(old), "continue")
    assert type(new) is kind and new is not old and new.discount == 0.9
    assert same(new, old)


def test_a_cosine_schedule_is_dropped() -> None:
    new = finetuned(loaded(IQL(3, 2, cosine_schedule=True, **SMALL)), "continue")
    assert new.hparams["cosine_schedule"] is False and not new._cosine_lr


def test_arguments_of_the_algorithm_can_be_changed() -> None:
    new = finetuned(loaded(IQL(3, 2, **SMALL)), "continue", {"expectile": 0.9})
    assert isinstance(new, IQL) and new.expectile == 0.9


@pytest.mark.parametrize(
    ("old", "kind", "discrete"),
    [
        (CQL(3, 2, **CRITIC), CalQL, False),
        (CalQL(3, 2, **CRITIC), CalQL, False),
        (DiscreteCQL(3, 2, **SMALL), DiscreteCalQL, True),
    ],
)
def test_calql_takes_over_a_cql(
    old: OfflineAlgorithm, kind: type[OfflineAlgorithm], discrete: bool
) -> None:
    new = finetuned(loaded(old, discrete), "calql")
    assert type(new) is kind and same(new, old)
    assert new.extras == ("mc_return",)


def test_rlpd_starts_anew_with_the_discount_of_the_checkpoint() -> None:
    old = IQL(3, 2, discount=0.9, **SMALL)
    new = finetuned(loaded(old), "rlpd", {"n_critics": 3, **CRITIC})
    assert isinstance(new, RLPD) and new.discount == 0.9 and new.n_critics == 3


def test_wsrl_takes_over_policy_and_critics() -> None:
    old = CQL(3, 2, n_critics=4, **CRITIC)
    new = finetuned(loaded(old), "wsrl")
    assert isinstance(new, RLPD) and (new.n_critics, new.n_target_critics) == (4, 2)
    for name in ("policy", "q", "target_q"):
        assert same(getattr(new, name), getattr(old, name))


def test_wsrl_keeps_what_values_and_temperature_were_learned_for() -> None:
    of_cql = finetuned(loaded(CQL(3, 2, polyak=0.01, **CRITIC)), "wsrl")
    assert isinstance(of_cql, RLPD)
    assert (of_cql.entropy_backup, of_cql.target_entropy, of_cql.polyak) == (False, -2.0, 0.01)
    old = RLPD(3, 2, entropy_backup=False, target_entropy=-3.0, n_target_critics=1, **CRITIC)
    again = finetuned(loaded(old), "wsrl")
    assert isinstance(again, RLPD) and same(again, old)
    assert (again.entropy_backup, again.target_entropy) == (False, -3.0)
    assert again.n_target_critics == 1


def test_wsrl_keeps_the_learning_rates() -> None:
    old = CQL(3, 2, policy_lr=1e-4, q_lr=2e-4, **CRITIC)
    new = finetuned(loaded(old), "wsrl")
    again = finetuned(loaded(new), "wsrl")
    for one in (new, again):
        rates = [optimizer.param_groups[0]["lr"] for optimizer in one.configure_optimizers()]
        assert rates == [1e-4, 1e-4, 2e-4]
    other = finetuned(loaded(old), "wsrl", {"lr": 1e-3, "policy_lr": 3e-4})
    assert other.configure_optimizers()[-1].param_groups[0]["lr"] == 1e-3


def test_pex_freezes_the_old_policy_and_starts_a_new_one() -> None:
    old = IQL(3, 2, **SMALL)
    new = finetuned(loaded(old), "pex")
    assert isinstance(new, PEX)
    assert same(new.offline_policy, old.policy) and same(new.q, old.q) and same(new.v, old.v)
    assert not same(new.policy, old.policy)
    assert not any(p.requires_grad for p in new.offline_policy.parameters())
    again = finetuned(loaded(new), "pex")
    assert same(again, new)


def test_pex_takes_the_better_of_two_actions() -> None:
    torch.manual_seed(0)
    pex = PEX(3, 2, **SMALL)
    for p in pex.policy.parameters():  # two policies far apart
        p.data.mul_(3)
    obs = torch.randn(256, 3)
    actions = torch.stack([pex.offline_policy(obs).mode, pex.policy(obs).mode])
    q = pex.q(obs, actions).amin(0)
    better = torch.where((q[0] > q[1]).unsqueeze(-1), actions[0], actions[1])
    assert torch.equal(pex.act(obs), better)
    share = (pex.act(obs) == actions[0]).all(-1).float().mean()
    assert 0.05 < share < 0.95


def test_pex_explores_in_proportion_to_the_exponential_of_q() -> None:
    torch.manual_seed(0)
    pex = PEX(3, 2, choice_inverse_temperature=5.0, **SMALL)
    for policy, mean in ((pex.offline_policy, -0.5), (pex.policy, 0.5)):
        assert isinstance(policy, GaussianPolicy)
        for p in policy.parameters():
            p.data.zero_()
        last = policy.net[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.data.fill_(torch.tensor(mean).atanh().item())
        policy.log_std.data.fill_(-20)
    obs = torch.zeros(20_000, 3)
    both = torch.tensor([[-0.5, -0.5], [0.5, 0.5]]).unsqueeze(1)
    wanted = (5.0 * pex.q(obs[:1], both).amin(0)).softmax(0)[1, 0].item()
    share = (pex.explore(obs)[:, 0] > 0).float().mean().item()
    assert share == pytest.approx(wanted, abs=0.015) and 0.05 < wanted < 0.95


@pytest.mark.parametrize(
    ("old", "mode", "discrete", "message"),
    [
        (IQL(3, 2, **SMALL), "calql", False, "goes on from CQL or DiscreteCQL, not from IQL"),
        (IQL(3, 2, **SMALL), "wsrl", False, "goes on from CQL or RLPD"),
        (BC(3, 2, **SMALL), "pex", False, "goes on from IQL, not from BC"),
        (DiscreteCQL(3, 2, **SMALL), "rlpd", True, "is for Box actions"),
        (BC(3, 2, **SMALL), "anew", False, "no mode `anew`"),
    ],
)
def test_a_mode_that_does_not_fit_says_what_does(
    old: OfflineAlgorithm, mode: Mode, discrete: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        finetuned(loaded(old, discrete), mode)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match="unexpected keyword argument 'expectille'"):
        finetuned(loaded(IQL(3, 2, **SMALL)), "continue", {"expectille": 0.9})
    with pytest.raises(InputError, match="leave network sizes"):
        finetuned(loaded(IQL(3, 2, **SMALL)), "continue", {"hidden": (16, 16)})


def test_a_frozen_policy_does_not_follow() -> None:
    old = BC(3, 2, **SMALL)
    kept = frozen(old)
    for p in old.parameters():
        p.data.zero_()
    assert not same(kept, old)
    assert not any(p.requires_grad for p in kept.parameters())


def test_other_optimizers_than_the_checkpoints_are_refused() -> None:
    old = CQL(3, 2, **CRITIC)
    states = [optimizer.state_dict() for optimizer in old._optimizers.values()]
    new = finetuned(loaded(old), "continue", {"lagrange_gap": 1.0})
    with pytest.raises(InputError, match="has 3 optimizers, CQL now has 4"):
        new.take_over(states)
    same_kind = finetuned(loaded(old), "continue", {"policy_lr": 1e-2})
    same_kind.take_over(states)
    rates = [o.param_groups[0]["lr"] for o in same_kind._optimizers.values()]
    assert rates == [1e-2, 1e-2, 3e-4]
