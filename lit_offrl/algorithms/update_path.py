"""How an update runs: its optimizers, its randomness, its ranks, and whether it is compiled."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning import LightningModule
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce, wait_tensor
from torch.optim import Adam

from lit_offrl.adam import adam_states, fused_adam_step, rate_dtype, traced_adam_step
from lit_offrl.batch import Batch
from lit_offrl.compiled import CompiledUpdate, Draw, Tape
from lit_offrl.errors import InputError
from lit_offrl.rng import run_seed, seed_draws, stream_seed
from lit_offrl.stacking import whole

UPDATE_STREAM = 1  # stream 0 draws the batches
COMPILE_FROM = 20_000
"""Updates of a run from which compiling, some 20 s, pays for itself."""
PLAIN = (bool, int, float, str, tuple, type(None))


class UpdatePath(LightningModule):
    """What an algorithm's ``update`` is made with, and what runs it.

    Every draw of an update is a function of (seed, update number), and with several ranks each
    takes its rows of the global draw.
    """

    compile_update: bool | Literal["auto"] = "auto"
    """Whether updates run as one compiled graph; ``auto``: in runs of 20,000 updates or more."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = run_seed()
        self._update_number = 0
        self._optimizers: dict[nn.Module, Adam] = {}
        self._cosine_lr: dict[nn.Module, float] = {}
        self._max_updates = -1
        self._tape: Tape | None = None
        self._compiled: CompiledUpdate | None = None

    # What a subclass writes and calls.

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Do one gradient update of all networks and return what to log."""
        raise NotImplementedError

    def optimize(
        self, net: nn.Module, lr: float, *, eps: float = 1e-8, cosine: bool = False
    ) -> None:
        """Give ``net`` an Adam optimizer; with ``cosine``, lr falls to 0 over ``max_steps``."""
        if lr <= 0:
            raise InputError(f"A learning rate must be positive, not {lr}.")
        # Lightning moves parameters by .data, so optimizers may be made before that.
        self._optimizers[net] = Adam(net.parameters(), lr=lr, eps=eps, fused=True)
        if cosine:
            self._cosine_lr[net] = lr

    def minimize(self, loss: Tensor, net: nn.Module) -> None:
        """Take one Adam step on ``net`` alone: the only place that touches an optimizer."""
        optimizer = self._optimizers[net]
        loss = whole(loss)
        parameters = optimizer.param_groups[0]["params"]
        gradients = torch.autograd.grad(loss, parameters, torch.ones_like(loss))
        if self._world_size > 1:
            gradients = _mean_over_ranks(gradients)
        step = fused_adam_step if self._tape is None else traced_adam_step
        step(optimizer, gradients)

    def due(self, period: int) -> bool:
        """Whether this update is the last of ``period`` updates: what is done now and then."""
        if self._tape is not None:
            self._tape.periods[period] = self.is_due(period)
        return self.is_due(period)

    def randn(self, *shape: int) -> Tensor:
        """Draw this rank's rows of standard normal noise; the last axis but one is the batch.

        With a single axis there is no batch, and all ranks get the same.
        """
        return self._noise(torch.randn, shape)

    def rand(self, *shape: int) -> Tensor:
        """Draw noise from U[0, 1), as :meth:`randn` does."""
        return self._noise(torch.rand, shape)

    def batch_mean(self, values: Tensor) -> Tensor:
        """Mean over the global batch, (): what couples the rows of a batch must use it."""
        mean = values.mean()
        return _mean_over_ranks((mean,))[0] if self._world_size > 1 else mean

    def over_ranks(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean of each metric over ranks: theirs are means over their own rows."""
        if self._world_size == 1:
            return metrics
        return dict(zip(metrics, _mean_over_ranks(tuple(metrics.values())), strict=True))

    # What runs it.

    @property
    def update_number(self) -> int:
        """Updates done before the present one.

        Raises:
            InputError: In an update that is being compiled, where it would become a constant.
        """
        if self._tape is not None:
            raise InputError("`update_number` changes with every update: ask `due(period)`")
        return self._update_number

    @update_number.setter
    def update_number(self, value: int) -> None:
        self._update_number = value

    def start(self, update_number: int, max_updates: int) -> None:
        """Get ready for the updates from ``update_number`` on, of ``max_updates`` (-1: no end)."""
        self.update_number, self._max_updates = update_number, max_updates
        self._compiled = None
        for net, lr in self._cosine_lr.items():  # a number would be a constant of the graph
            group = self._optimizers[net].param_groups[0]
            dtype = rate_dtype(self.device.type)
            group["lr"] = torch.tensor(lr, dtype=dtype, device=self.device)
        if worth_compiling(self.compile_update, max_updates):
            self._compiled = CompiledUpdate(_OneUpdate(self), self.compile_update is True)

    def train_update(self, batch: Batch) -> dict[str, Tensor]:
        """Do the next update on this rank's rows (B, ...), and return what to log."""
        self.anneal()
        metrics = self._compiled(batch) if self._compiled is not None else None
        if metrics is None:
            self._compiled = None
            self._seed_draws()
            metrics = self.update(batch)
        self.update_number += 1
        return metrics

    def anneal(self) -> None:
        """Set ``lr (1 + cos(π update / max_steps)) / 2`` where it is asked for."""
        for net, lr in self._cosine_lr.items():
            if self._max_updates > 0:
                progress = self.update_number / self._max_updates
                group = self._optimizers[net].param_groups[0]
                group["lr"].fill_(lr * (1 + math.cos(math.pi * progress)) / 2)

    def take_over(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on with the optimizers' states of a checkpoint, at the present learning rates.

        Raises:
            InputError: If the checkpoint has other optimizers.
        """
        if len(states) != len(self._optimizers):
            raise InputError(
                f"The checkpoint has {len(states)} optimizers, {type(self).__name__} now has "
                f"{len(self._optimizers)}: leave what is learned as it was trained."
            )
        for optimizer, state in zip(self._optimizers.values(), states, strict=True):
            rates = [group["lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def optimizer_tensors(self) -> list[Tensor]:
        """State of all optimizers, and the learning rates that are annealed."""
        found: list[Tensor] = []
        for net, optimizer in self._optimizers.items():
            for state in adam_states(optimizer):
                found += state.values()
            if net in self._cosine_lr:
                found.append(optimizer.param_groups[0]["lr"])
        return found

    def is_due(self, period: int) -> bool:
        """Whether the present update is the last of ``period`` updates."""
        return (self._update_number + 1) % period == 0

    def on_tape(self, tape: Tape, batch: Batch) -> tuple[Tape, dict[str, Tensor]]:
        """Run the update with what a tape gives, or noting down on it what is asked for."""
        self._tape = tape
        try:
            return tape, self.update(batch)
        finally:
            self._tape = None

    def draw(self, draws: list[Draw]) -> list[Tensor]:
        """Draw what the present update would, in its order."""
        self._seed_draws()
        return [self._rows(draw, shape) for draw, shape in draws]

    def _seed_draws(self) -> None:
        seed_draws(stream_seed(self.seed, self._update_number, UPDATE_STREAM), self.device)

    def _noise(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        if self._tape is None:
            return self._rows(draw, shape)
        if self._tape.noise is not None:
            return next(self._tape.noise)
        self._tape.draws.append((draw, shape))
        return self._rows(draw, shape)

    def _rows(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1 or self._world_size == 1 or not self.training:
            return draw(shape, device=self.device)  # evaluation has rows of its own
        *lead, rows, width = shape
        noise = draw((*lead, rows * self._world_size, width), device=self.device)
        return noise.narrow(-2, dist.get_rank() * rows, rows)

    @property
    def _world_size(self) -> int:
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _OneUpdate:
    """An algorithm's update as what can be compiled, see `Compilable`."""

    def __init__(self, algorithm: UpdatePath) -> None:
        self._algorithm = algorithm
        self._held = [*algorithm.parameters(), *algorithm.buffers()]
        self.draw, self.is_due = algorithm.draw, algorithm.is_due

    def record(self, batch: Batch) -> Tape:
        """Run the update, and return what it asks for."""
        return self._algorithm.on_tape(Tape(), batch)[0]

    def replay(self, batch: Batch, noise: list[Tensor]) -> dict[str, Tensor]:
        """Run the update with given noise."""
        return self._algorithm.on_tape(Tape(iter(noise)), batch)[1]

    def tensors(self) -> list[Tensor]:
        """Parameters, buffers, the optimizers' state and annealed learning rates."""
        return self._held + self._algorithm.optimizer_tensors()

    def numbers(self) -> dict[str, Any]:
        """Plain numbers that the update may read."""
        return numbers_of(self._algorithm)


def worth_compiling(choice: bool | Literal["auto"], max_updates: int) -> bool:
    """Whether a run compiles its updates: as chosen, or if it has enough of them (-1: no end)."""
    return not 0 <= max_updates < COMPILE_FROM if choice == "auto" else choice


def numbers_of(algorithm: UpdatePath) -> dict[str, Any]:
    """An algorithm's own public numbers, names and tuples."""
    return {
        name: value
        for name, value in vars(algorithm).items()
        if type(value) in PLAIN and not name.startswith("_")
    }


def _mean_over_ranks(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Average tensors over ranks with one flat all-reduce, which a compiled update can hold."""
    flat = torch.cat([t.detach().flatten() for t in tensors])
    total = _sum_over_ranks(flat)
    parts = torch.split(total / dist.get_world_size(), [t.numel() for t in tensors])
    return tuple(part.view_as(t) for part, t in zip(parts, tensors, strict=True))


def _sum_over_ranks(values: Tensor) -> Tensor:
    """Sum over ranks, in a form that a recording shows."""
    assert dist.group.WORLD is not None
    total: Tensor = wait_tensor(all_reduce(values, "sum", dist.group.WORLD))  # type: ignore[no-untyped-call]
    return total
