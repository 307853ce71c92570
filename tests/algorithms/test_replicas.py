"""Several seeds trained at once are what each of their own runs would train."""

import copy
from collections.abc import Callable

import pytest
import torch

from lit_offrl.algorithms import BC, IQL, OfflineAlgorithm
from lit_offrl.algorithms.replicas import Replicas, member_checkpoint, over_seeds, replicate
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from tests.algorithms.helpers import ACTION_DIM, OBS_DIM, random_batch, snapshot
from tests.algorithms.test_compiled import (
    CASES,
    MORE,
    SMALL,
    ReadsItsNumber,
    default_dtype,
)

SEEDS = (3, 0, 7)
EVERY = {**CASES, **MORE}
WITHOUT_DROPOUT = [name for name in EVERY if name != "BC dropout"]


def make_members(make: Callable[..., OfflineAlgorithm]) -> list[OfflineAlgorithm]:
    members = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        members.append(make().double())
        members[-1].seed = seed
    return members


def batches(update: int, discrete: bool) -> list[Batch]:
    return [random_batch(1_000 * update + seed, discrete=discrete) for seed in SEEDS]


def stacked(own: list[Batch]) -> Batch:
    fields = zip(*own, strict=True)
    return Batch._make(torch.stack(field) if field[0] is not None else None for field in fields)


def check(name: str, updates: int, compile_update: bool) -> None:
    """Train members at once and one by one, and compare everything."""
    case = EVERY[name]
    singles = make_members(case.make)
    replicas = Replicas(make_members(case.make))
    replicas.compile_update = compile_update
    before = [snapshot(member) for member in replicas.algorithms]
    with default_dtype(torch.float64):
        replicas.start(0, updates)
        for single in singles:
            single.compile_update = False
            single.start(0, updates)
        for update in range(updates):
            own = batches(update, case.discrete)
            logged = [single.train_update(b) for single, b in zip(singles, own, strict=True)]
            metrics = replicas.train_update(stacked(own))
            for key, values in metrics.items():
                expected = torch.stack([each[key] for each in logged])
                assert (values - expected).abs().max() < 1e-8, key
    for i, (single, member) in enumerate(zip(singles, replicas.algorithms, strict=True)):
        held = snapshot(member)
        assert any((value != before[i][key]).any() for key, value in held.items())
        for key, value in snapshot(single).items():
            assert (value - held[key]).abs().max() < 1e-8, key
        for one, other in zip(
            single.configure_optimizers(), member.configure_optimizers(), strict=True
        ):
            assert float(one.param_groups[0]["lr"]) == float(other.param_groups[0]["lr"])
            for a, b in zip(one.state.values(), other.state.values(), strict=True):
                assert all((a[key] - b[key]).abs().max() < 1e-8 for key in a)


@pytest.fixture(autouse=True)
def long_enough_for_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        OfflineAlgorithm, "configure_optimizers", lambda a: [*a._optimizers.values()]
    )


@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_three_updates_of_a_stack_are_those_of_its_members(name: str) -> None:
    check(name, 3, compile_update=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_fifty_updates_of_a_stack_are_those_of_its_members(name: str) -> None:
    check(name, 50, compile_update=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IQL", "CQL", "TD3BC", "DiscreteCQL quantiles"])
def test_fifty_compiled_updates_of_a_stack_are_those_of_its_members(name: str) -> None:
    check(name, 50, compile_update=True)


def test_members_live_in_the_stack() -> None:
    replicas = Replicas(make_members(lambda: BC(OBS_DIM, ACTION_DIM, **SMALL)))
    replicas.start(0, 10)
    obs = random_batch(0).obs
    before = [member.act(obs) for member in replicas.algorithms]
    replicas.train_update(stacked(batches(0, discrete=False)))
    for member, action in zip(replicas.algorithms, before, strict=True):
        assert not torch.equal(member.act(obs), action)


def test_a_stack_goes_on_where_it_was() -> None:
    make = CASES["IQL"].make
    whole, first = Replicas(make_members(make)), Replicas(make_members(make))
    whole.start(0, 8)
    first.start(0, 8)
    for update in range(4):
        for replicas in (whole, first):
            replicas.train_update(stacked(batches(update, discrete=False)))
    rest = Replicas(make_members(make))
    rest.load_state_dict(copy.deepcopy(first.state_dict()))
    for to, of in zip(rest.configure_optimizers(), first.configure_optimizers(), strict=True):
        to.load_state_dict(copy.deepcopy(of.state_dict()))
    rest.start(4, 8)
    for update in range(4, 8):
        for replicas in (whole, rest):
            replicas.train_update(stacked(batches(update, discrete=False)))
    held = rest.state_dict()
    assert all(torch.equal(value, held[key]) for key, value in whole.state_dict().items())


def test_a_members_checkpoint_is_a_copy_of_its_part() -> None:
    replicas = Replicas(make_members(CASES["IQL"].make))
    replicas.start(0, 8)
    replicas.train_update(stacked(batches(0, discrete=False)))
    checkpoint = {
        "state_dict": replicas.state_dict(),
        "optimizer_states": [o.state_dict() for o in replicas.configure_optimizers()],
        "callbacks": {"a": {}},
        "data": {"split_seed": 0, "seed": 3},
        "global_step": 1,
    }
    replicas.on_save_checkpoint(checkpoint)
    own = member_checkpoint(checkpoint, 2)
    assert (own["algorithm"]["seed"], own["data"]["seed"], own["callbacks"]) == (7, 7, {})
    assert own["global_step"] == 1
    member = replicas.algorithms[2]
    member.on_load_checkpoint(own)  # accepts it
    assert own["state_dict"].keys() == member.state_dict().keys()
    for key, value in member.state_dict().items():
        assert torch.equal(own["state_dict"][key], value)
        assert own["state_dict"][key].untyped_storage().nbytes() == value.nbytes
    for held, optimizer in zip(own["optimizer_states"], member.configure_optimizers(), strict=True):
        for i, state in optimizer.state_dict()["state"].items():
            assert torch.equal(held["state"][i]["exp_avg"], state["exp_avg"])


def test_each_replica_starts_as_a_run_of_its_seed() -> None:
    torch.manual_seed(5)
    replicas = replicate(IQL(OBS_DIM, ACTION_DIM, **SMALL, expectile=0.9), SEEDS)
    assert replicas.seeds == list(SEEDS)
    for seed, member in zip(SEEDS, replicas.algorithms, strict=True):
        torch.manual_seed(seed)
        own = IQL(OBS_DIM, ACTION_DIM, **SMALL)
        assert all(torch.equal(v, member.state_dict()[k]) for k, v in own.state_dict().items())
        assert (member.seed, member.hparams["expectile"]) == (seed, 0.9)


def test_the_interval_over_seeds_is_students() -> None:
    found = over_seeds("q", [1.0, 2.0, 6.0], [0, 1, 4])
    assert found["q"] == 3.0
    assert found["q/seed-4"] == 6.0
    assert found["q/ci95"] == pytest.approx(4.302653 * (7.0**0.5) / 3**0.5)
    assert over_seeds("q", [1.0], [0]) == {"q": 1.0, "q/seed-0": 1.0}


def test_an_update_that_cannot_be_recorded_is_refused() -> None:
    replicas = Replicas(make_members(lambda: ReadsItsNumber(OBS_DIM, ACTION_DIM, **SMALL)))
    replicas.start(0, 10)
    with pytest.raises(InputError, match=r"cannot be recorded .* train its seeds one after the"):
        replicas.train_update(stacked(batches(0, discrete=False)))


def test_dropout_and_equal_seeds_are_refused() -> None:
    replicas = Replicas(make_members(CASES["BC dropout"].make))
    with pytest.raises(InputError, match="Dropout draws noise of its own"):
        replicas.start(0, 10)
    member = BC(OBS_DIM, ACTION_DIM, **SMALL)
    with pytest.raises(InputError, match="seeds that differ"):
        Replicas([member, copy.deepcopy(member)])
