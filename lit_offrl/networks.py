"""Networks that the algorithms are made of; an ensemble is one batched network."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class EnsembleMLP(nn.Module):
    """``n`` ReLU networks from (B, n_in), or from (n, B, n_in), to (n, B, n_out)."""

    def __init__(self, n: int, n_in: int, hidden: Sequence[int], n_out: int) -> None:
        super().__init__()
        widths = [n_in, *hidden, n_out]
        self.layers = nn.ModuleList(EnsembleLinear(n, a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Apply all members."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]


class MLP(nn.Sequential):
    """ReLU network (..., n_in) to (..., n_out), with optional dropout after each hidden layer."""

    def __init__(self, n_in: int, hidden: Sequence[int], n_out: int, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(n_in, width), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            n_in = width
        super().__init__(*layers, nn.Linear(n_in, n_out))


class ValueNetwork(nn.Module):
    """State value V(s)."""

    def __init__(self, obs_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = MLP(obs_dim, hidden, 1)

    def forward(self, obs: Tensor) -> Tensor:
        """Map obs (..., O) to values (...)."""
        return self.net(obs).squeeze(-1)  # type: ignore[no-any-return]


class QNetwork(nn.Module):
    """Ensemble of action values Q_j(s, a) of Box actions.

    The first layer is split in an observation and an action part, so that many actions at one
    observation share the former.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        n_critics: Size n of the ensemble.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, hidden: Sequence[int], n_critics: int
    ) -> None:
        super().__init__()
        fan_in = obs_dim + action_dim
        self.obs_layer = EnsembleLinear(n_critics, obs_dim, hidden[0], fan_in=fan_in)
        self.action_layer = EnsembleLinear(
            n_critics, action_dim, hidden[0], fan_in=fan_in, bias=False
        )
        self.trunk = EnsembleMLP(n_critics, hidden[0], hidden[1:], 1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Map obs (B, O) and actions (..., B, A) to values (n, ..., B)."""
        from_obs = self.obs_layer(obs)  # (n, B, H)
        from_action = self.action_layer(action.reshape(-1, action.shape[-1]))  # (n, ...B, H)
        if from_action.shape != from_obs.shape:
            from_obs = from_obs.unsqueeze(1)
            from_action = from_action.unflatten(1, (-1, len(obs)))
        h = F.relu(from_obs + from_action).reshape(len(from_obs), -1, from_obs.shape[-1])
        return self.trunk(h).reshape(len(h), *action.shape[:-1])  # type: ignore[no-any-return]


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
        obs_dim: int,
        n_actions: int,
        hidden: Sequence[int],
        n_critics: int,
        n_quantiles: int = 1,
    ) -> None:
        super().__init__()
        self.n_actions, self.n_quantiles = n_actions, n_quantiles
        self.net = EnsembleMLP(n_critics, obs_dim, hidden, n_actions * n_quantiles)

    def quantiles(self, obs: Tensor) -> Tensor:
        """Map obs (B, O) to quantiles of the return of each action, (n, B, A, M)."""
        return self.net(obs).unflatten(-1, (self.n_actions, self.n_quantiles))  # type: ignore[no-any-return]

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
