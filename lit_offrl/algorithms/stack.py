"""Several seeds of one algorithm as one stack of parameters, updated at once."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from lit_offrl.adam import adam_states
from lit_offrl.algorithms.update_path import UpdatePath, numbers_of
from lit_offrl.batch import Batch
from lit_offrl.compiled import Draw, Tape
from lit_offrl.errors import InputError


class Stack:
    """S algorithms that differ in seed and parameters alone, as what can be compiled.

    From then on the members' parameters and optimizer states are views of the stacked ones: after
    each update a member is what its own run would have made of it, to rounding.

    Args:
        members: The algorithms, on their device.
        update_number: Updates done so far.
        max_updates: Updates of the run, -1 without end.

    Raises:
        InputError: If the members have dropout.
    """

    def __init__(self, members: Sequence[UpdatePath], update_number: int, max_updates: int) -> None:
        self._members = members
        self.template = copy.deepcopy(members[0])
        if any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.template.modules()):
            raise InputError("Dropout draws noise of its own: train its seeds one after the other.")
        self._update = _Update(self.template)
        own = [_named_tensors(member) for member in members]
        self._stacked = {name: _stack([o[name] for o in own]) for name in own[0]}
        names = {module: name for name, module in self.template.named_modules()}
        self.template._optimizers = {
            net: self._optimizer(i, f"{names[net]}.")
            for i, net in enumerate(self.template._optimizers)
        }
        self.template.start(update_number, max_updates)
        self._share_learning_rates()

    def _optimizer(self, i: int, prefix: str) -> Adam:
        """Stack the members' i-th optimizers, which are those of the net called ``prefix``."""
        own = [list(member._optimizers.values())[i] for member in self._members]
        parameters = [t for name, t in self._stacked.items() if name.startswith(prefix)]
        stacked = Adam(parameters, fused=True)
        options = {k: v for k, v in own[0].param_groups[0].items() if k != "params"}
        stacked.param_groups[0].update(options)
        for parameter, *states in zip(parameters, *map(adam_states, own), strict=True):
            stacked.state[parameter] = {
                "step": states[0]["step"],
                "exp_avg": _stack([state["exp_avg"] for state in states]),
                "exp_avg_sq": _stack([state["exp_avg_sq"] for state in states]),
            }
            for state in states:
                state["step"] = states[0]["step"]
        return stacked

    def _share_learning_rates(self) -> None:
        for member in self._members:
            pairs = zip(
                member._optimizers.values(), self.template._optimizers.values(), strict=True
            )
            for optimizer, stacked in pairs:
                optimizer.param_groups[0]["lr"] = stacked.param_groups[0]["lr"]

    def anneal(self) -> None:
        """Set the learning rates of the present update."""
        self.template.anneal()

    def count(self) -> None:
        """Go on to the next update."""
        self.template.update_number += 1

    # See `Compilable`. Every tensor of a batch has a leading axis S.

    def record(self, batch: Batch) -> Tape:
        """Run the update of a copy of the first member, and return what it asks for."""
        first = copy.deepcopy(self._members[0])
        first.update_number = self.template.update_number
        return first.on_tape(Tape(), batch.at(0))[0]

    def replay(self, batch: Batch, noise: list[Tensor]) -> dict[str, Tensor]:
        """Run all members' updates with given noise; metrics are (S,)."""

        def one(
            tensors: dict[str, Tensor], fields: list[Tensor], noise: list[Tensor]
        ) -> dict[str, Tensor]:
            own = batch.with_fields(fields)
            called: Any = torch.func.functional_call(self._update, tensors, (own, noise))
            return called  # type: ignore[no-any-return]

        tensors = {f"algorithm.{name}": t for name, t in self._stacked.items()}
        mapped: dict[str, Tensor] = torch.vmap(one)(tensors, batch.fields(), noise)
        return mapped

    def draw(self, draws: list[Draw]) -> list[Tensor]:
        """Draw each member's noise as its own run would, (S, ...)."""
        drawn = []
        for member in self._members:
            self.template.seed = member.seed
            drawn.append(self.template.draw(draws))
        return [torch.stack(noise) for noise in zip(*drawn, strict=True)]

    def tensors(self) -> list[Tensor]:
        """All stacked parameters, buffers and optimizer states."""
        return [*self._stacked.values(), *self.template.optimizer_tensors()]

    def is_due(self, period: int) -> bool:
        """Whether the present update is the last of ``period`` updates."""
        return self.template.is_due(period)

    def numbers(self) -> dict[str, Any]:
        """Plain numbers that the update may read; the seed is no part of them."""
        return numbers_of(self.template) | {"seed": None}


class _Update(nn.Module):
    """Makes an update what ``functional_call`` calls."""

    def __init__(self, algorithm: UpdatePath) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(self, batch: Batch, noise: list[Tensor]) -> dict[str, Tensor]:
        return self.algorithm.on_tape(Tape(iter(noise)), batch)[1]


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors, and make them views of the stack."""
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, view in zip(tensors, stacked.unbind(), strict=True):
        tensor.data = view
    return stacked.requires_grad_(tensors[0].requires_grad)
