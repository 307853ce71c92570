"""Ensembles of networks as one batched network, or member by member."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = tuple[Tensor, ...]
"""Weight (n_in, n_out) and bias (1, n_out) of one member; then scale and shift of a layer norm."""


class EnsembleLinear(nn.Module):
    """Apply ``n`` linear layers at once.

    Args:
        n: Size of the ensemble.
        n_in: Input width.
        n_out: Output width.
        fan_in: Width that sets the initial range, if the layer sees only a part of the input.
        bias: Whether to add a bias.
    """

    def __init__(
        self, n: int, n_in: int, n_out: int, *, fan_in: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in or n_in)  # as nn.Linear
        self.weight = nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, n_out).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, B, n_in), or (B, n_in) shared by all members, to (n, B, n_out)."""
        if x.ndim == 2:
            x = x.expand(len(self.weight), *x.shape)
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)

    def members(self) -> list[Layer]:
        """Weight and bias of each member."""
        assert self.bias is not None
        return list(zip(self.weight.unbind(), self.bias.unbind(), strict=True))


class EnsembleLayerNorm(nn.Module):
    """Layer norm (Ba et al. 2016) of ``n`` members, each with its own scale and shift.

    Args:
        n: Size of the ensemble.
        width: Features H.
    """

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, 1, width))
        self.bias = nn.Parameter(torch.zeros(n, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, B, H) to (n, B, H)."""
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias

    def members(self) -> list[Layer]:
        """Scale and shift of each member, (H,) each."""
        scale, shift = self.weight.squeeze(1), self.bias.squeeze(1)
        return list(zip(scale.unbind(), shift.unbind(), strict=True))


def hidden_layer(x: Tensor, layer: Layer, relu_first: bool = False) -> Tensor:
    """Apply one member's hidden layer to rows (B, n_in): (B, n_out)."""
    return activation(torch.addmm(layer[1], x, layer[0]), layer, relu_first)


def activation(x: Tensor, layer: Layer, relu_first: bool) -> Tensor:
    """ReLU in place, and the layer norm if the layer has one."""
    if len(layer) == 2:
        return x.relu_()
    scale, shift = layer[2:]
    if relu_first:
        return F.layer_norm(x.relu_(), x.shape[-1:], scale, shift)
    return F.layer_norm(x, x.shape[-1:], scale, shift).relu_()


def member_mlp(x: Tensor, layers: Sequence[Layer], relu_first: bool = False) -> Tensor:
    """Apply one member's ReLU network to rows (B, n_in): (B, n_out)."""
    for layer in layers[:-1]:
        x = hidden_layer(x, layer, relu_first)
    weight, bias = layers[-1]
    if weight.shape[-1] == 1:
        return one_column(x, weight.squeeze(-1)).unsqueeze(-1) + bias
    return torch.addmm(bias, x, weight)


def one_column(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows (..., n_in) by a vector (n_in,): (...).

    A matrix product with one column costs several times as much.
    """
    return (x * weight).sum(-1)


class EnsembleMLP(nn.Module):
    """``n`` ReLU networks from (B, n_in) to (n, B, n_out).

    On a CPU the members run one after the other: its batched matrix products are slower, their
    gradients by half. A GPU runs all members in one product.

    Args:
        n: Size of the ensemble.
        n_in: Input width.
        hidden: Widths of the hidden layers.
        n_out: Output width.
        layer_norm: Whether hidden layers are normalized.
        relu_first: Whether that comes after their ReLU.
    """

    def __init__(
        self,
        n: int,
        n_in: int,
        hidden: Sequence[int],
        n_out: int,
        layer_norm: bool = False,
        relu_first: bool = False,
    ) -> None:
        super().__init__()
        self.relu_first = relu_first
        widths = [n_in, *hidden, n_out]
        self.layers = nn.ModuleList(EnsembleLinear(n, a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(EnsembleLayerNorm(n, w) for w in hidden if layer_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all members."""
        if x.is_cuda:
            return self.batched(x)
        return torch.stack([member_mlp(x, own, self.relu_first) for own in self.members()])

    def batched(self, x: Tensor) -> Tensor:
        """Apply all members in one product per layer; rows may be each member's, (n, B, n_in)."""
        for i, layer in enumerate(self.layers[:-1]):
            x = batched_activation(layer(x), self.norms[i] if self.norms else None, self.relu_first)
        last: nn.Module = self.layers[-1]
        return last(x)  # type: ignore[no-any-return]

    def members(self) -> list[tuple[Layer, ...]]:
        """Layers of each member."""
        layers: list[EnsembleLinear] = list(self.layers)  # type: ignore[arg-type]
        norms: list[EnsembleLayerNorm] = list(self.norms)  # type: ignore[arg-type]
        of_layers = [layer.members() for layer in layers]
        for i, norm in enumerate(norms):
            of_layers[i] = with_norm(of_layers[i], norm)
        return list(zip(*of_layers, strict=True))


def batched_activation(x: Tensor, norm: nn.Module | None, relu_first: bool) -> Tensor:
    """ReLU, and the layer norm if there is one, of all members (n, B, H)."""
    if norm is None:
        return F.relu(x)
    normalized: Tensor = norm(F.relu(x)) if relu_first else F.relu(norm(x))
    return normalized


def with_norm(layers: Sequence[Layer], norm: EnsembleLayerNorm) -> list[Layer]:
    """Put each member's layer norm behind its weight and bias."""
    return [(*layer, *own) for layer, own in zip(layers, norm.members(), strict=True)]
