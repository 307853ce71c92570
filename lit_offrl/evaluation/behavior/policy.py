"""Models of the behavior policy β̂: the probabilities with which the log took its actions."""

import math
from typing import Literal, get_args

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.behavior.models import (
    LOG_STD_RANGE,
    SATURATED,
    MixturePolicy,
    TabularPolicy,
    as_mixture,
    tanh_gaussian_mode,
)
from lit_offrl.policies import Categorical, CategoricalPolicy, Distribution, TanhGaussianPolicy
from lit_offrl.scaling import Scaling

Kind = Literal["tabular", "categorical", "tanh_gaussian", "mixture"]
N_COMPONENTS = 5
HIDDEN = (128, 128)
LOW_DENSITY = 1e-3
"""Below this share of the largest probability an action counts as unseen."""
RESOLUTION = 0.05
"""Standard deviation before ``tanh`` below which a behavior counts as no narrower.

A logger without noise has a density of zero everywhere else, but an action that differs by a few
hundredths of the range is not unknown to the data.
"""


PROBABILITY_ROUNDING = 1e-5
"""By how much the float32 logarithm of a probability may lie above 0."""

Net = TabularPolicy | CategoricalPolicy | TanhGaussianPolicy | MixturePolicy


class BehaviorPolicy(nn.Module):
    """A model of the policy that made the log; observations normalized, actions in [-1, 1].

    ``log_prob`` of a Box action that lies on the bound, as clipped ones do, is that of one within
    1e-5 of it; since log σ lies in [-5, 2], its density stays below about ``exp(15)`` per
    dimension. Densities are per unit of scaled action.

    Args:
        kind: ``tabular`` or ``categorical`` for discrete actions, ``tanh_gaussian`` or ``mixture``
            for Box actions.
        obs_dim: O.
        action_dim: A, or the number of discrete actions.
    """

    def __init__(self, kind: Kind, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise InputError(f"`kind` may be auto, {', '.join(get_args(Kind))}, not {kind}.")
        self.kind, self.obs_dim, self.action_dim = kind, obs_dim, action_dim
        self.register_buffer("temperature", torch.tensor(1.0))  # of the logits, after calibration
        self.temperature: Tensor
        # share of held-out logged actions that `unseen` wrongly calls so: the model's own tail
        self.register_buffer("logged_unseen", torch.tensor(0.0))
        self.logged_unseen: Tensor
        self.net: Net
        if kind == "tabular":
            self.net = TabularPolicy(obs_dim, action_dim)
        elif kind == "categorical":
            self.net = CategoricalPolicy(obs_dim, action_dim, HIDDEN)
        elif kind == "tanh_gaussian":
            self.net = TanhGaussianPolicy(obs_dim, action_dim, HIDDEN, LOG_STD_RANGE, 0.0)
        else:
            self.net = MixturePolicy(obs_dim, action_dim, HIDDEN, N_COMPONENTS)

    @property
    def discrete(self) -> bool:
        """Whether actions are discrete."""
        return self.kind in ("tabular", "categorical")

    def policy(self, obs: Tensor) -> Distribution:
        """Distribution of actions at obs (B, O)."""
        distribution: Distribution = self.net(obs)
        if isinstance(distribution, Categorical):
            return Categorical(distribution.logits / self.temperature)
        return distribution

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probability or density of actions in nats, (B,)."""
        return self.policy(obs).log_prob(action)

    def probs(self, obs: Tensor) -> Tensor:
        """Probabilities of all discrete actions, (B, A).

        Raises:
            NotApplicableError: If actions are not discrete.
        """
        distribution = self.policy(obs)
        if not isinstance(distribution, Categorical):
            raise NotApplicableError("Only discrete actions have probabilities.")
        return distribution.probs

    def mode_log_prob(self, obs: Tensor) -> Tensor:
        """``log max_a β̂(a|s)``, (B,): the best of the components' modes for a mixture.

        The mode of a tanh-Gaussian is not ``tanh μ``: where σ is wide the density grows towards
        the bounds. To ask whether an action is known to the data, take
        :meth:`relative_log_density`.
        """
        distribution = self.policy(obs)
        if isinstance(distribution, Categorical):
            return distribution.log_probs.amax(-1)
        mixture = as_mixture(distribution)
        base = mixture.components.base
        modes = tanh_gaussian_mode(base.mean, base.log_std).tanh()  # (K, B, A)
        return mixture.log_prob(modes).amax(0)

    def relative_log_density(self, obs: Tensor, action: Tensor) -> Tensor:
        """How far below the most usual action an action is, in nats, (..., B); at most 0.

        ``log β̂(a|s) - log max β̂`` for discrete actions and (..., B) of them. For Box actions
        (..., B, A) it is the Gaussian's ``-|(z - μ)/σ|²/2`` before ``tanh``, so that the bounds,
        where a density explodes, are no special place; of a mixture, the largest over its
        components, each lowered by ``log w_k - log max w``, so that a wide component is not
        dwarfed by the height of a narrow one. Actions and means beyond 0.999 count as 0.999, and
        σ as at least 0.05.
        """
        distribution = self.policy(obs)
        if isinstance(distribution, Categorical):
            highest = distribution.log_probs.amax(-1)
            log_probs = distribution.log_probs.expand(*action.shape, self.action_dim)
            return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1) - highest
        mixture = as_mixture(distribution)
        base = mixture.components.base
        bound = math.atanh(SATURATED)
        z = action.clamp(-SATURATED, SATURATED).atanh().unsqueeze(-3)  # (..., 1, B, A)
        std = base.log_std.exp().clamp(min=RESOLUTION)
        distance = ((z - base.mean.clamp(-bound, bound)) / std).square().sum(-1)  # (..., K, B)
        log_weight = mixture.log_weight - mixture.log_weight.amax(0)
        return (log_weight - distance / 2).amax(-2)

    def unseen(self, obs: Tensor, action: Tensor) -> Tensor:
        """Whether the data say nothing of an action, (..., B) of bool.

        A table counts. A discrete action is unseen below 1e-3 of the likeliest one's probability.
        Of a Box action, see :func:`low_density`.
        """
        if isinstance(self.net, TabularPolicy):
            return self.net.counts[self.net.state(obs), action] == 0
        limit = math.log(LOW_DENSITY) if self.discrete else low_density(self.action_dim)
        return self.relative_log_density(obs, action) < limit


def low_density(action_dim: int) -> float:
    """Relative log-density below which a Box action counts as unseen.

    In one dimension 1e-3 of the density at the mode is passed by 2e-4 of a Gaussian's own draws,
    in 17 dimensions by two thirds of them. The limit keeps 2e-4: it is ``-x/2`` for the quantile x
    of χ² with A degrees of freedom.

    >>> [round(low_density(a), 2) for a in (1, 6, 17)]
    [-6.91, -13.12, -22.77]
    """
    tail = chi2.sf(-2 * math.log(LOW_DENSITY), 1)
    return -float(chi2.isf(tail, action_dim)) / 2


def logged_propensities(transitions: Transitions, scaling: Scaling) -> Tensor | None:
    """Return the logged log-probabilities of the actions, (N,) in float64; None if there are none.

    A density of Box actions is logged per raw unit of action and turned into one per scaled unit,
    as policies have it: ``log β + Σ_d log((high_d - low_d)/2)``.

    Args:
        transitions: The log.
        scaling: Its scaling, without bounds for discrete actions.

    Raises:
        InputError: If a logged action has probability 0, or more than 1, or none.
    """
    if transitions.behavior_log_prob is None:
        return None
    log_prob = torch.from_numpy(np.asarray(transitions.behavior_log_prob, dtype=np.float64))
    discrete = scaling.action_low is None
    most = PROBABILITY_ROUNDING if discrete else math.inf
    wrong = ~log_prob.isfinite() | (log_prob > most)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise InputError(
            f"Logged propensities: row {row} (episode {int(transitions.episode[row])}) has "
            f"`behavior_log_prob` {log_prob[row]:g}, though its action was taken; store natural "
            "logarithms of positive probabilities, or none to have them estimated."
        )
    if scaling.action_low is None or scaling.action_high is None:
        return log_prob
    return log_prob + ((scaling.action_high - scaling.action_low).double() / 2).log().sum()
