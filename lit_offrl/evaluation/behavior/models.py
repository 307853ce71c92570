"""Distributions and networks that a behavior policy may be, beside those of the algorithms."""

import math

import torch
from torch import Tensor, nn

from lit_offrl.networks import MLP
from lit_offrl.policies import ACTION_BOUND, Categorical, Distribution, Gaussian, TanhGaussian

LOG_STD_RANGE = (-5.0, 2.0)
"""Bounds of log σ before ``tanh``, so that the density of logged actions cannot explode."""
ADD_K = 1e-3
"""Added to each count of a table, so that no action is impossible."""
SATURATED = 0.999
"""Actions beyond this are one and the same: clipping, and not the policy, sets their distance."""


class TanhMixture(Distribution):
    """``Σ_k w_k tanh N(μ_k, σ_k²)``, components with diagonal covariance.

    Args:
        log_weight: ``log w_k``, (K, B).
        components: Means and log standard deviations (K, B, A).
    """

    def __init__(self, log_weight: Tensor, components: TanhGaussian) -> None:
        self.log_weight, self.components = log_weight, components

    @property
    def mode(self) -> Tensor:
        """``tanh μ_k`` of the heaviest component, (B, A)."""
        heaviest = self.log_weight.argmax(0)  # (B,)
        return self.components.mode[heaviest, torch.arange(len(heaviest))]

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of actions (..., B, A), clipped to within 1e-5 of the bounds: (..., B)."""
        each = self.components.log_prob(action.unsqueeze(-3))  # (..., K, B)
        return (self.log_weight + each).logsumexp(-2)

    def sample(self) -> Tensor:
        """Draw actions, (B, A)."""
        k = torch.multinomial(self.log_weight.exp().T, 1).squeeze(-1)  # (B,)
        return self.components.sample()[k, torch.arange(len(k))]


class MixturePolicy(nn.Module):
    """A mixture of tanh-Gaussians whose weights, means and deviations depend on the state.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        n_components: K.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, hidden: tuple[int, ...], n_components: int
    ) -> None:
        super().__init__()
        self.shape = (n_components, action_dim)
        self.net = MLP(obs_dim, hidden, n_components * (1 + 2 * action_dim))
        # components that start alike stay alike
        self.register_buffer("start", torch.linspace(-1, 1, n_components)[:, None, None])
        self.start: Tensor

    def forward(self, obs: Tensor) -> TanhMixture:
        """Distribution of actions at obs (B, O)."""
        k, a = self.shape
        logits, mean, log_std = self.net(obs).split([k, k * a, k * a], dim=-1)
        mean = mean.unflatten(-1, self.shape).movedim(1, 0) + self.start  # (K, B, A)
        log_std = log_std.unflatten(-1, self.shape).movedim(1, 0).clamp(*LOG_STD_RANGE)
        return TanhMixture(logits.log_softmax(-1).T, TanhGaussian(Gaussian(mean, log_std)))


class TabularPolicy(nn.Module):
    """``(n(s, a) + k) / (n(s) + k A)`` for states that are coded one-hot; uniform where n(s) = 0.

    Args:
        n_states: S, the width of an observation.
        n_actions: A.
    """

    def __init__(self, n_states: int, n_actions: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(n_states, n_actions))  # (S, A)
        self.register_buffer("obs_mean", torch.zeros(n_states))
        self.register_buffer("obs_std", torch.ones(n_states))
        self.counts: Tensor
        self.obs_mean: Tensor
        self.obs_std: Tensor

    def state(self, obs: Tensor) -> Tensor:
        """Read the states (B,) from one-hot observations (B, O) that were normalized."""
        return (obs * self.obs_std + self.obs_mean).argmax(-1)

    def forward(self, obs: Tensor) -> Categorical:
        """Distribution of actions at obs (B, O)."""
        return Categorical((self.counts[self.state(obs)] + ADD_K).log())


def as_mixture(distribution: Distribution) -> TanhMixture:
    """Return a Box behavior as a mixture, of one component if it is a tanh-Gaussian."""
    if isinstance(distribution, TanhMixture):
        return distribution
    assert isinstance(distribution, TanhGaussian)
    mean, log_std = distribution.base.mean, distribution.base.log_std
    one = TanhGaussian(Gaussian(mean.unsqueeze(0), log_std.unsqueeze(0)))
    return TanhMixture(mean.new_zeros(1, len(mean)), one)


def tanh_gaussian_mode(mean: Tensor, log_std: Tensor) -> Tensor:
    """Find the z whose ``tanh z`` is most dense: ``z = μ + 2σ² tanh z``, by bisection.

    For μ >= 0 the slope of the log-density falls for z >= 0, so one root is the maximum; it lies in
    ``[μ, μ + 2σ²]``. What lies past the clipping of :class:`TanhGaussian` is cut off.

    >>> tanh_gaussian_mode(torch.tensor([0.5, -0.5]), torch.tensor([-3.0, -3.0]))
    tensor([ 0.5023, -0.5023])
    """
    low, twice_variance = mean.abs(), 2 * (2 * log_std).exp()
    high = low + twice_variance
    start = low
    for _ in range(40):
        middle = (low + high) / 2
        below = start + twice_variance * middle.tanh() > middle
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low.clamp(max=math.atanh(ACTION_BOUND)).copysign(mean)
