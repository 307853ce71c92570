"""Networks that the algorithms are made of."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lit_offrl.encoders import ObsDim, encoder_of
from lit_offrl.ensembles import (
    EnsembleLayerNorm,
    EnsembleLinear,
    EnsembleMLP,
    Layer,
    activation,
    batched_activation,
    member_mlp,
    one_column,
    with_norm,
)
from lit_offrl.ranges import check_widths

CPU_ROWS = 2048
"""Rows whose activations stay in a CPU's cache."""


class BatchDropout(nn.Dropout):
    """Dropout whose mask on several ranks is this rank's rows of the global batch's mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop and rescale entries of x (B, H) while training."""
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if ranks == 1 or not self.training:
            return super().forward(x)
        mask = F.dropout(x.new_ones(ranks * len(x), *x.shape[1:]), self.p)  # (ranks * B, H)
        return x * mask.narrow(0, dist.get_rank() * len(x), len(x))


class MLP(nn.Sequential):
    """ReLU network (..., n_in) to (..., n_out), with optional dropout after each hidden layer."""

    def __init__(self, n_in: int, hidden: Sequence[int], n_out: int, dropout: float = 0.0) -> None:
        check_widths(hidden)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(n_in, width), nn.ReLU()]
            if dropout > 0:
                layers.append(BatchDropout(dropout))
            n_in = width
        super().__init__(*layers, nn.Linear(n_in, n_out))


class ValueNetwork(nn.Module):
    """State value V(s)."""

    def __init__(self, obs_dim: ObsDim, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder, n_in = encoder_of(obs_dim)
        self.net = MLP(n_in, hidden, 1)

    def forward(self, obs: Tensor) -> Tensor:
        """Map obs (..., O) to values (...)."""
        layers = list(self.net)
        last: nn.Linear = layers.pop()  # type: ignore[assignment]
        h = self.encoder(obs)
        for layer in layers:
            h = layer(h)
        return one_column(h, last.weight.squeeze(0)) + last.bias


class QNetwork(nn.Module):
    """Ensemble of action values Q_j(s, a) of Box actions.

    The first layer is split in an observation and an action part, so that many actions at one
    observation share the former.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        n_critics: Size n of the ensemble.
        layer_norm: Whether hidden layers are normalized.
        relu_first: Whether that comes after their ReLU.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        hidden: Sequence[int],
        n_critics: int,
        layer_norm: bool = False,
        relu_first: bool = False,
    ) -> None:
        super().__init__()
        check_widths(hidden, least=1)
        self.encoder, n_in = encoder_of(obs_dim)
        fan_in = n_in + action_dim
        self.obs_layer = EnsembleLinear(n_critics, n_in, hidden[0], fan_in=fan_in)
        self.action_layer = EnsembleLinear(
            n_critics, action_dim, hidden[0], fan_in=fan_in, bias=False
        )
        self.norm = EnsembleLayerNorm(n_critics, hidden[0]) if layer_norm else None
        self.trunk = EnsembleMLP(n_critics, hidden[0], hidden[1:], 1, layer_norm, relu_first)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Map obs (B, O) and actions (..., B, A) to values (n, ..., B)."""
        rows = action.reshape(-1, len(obs), action.shape[-1])  # (N, B, A)
        obs = self.encoder(obs)
        q = self.batched(obs, rows) if obs.is_cuda else self._one_by_one(obs, rows)
        return q.reshape(len(q), *action.shape[:-1])

    def batched(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of all members at once, (n, N * B)."""
        from_obs = self.obs_layer(obs).unsqueeze(1)  # (n, 1, B, H)
        from_action = self.action_layer(action.flatten(0, 1)).unflatten(1, action.shape[:2])
        h = (from_obs + from_action).flatten(1, 2)  # (n, N * B, H)
        h = batched_activation(h, self.norm, self.trunk.relu_first)
        return self.trunk.batched(h).squeeze(-1)

    def members(self) -> list[tuple[Layer, ...]]:
        """Layers of each member, the first of which takes rows of obs and action (B, O + A)."""
        weight = torch.cat([self.obs_layer.weight, self.action_layer.weight], 1)
        biases = [bias for _, bias in self.obs_layer.members()]
        first: list[Layer] = list(zip(weight.unbind(), biases, strict=True))
        if self.norm is not None:
            first = with_norm(first, self.norm)
        return [(one, *rest) for one, rest in zip(first, self.trunk.members(), strict=True)]

    def _one_by_one(self, obs: Tensor, action: Tensor) -> Tensor:
        """The same, one member and :data:`CPU_ROWS` rows at a time, (n, N * B)."""
        members, relu_first = self.members(), self.trunk.relu_first
        if len(action) == 1:  # one product instead of two
            x = torch.cat([obs, action[0]], -1)  # (B, O + A)
            q = [member_mlp(x, layers, relu_first) for layers in members]
            return torch.cat(q).view(len(members), -1)
        chunks = torch.split(action, max(1, CPU_ROWS // len(obs)))
        values = []
        for first, *layers in members:
            obs_weight, action_weight = torch.split(first[0], [obs.shape[1], action.shape[-1]])
            from_obs = torch.addmm(first[1], obs, obs_weight)  # (B, H)
            for chunk in chunks:
                h = _add_product(from_obs, chunk, action_weight)  # (N * B, H)
                values.append(member_mlp(activation(h, first, relu_first), layers, relu_first))
        return torch.cat(values).view(len(members), -1)


def _add_product(x: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """``x + rows @ weight`` for x (B, H) and rows (N, B, A): (N * B, H)."""
    product = torch.mm(rows.flatten(0, 1), weight)
    return (product.view(len(rows), *x.shape) + x).flatten(0, 1)


class DiscreteQNetwork(nn.Module):
    """Ensemble of action values Q_j(s, ·), as quantiles of the return.

    Args:
        obs_dim: O.
        n_actions: Number of actions A.
        hidden: Widths of the hidden layers.
        n_critics: Size n of the ensemble.
        n_quantiles: Quantiles M per action; 1 is an ordinary value head.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        n_actions: int,
        hidden: Sequence[int],
        n_critics: int,
        n_quantiles: int = 1,
    ) -> None:
        super().__init__()
        check_widths(hidden)
        self.n_actions, self.n_quantiles = n_actions, n_quantiles
        self.encoder, n_in = encoder_of(obs_dim)
        self.net = EnsembleMLP(n_critics, n_in, hidden, n_actions * n_quantiles)

    def quantiles(self, obs: Tensor) -> Tensor:
        """Map obs (B, O) to quantiles of the return of each action, (n, B, A, M)."""
        return self.net(self.encoder(obs)).unflatten(-1, (self.n_actions, self.n_quantiles))  # type: ignore[no-any-return]

    def forward(self, obs: Tensor) -> Tensor:
        """Map obs (B, O) to values (n, B, A): the means of the quantiles."""
        return self.quantiles(obs).mean(-1)


class Scalar(nn.Module):
    """A learned number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self) -> Tensor:
        """Return the number, ()."""
        return self.value


def orthogonal_(net: nn.Module, last_gain: float = 1e-2) -> None:
    """Initialize all layers orthogonally, gain √2 and ``last_gain`` for the last; in place."""
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | EnsembleLinear)]
    for i, layer in enumerate(layers):
        gain = last_gain if i == len(layers) - 1 else math.sqrt(2)
        matrices = [layer.weight] if isinstance(layer, nn.Linear) else list(layer.weight)
        for matrix in matrices:
            nn.init.orthogonal_(matrix, gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
