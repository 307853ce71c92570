"""A compiled update is the update as it is written, to rounding."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._guards import TracingContext
from torch.fx import GraphModule
from torch.optim import Adam

from lit_offrl import compiled
from lit_offrl.adam import adam_states, rate_dtype, step_dtype
from lit_offrl.algorithms import (
    AWAC,
    BC,
    BCQ,
    CQL,
    DQN,
    IQL,
    RLPD,
    TD3BC,
    CalQL,
    DiscreteBCQ,
    DiscreteCalQL,
    DiscreteCQL,
    DiscreteIQL,
    OfflineAlgorithm,
    ReBRAC,
)
from lit_offrl.batch import Batch
from lit_offrl.compiled import CompiledUpdate, Draw, Tape
from lit_offrl.errors import InputError
from tests.algorithms.helpers import ACTION_DIM, N_ACTIONS, OBS_DIM, random_batch, snapshot

SMALL: dict[str, Any] = {"hidden": (16, 16)}
BOX = (OBS_DIM, ACTION_DIM)
DISCRETE = (OBS_DIM, N_ACTIONS)
UPDATES = 50
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "multinomial", "unique")


@dataclasses.dataclass
class Case:
    """An algorithm, and how many graphs its updates take."""

    make: Callable[..., OfflineAlgorithm]
    discrete: bool = False
    graphs: int = 1


CASES = {
    "BC": Case(partial(BC, *BOX, **SMALL)),
    "BC tanh_gaussian": Case(partial(BC, *BOX, policy="tanh_gaussian", **SMALL)),
    "BC deterministic": Case(partial(BC, *BOX, policy="deterministic", **SMALL)),
    "BC categorical": Case(
        partial(BC, *DISCRETE, policy="categorical", logit_penalty=0.1, **SMALL), discrete=True
    ),
    "BC dropout": Case(partial(BC, *BOX, dropout=0.2, **SMALL)),
    "IQL": Case(partial(IQL, *BOX, **SMALL)),
    "TD3BC": Case(partial(TD3BC, *BOX, **SMALL), graphs=2),
    "CQL": Case(partial(CQL, *BOX, **SMALL, critic_hidden=(16, 16), n_actions=3)),
    "CQL of all options": Case(
        partial(
            CQL,
            *BOX,
            **SMALL,
            critic_hidden=(16, 16),
            n_actions=3,
            lagrange_gap=1.0,
            max_target_backup=True,
            penalty_prior="behavior",
            policy_regularizer="kl",
        )
    ),
    "BCQ": Case(partial(BCQ, *BOX, **SMALL, vae_hidden=(16, 16), n_actions=3)),
    "DQN": Case(partial(DQN, *DISCRETE, **SMALL, double=True, target_period=3), True, graphs=2),
    "DiscreteCQL": Case(partial(DiscreteCQL, *DISCRETE, **SMALL), discrete=True),
    "DiscreteCQL quantiles": Case(
        partial(DiscreteCQL, *DISCRETE, **SMALL, n_quantiles=5, backup="soft_pi"), discrete=True
    ),
    "DiscreteIQL": Case(partial(DiscreteIQL, *DISCRETE, **SMALL), discrete=True),
    "DiscreteBCQ": Case(partial(DiscreteBCQ, *DISCRETE, **SMALL), discrete=True),
    "RLPD": Case(partial(RLPD, *BOX, **SMALL, critic_hidden=(16, 16), n_critics=3)),
}
MORE = {
    "AWAC": Case(partial(AWAC, *BOX, **SMALL)),
    "AWAC softmax": Case(partial(AWAC, *BOX, normalize="batch_softmax", **SMALL)),
    "CalQL": Case(partial(CalQL, *BOX, **SMALL, critic_hidden=(16, 16), n_actions=3)),
    "ReBRAC": Case(partial(ReBRAC, *BOX, **SMALL, critic_hidden=(16, 16))),
    "DiscreteCalQL": Case(partial(DiscreteCalQL, *DISCRETE, **SMALL), discrete=True),
}
"""Not compiled in tests, which takes long: they are made of the same parts."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def train(
    case: Case, compile_update: bool, dtype: torch.dtype, updates: int = UPDATES
) -> tuple[OfflineAlgorithm, list[dict[str, Tensor]]]:
    """Train an algorithm through its update path, and return it and what it logged."""
    with default_dtype(dtype):
        torch.manual_seed(0)
        algorithm = case.make().to(dtype)
        algorithm.compile_update = compile_update
        algorithm.start(0, updates)
        torch.manual_seed(int(compile_update))  # must not matter
        logged = []
        for update in range(updates):
            batch = random_batch(update, discrete=case.discrete)
            cast = (f.to(dtype) if f is not None and f.is_floating_point() else f for f in batch)
            metrics = algorithm.train_update(Batch._make(cast))
            logged.append({name: value.clone() for name, value in metrics.items()})
        return algorithm, logged


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_fifty_compiled_updates_equal_fifty_eager_ones(name: str) -> None:
    case = CASES[name]
    eager, eager_logged = train(case, False, torch.float64)
    fast, fast_logged = train(case, True, torch.float64)
    torch.manual_seed(0)
    start = snapshot(case.make())

    # the graphs ran, for every update, and all that learns has moved
    assert fast._compiled is not None and eager._compiled is None
    assert (fast._compiled.runs, len(fast._compiled.graphs)) == (UPDATES, case.graphs)
    nets = {net for net, module in fast.named_children() if list(module.parameters())}
    changed = {k.partition(".")[0] for k, v in snapshot(fast).items() if (v != start[k]).any()}
    assert changed >= nets - {"log_multiplier"}

    held = snapshot(fast)
    for key, value in snapshot(eager).items():
        assert (value - held[key]).abs().max() < 1e-8, key
    for i, (one, other) in enumerate(zip(eager_logged, fast_logged, strict=True)):
        assert list(one) == list(other)
        assert all((one[key] - other[key]).abs() < 1e-8 for key in one), i
    optimizers = zip(eager._optimizers.values(), fast._optimizers.values(), strict=True)
    for adam, fast_adam in optimizers:
        for a, b in zip(adam.state.values(), fast_adam.state.values(), strict=True):
            assert all((a[key] - b[key]).abs().max() < 1e-8 for key in a)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IQL", "CQL"])
def test_in_float32_the_losses_agree(name: str) -> None:
    _, eager = train(CASES[name], False, torch.float32)
    _, fast = train(CASES[name], True, torch.float32)
    for one, other in zip(eager, fast, strict=True):
        for key in one:
            if key.startswith("loss/"):
                assert other[key] == pytest.approx(one[key].item(), rel=1e-3, abs=1e-6)


# What a recording cannot see. Compiling is left out: the recording itself runs.


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_compiled", lambda recorded, inputs, kept: recorded)


def start(algorithm: OfflineAlgorithm, compile_update: bool | str = True) -> CompiledUpdate:
    algorithm.double().compile_update = compile_update  # type: ignore[assignment]
    algorithm.start(0, 1_000)
    assert algorithm._compiled is not None
    return algorithm._compiled


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", CASES)
def test_a_recording_is_the_update_and_never_waits_for_the_device(name: str) -> None:
    """What reads a value back from the device would break a CUDA graph."""
    case = CASES[name]
    eager, eager_logged = train(case, False, torch.float64, updates=3)
    recorded, recorded_logged = train(case, True, torch.float64, updates=3)
    held = snapshot(recorded)
    assert all((v - held[k]).abs().max() < 1e-10 for k, v in snapshot(eager).items())
    for one, other in zip(eager_logged, recorded_logged, strict=True):
        assert all((one[key] - other[key]).abs() < 1e-10 for key in one)

    assert recorded._compiled is not None
    for graph in recorded._compiled.graphs:
        assert isinstance(graph.run, GraphModule)
        operations = [str(node.target) for node in graph.run.graph.nodes]
        assert len(operations) > 50
        assert not [op for op in operations if any(wait in op for wait in WAITS)]


def test_what_a_recording_writes_is_known_to_stay_where_it_is() -> None:
    """Where it is not, CUDA graphs are left out without a word."""
    update = start(BC(*BOX, **SMALL))._update
    recorded, inputs = CompiledUpdate(update, True)._record(random_batch(0), [])[1:]
    for node in recorded.graph.nodes:
        node.meta.clear()
    seen: list[tuple[set[int], set[int]]] = []

    def look(graph: GraphModule, example_inputs: Any) -> Any:
        metadata = TracingContext.get().fw_metadata
        assert metadata is not None
        written = [i for i, info in enumerate(metadata.input_info) if info.mutates_data]
        seen.append((set(written), set(metadata.static_input_indices)))
        return graph.forward

    compiled.mark_static(update.tensors())
    backend = aot_autograd(fw_compiler=look)
    with torch.no_grad():
        torch.compile(recorded, backend=backend, fullgraph=True, dynamic=False)(*inputs)
    ((written, static),) = seen
    assert len(written) > 10
    assert written <= static


@pytest.mark.parametrize("device_type", ["cuda", "meta"])
def test_off_the_cpu_fused_adam_gets_the_float32_that_it_reads(device_type: str) -> None:
    net = torch.nn.Linear(1, 1, dtype=torch.float64, device="meta")
    with default_dtype(torch.float64):
        assert rate_dtype(device_type) == step_dtype(device_type) == torch.float32
        assert rate_dtype("cpu") == step_dtype("cpu") == torch.float64
        states = adam_states(Adam(net.parameters()))
    assert {(s["step"].dtype, s["exp_avg"].dtype) for s in states} == {
        (torch.float32, torch.float64)
    }


@pytest.mark.usefixtures("uncompiled")
def test_recording_changes_nothing_and_draws_nothing() -> None:
    algorithm = CASES["CQL of all options"].make()
    update = start(algorithm)
    before = [t.clone() for t in update._update.tensors()]
    rng = torch.get_rng_state()
    update._record(random_batch(0), [])
    assert torch.equal(rng, torch.get_rng_state())
    for value, tensor in zip(before, update._update.tensors(), strict=True):
        assert torch.equal(value, tensor)


@pytest.mark.usefixtures("uncompiled")
def test_a_changed_number_is_seen() -> None:
    algorithm = TD3BC(*BOX, **SMALL)
    update = start(algorithm)
    algorithm.train_update(random_batch(0))
    algorithm.train_update(random_batch(1))
    assert len(update.graphs) == 2  # with and without the policy
    algorithm.bc_alpha = 0.0
    algorithm.train_update(random_batch(2))
    metrics = algorithm.train_update(random_batch(3))
    assert len(update.graphs) == 4
    assert metrics["loss/policy"] == metrics["loss/bc"]


@pytest.mark.usefixtures("uncompiled")
def test_a_batch_of_another_shape_is_seen() -> None:
    algorithm = BC(*BOX, **SMALL)
    update = start(algorithm)
    for rows in (8, 4, 8):
        algorithm.train_update(random_batch(0, size=rows))
    assert [graph.shapes[0][0] for graph in update.graphs] == [8, 4]


class ReadsItsNumber(BC):
    """Does what a graph cannot follow."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        if self.update_number % 2:
            return {}
        return super().update(batch)


@pytest.mark.usefixtures("uncompiled")
def test_an_update_that_reads_its_number_is_refused_or_runs_as_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    algorithm = ReadsItsNumber(*BOX, **SMALL)
    start(algorithm)
    with pytest.raises(InputError, match=r"cannot be compiled .*ask `due\(period\)`"):
        algorithm.train_update(random_batch(0))
    assert algorithm.update_number == 0

    algorithm.compile_update = "auto"
    algorithm.start(0, -1)
    assert set(algorithm.train_update(random_batch(0))) == {"loss/policy"}
    assert algorithm.train_update(random_batch(1)) == {}
    (record,) = caplog.records
    assert "runs uncompiled" in record.message


@pytest.mark.usefixtures("uncompiled")
def test_numbers_that_never_settle_are_not_compiled_for_ever() -> None:
    algorithm = BC(*BOX, **SMALL).double()
    algorithm.compile_update = "auto"
    algorithm.start(0, -1)
    for i in range(compiled.MAX_GRAPHS + 2):
        algorithm.logit_penalty = float(i)
        algorithm.train_update(random_batch(i))
    assert algorithm._compiled is None


@pytest.mark.parametrize(
    ("choice", "updates", "compiles"),
    [
        ("auto", 19_999, False),
        ("auto", 20_000, True),
        ("auto", -1, True),
        (True, 1, True),
        (False, -1, False),
    ],
)
def test_auto_compiles_long_runs(choice: bool | str, updates: int, compiles: bool) -> None:
    algorithm = BC(*BOX, **SMALL)
    algorithm.compile_update = choice  # type: ignore[assignment]
    algorithm.start(0, updates)
    assert (algorithm._compiled is not None) == compiles


def test_a_tape_notes_what_is_asked_for() -> None:
    algorithm = TD3BC(*BOX, **SMALL)
    update = start(algorithm)
    tape: Tape = update._update.record(random_batch(0))
    draw: Draw = (torch.randn, tuple(random_batch(0).action.shape))
    assert (tape.draws, tape.periods) == ([draw], {2: False})
