"""A whole gradient update as one compiled graph: losses, gradients, Adam and target networks.

The update runs once while its operations are recorded (``make_fx``); the recording is compiled.
What a recording cannot see must not change behind its back: noise is drawn beforehand and handed
in, and a graph is used only while the periods and plain numbers that it was recorded with hold.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._inductor import compile as compile_graph
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from lit_offrl.rng import seeded

_log = logging.getLogger(__name__)
MAX_GRAPHS = 8
"""Graphs of one algorithm; one that asks for more changes its numbers all the time."""


def _add_product(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return (torch.mm(x, weight)[None] + bias)[0]  # a plain sum Inductor would put together again


SPLIT = {torch.ops.aten.addmm.default: _add_product}
"""What is recorded in parts: a bias is added for nothing together with the ReLU that follows."""

OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Inductor's options: what is random, as dropout, draws as it does uncompiled."""

ON_CPU: dict[str, Any] = {"cpp_wrapper": True, "size_asserts": False}
"""More of them: the calls of a graph are C++ too, and its inputs are always the same tensors."""

Draw = tuple[Callable[..., Tensor], tuple[int, ...]]
"""``torch.randn`` or ``torch.rand``, and a shape."""


class Tape:
    """What an update asks for beside its batch.

    Args:
        noise: What draws return, in order; None notes down what is asked for instead.
    """

    def __init__(self, noise: Iterator[Tensor] | None = None) -> None:
        self.noise = noise
        self.draws: list[Draw] = []
        self.periods: dict[int, bool] = {}


class Compilable(Protocol):
    """An update that can be recorded: one algorithm's, or that of stacked replicas."""

    def record(self, batch: Batch) -> Tape:
        """Run the update, and return what it asks for."""

    def replay(self, batch: Batch, noise: list[Tensor]) -> dict[str, Tensor]:
        """Run the update with given noise."""

    def draw(self, draws: list[Draw]) -> list[Tensor]:
        """Draw the noise of the present update."""

    def tensors(self) -> list[Tensor]:
        """All that the update reads or writes, but batch and noise."""

    def is_due(self, period: int) -> bool:
        """Whether the present update is the last of ``period`` updates."""

    def numbers(self) -> dict[str, Any]:
        """Plain numbers that the update may read."""


class Graph(NamedTuple):
    """One compiled recording, and what must hold for it.

    Args:
        run: Maps a flat list of tensors to the metrics' values.
        names: Names of the metrics.
        draws: Noise to hand in.
        periods: Whether an update is due, per period asked for.
        numbers: Plain numbers of the algorithm.
        shapes: Shapes of the batch's fields.
    """

    run: Callable[..., Any]
    names: list[str]
    draws: list[Draw]
    periods: dict[int, bool]
    numbers: dict[str, Any]
    shapes: list[torch.Size]


class CompiledUpdate:
    """Runs an update as compiled graphs, made when first needed.

    Args:
        update: What is compiled.
        required: Raise if it cannot be compiled; else say so and leave it to the caller.
        compiles: Compile what was recorded; else run it as it was recorded.
    """

    def __init__(self, update: Compilable, required: bool, compiles: bool = True) -> None:
        self._update, self._required, self._compiles = update, required, compiles
        self.graphs: list[Graph] = []
        self.runs = 0

    def __call__(self, batch: Batch) -> dict[str, Tensor] | None:
        """Do one update and return its metrics; None, with nothing done, if it cannot compile.

        Raises:
            InputError: If it cannot compile and is required to.
        """
        numbers = self._update.numbers()
        shapes = [field.shape for field in batch.fields()]
        graph = next((g for g in self.graphs if self._fits(g, numbers, shapes)), None)
        if graph is None:
            try:
                graph = self._compile(batch, numbers, shapes)
            except Exception as error:
                self._refuse(error)
                return None
            self.graphs.append(graph)
        noise = self._update.draw(graph.draws)
        with torch.no_grad():
            values = graph.run(*batch.fields(), *noise, *self._update.tensors())
        self.runs += 1
        return dict(zip(graph.names, values, strict=True))

    def _fits(self, graph: Graph, numbers: dict[str, Any], shapes: list[torch.Size]) -> bool:
        return (
            graph.numbers == numbers
            and graph.shapes == shapes
            and all(self._update.is_due(p) == due for p, due in graph.periods.items())
        )

    def _compile(self, batch: Batch, numbers: dict[str, Any], shapes: list[torch.Size]) -> Graph:
        if len(self.graphs) >= MAX_GRAPHS:
            raise InputError(
                f"its numbers or shapes changed {MAX_GRAPHS} times, and each change compiles anew"
            )
        start = time.monotonic()
        names: list[str] = []
        tape, recorded, inputs = self._record(batch, names)
        if not self._compiles:
            return Graph(recorded, names, tape.draws, tape.periods, numbers, shapes)
        _log.info("Compiling the update, which takes some 20 s.")
        run = _compiled(recorded, inputs, self._update.tensors())
        _log.info("Compiled in %.0f s.", time.monotonic() - start)
        return Graph(run, names, tape.draws, tape.periods, numbers, shapes)

    def _record(self, batch: Batch, names: list[str]) -> tuple[Tape, GraphModule, list[Tensor]]:
        """Record the operations of one update, and leave all tensors as they were."""
        tensors = self._update.tensors()
        before = [tensor.detach().clone() for tensor in tensors]
        fields = batch.fields()

        def update(*inputs: Tensor) -> list[Tensor]:
            rest = inputs[len(fields) :]
            again = batch.with_fields(inputs[: len(fields)])
            metrics = self._update.replay(again, list(rest[: len(noise)]))
            names.extend(metrics)
            return list(metrics.values())

        try:
            with seeded(0):  # of no consequence
                tape = self._update.record(batch)
                noise = self._update.draw(tape.draws)
                inputs = [*fields, *noise, *tensors]
                return tape, make_fx(update, decomposition_table=SPLIT)(*inputs), inputs
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)

    def _refuse(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if self._required:
            advice = "leave `compile` at auto or false"
            if not self._compiles:
                advice = "train its seeds one after the other"
            done = "compiled" if self._compiles else "recorded"
            raise InputError(f"The update cannot be {done} ({reason}): {advice}.") from error
        _log.warning("The update runs uncompiled, more slowly: %s", reason)


def mark_static(tensors: list[Tensor]) -> None:
    """Tell CUDA graphs that tensors stay where they are: they let no others be written in place."""
    for tensor in tensors:
        torch._dynamo.mark_static_address(tensor)


def _compiled(
    recorded: GraphModule, inputs: list[Tensor], kept: list[Tensor]
) -> Callable[..., Any]:
    """Compile a recording, which works in place on those of its inputs that are kept."""
    for node in recorded.graph.nodes:
        node.meta.clear()  # each has fake tensors of a mode of its own
    with torch.no_grad():
        if inputs[-1].is_cuda:
            mark_static(kept)
            return torch.compile(
                recorded,
                fullgraph=True,
                dynamic=False,
                options={**OPTIONS, "triton.cudagraphs": True},
            )
        # Straight to the compiler: checking a hundred inputs again costs a tenth of an update.
        compiled: Callable[..., Any] = compile_graph(
            recorded, list(inputs), options={**OPTIONS, **ON_CPU}
        )
        return compiled
