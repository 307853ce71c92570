"""Action distributions and the policy networks that make them.

Box actions are in [-1, 1]. A distribution answers as ``torch.distributions`` does: ``log_prob``
sums over action dimensions, ``sample`` and ``rsample`` draw, ``mode`` is the greedy action.
"""

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_offrl.encoders import ObsDim, encoder_of
from lit_offrl.errors import NotApplicableError
from lit_offrl.networks import MLP

# A logged action may lie on the bound, where atanh is infinite and a density has no limit.
ACTION_BOUND = 1 - 1e-5


class Distribution(abc.ABC):
    """What ``policy(obs)`` returns: one distribution over actions per observation."""

    imitation_metric: ClassVar[str] = "nll"
    """Name of what :meth:`imitation_loss` measures."""

    @property
    @abc.abstractmethod
    def mode(self) -> Tensor:
        """The greedy action, (B, A) or (B,)."""

    @abc.abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density or log-probability in nats, (..., B).

        Raises:
            NotApplicableError: If the distribution has no density.
        """

    @abc.abstractmethod
    def sample(self) -> Tensor:
        """Draw one action per observation, (B, A) or (B,)."""

    def imitation_loss(self, action: Tensor) -> Tensor:
        """How badly logged actions are predicted, (B,): ``-log π(a|s)`` unless overridden."""
        return -self.log_prob(action)


class Gaussian(Distribution):
    """Normal with a diagonal covariance; samples may leave [-1, 1] and are clipped when acted."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    @property
    def mode(self) -> Tensor:
        """The mean, (B, A)."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """``Σ_d log N(a_d; μ_d, σ_d)``, (..., B)."""
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def rsample(self, noise: Tensor) -> Tensor:
        """Return ``μ + σ noise`` for standard normal noise (..., B, A)."""
        return self.mean + self.log_std.exp() * noise

    def sample(self) -> Tensor:
        """Draw actions, (B, A), clipped to [-1, 1]."""
        return self.rsample(torch.randn_like(self.mean)).clamp(-1, 1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, (B,)."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).expand_as(self.mean).sum(-1)


class TanhGaussian(Distribution):
    """``tanh`` of a normal variable (SAC, Haarnoja et al. 2018, appendix C).

    Args:
        base: Distribution of the variable before ``tanh``.
    """

    def __init__(self, base: Gaussian) -> None:
        self.base = base

    @property
    def mode(self) -> Tensor:
        """``tanh μ``, (B, A), the action called deterministic in the literature."""
        return self.base.mean.tanh()

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (..., B, A) and their log-densities (..., B) for standard normal noise.

        The density is taken from the variable before ``tanh``: inverting ``tanh`` would lose it
        where actions saturate.
        """
        z = self.base.rsample(noise)
        return z.tanh(), self.base.log_prob(z) - _log_tanh_slope(z)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of given actions (..., B, A), clipped to within 1e-5 of the bounds."""
        z = action.clamp(-ACTION_BOUND, ACTION_BOUND).atanh()
        return self.base.log_prob(z) - _log_tanh_slope(z)

    def sample(self) -> Tensor:
        """Draw actions, (B, A)."""
        return self.base.rsample(torch.randn_like(self.base.mean)).tanh()


def _log_tanh_slope(z: Tensor) -> Tensor:
    """``Σ_d log(1 - tanh² z_d)``, (..., B), without cancellation."""
    return (2 * (math.log(2) - z - F.softplus(-2 * z))).sum(-1)


class Deterministic(Distribution):
    """All mass on one Box action, or a draw of a procedure that gives no density."""

    imitation_metric: ClassVar[str] = "action_mse"

    def __init__(self, action: Tensor) -> None:
        self.action = action

    @property
    def mode(self) -> Tensor:
        """The action, (B, A)."""
        return self.action

    def log_prob(self, action: Tensor) -> Tensor:
        """Raise: there is no density."""
        raise NotApplicableError("This policy gives an action, but no density over Box actions.")

    def sample(self) -> Tensor:
        """The action, (B, A)."""
        return self.action

    def imitation_loss(self, action: Tensor) -> Tensor:
        """Squared error, mean over action dimensions, (B,)."""
        return (self.action - action).square().mean(-1)


class Categorical(Distribution):
    """Distribution over discrete actions.

    Args:
        logits: Unnormalized log-probabilities, (B, A); -inf excludes an action.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.log_probs = logits.log_softmax(-1)  # (B, A)

    @property
    def probs(self) -> Tensor:
        """Probabilities, (B, A)."""
        return self.log_probs.exp()

    @property
    def mode(self) -> Tensor:
        """The most probable action, (B,)."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of actions (B,): (B,)."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def sample(self) -> Tensor:
        """Draw actions, (B,)."""
        return torch.multinomial(self.probs, 1).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, (B,)."""
        return torch.special.entr(self.probs).sum(-1)  # type: ignore[no-any-return]


class Greedy(Categorical):
    """All mass on one discrete action.

    Args:
        action: The action, (B,).
        n_actions: Number of actions A.
    """

    imitation_metric: ClassVar[str] = "error_rate"

    def __init__(self, action: Tensor, n_actions: int) -> None:
        super().__init__(F.one_hot(action, n_actions).float().log())

    def imitation_loss(self, action: Tensor) -> Tensor:
        """1 where the logged action is another one, (B,)."""
        return self.mode.ne(action).float()


class GaussianPolicy(nn.Module):
    """``N(tanh μ(s), σ²)`` with σ free of the state, as IQL's authors have it.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        dropout: Dropout after each hidden layer.
        log_std_range: Bounds of log σ.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
    ) -> None:
        super().__init__()
        self.encoder, n_in = encoder_of(obs_dim)
        self.net = MLP(n_in, hidden, action_dim, dropout)
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.log_std_range = log_std_range

    def forward(self, obs: Tensor) -> Gaussian:
        """Distribution of actions at obs (B, O)."""
        return Gaussian(self.net(self.encoder(obs)).tanh(), self.log_std.clamp(*self.log_std_range))


class TanhGaussianPolicy(nn.Module):
    """``tanh N(μ(s), σ(s)²)``.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        log_std_range: Bounds of log σ.
        log_std_offset: Added to the network's log σ, so that it starts narrow.
    """

    def __init__(
        self,
        obs_dim: ObsDim,
        action_dim: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float] = (-20.0, 2.0),
        log_std_offset: float = -1.0,
    ) -> None:
        super().__init__()
        self.encoder, n_in = encoder_of(obs_dim)
        self.net = MLP(n_in, hidden, 2 * action_dim)
        self.log_std_range, self.log_std_offset = log_std_range, log_std_offset

    def forward(self, obs: Tensor) -> TanhGaussian:
        """Distribution of actions at obs (B, O)."""
        mean, log_std = self.net(self.encoder(obs)).chunk(2, dim=-1)
        log_std = (log_std + self.log_std_offset).clamp(*self.log_std_range)
        return TanhGaussian(Gaussian(mean, log_std))


class DeterministicPolicy(nn.Module):
    """``tanh π(s)``.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, obs_dim: ObsDim, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder, n_in = encoder_of(obs_dim)
        self.net = MLP(n_in, hidden, action_dim)

    def forward(self, obs: Tensor) -> Deterministic:
        """Action at obs (B, O)."""
        return Deterministic(self.net(self.encoder(obs)).tanh())


class CategoricalPolicy(nn.Module):
    """Softmax over discrete actions.

    Args:
        obs_dim: O.
        n_actions: Number of actions A.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, obs_dim: ObsDim, n_actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder, n_in = encoder_of(obs_dim)
        self.net = MLP(n_in, hidden, n_actions)

    def forward(self, obs: Tensor) -> Categorical:
        """Distribution of actions at obs (B, O)."""
        return Categorical(self.net(self.encoder(obs)))
