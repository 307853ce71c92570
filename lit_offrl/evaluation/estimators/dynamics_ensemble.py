"""Ensemble of learned dynamics: Chua et al. (2018), https://arxiv.org/abs/1805.12114.

As MBPO trains it (Janner et al., 2019, https://arxiv.org/abs/1906.08253), with a head for the end
of an episode. It knows nothing of any policy: fit it once, evaluate many.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.ensembles import EnsembleMLP
from lit_offrl.evaluation.logged import LoggedData

LOG_VARIANCE = (-10.0, 0.5)
"""Bounds of the predicted log-variances, where MBPO's start."""
CONSTANT = 1e-6
"""Standard deviation of a target up to which it is constant, and is not learned."""


class Step(NamedTuple):
    """What a model says of transitions.

    Args:
        next_obs: Drawn next observations, normalized, (B, O).
        reward: Expected raw rewards, (B,).
        termination: Probabilities that the episode ends for good, (B,).
        disagreement: Spread of the models' mean next observations, (B,).
        outside: How far the draw left the box of the logged observations, in its width, (B,).
    """

    next_obs: Tensor
    reward: Tensor
    termination: Tensor
    disagreement: Tensor
    outside: Tensor


class Dynamics(Protocol):
    """Anything that episodes can be imagined in."""

    @property
    def n_models(self) -> int:
        """Number of models that can be asked."""

    def step(self, obs: Tensor, action: Tensor, model: Tensor) -> Step:
        """Draw what follows at obs (B, O) from the models numbered (B,)."""


class DynamicsEnsemble(OfflineAlgorithm):
    """``s' - s, r ~ N(μ_k(s, a), σ_k²(s, a))`` and the probability of an end.

    ``L = Σ_k E w_k [-log N(Δ; μ_k, σ_k) - log P_k(terminated)]``, Δ standardized.

    Args:
        data: The log, for statistics and bounds.
        members: Size K of the ensemble.
        hidden: Widths of the hidden layers.
        lr: Learning rate.
    """

    hint = "a log of the same action space"

    def __init__(
        self,
        data: LoggedData,
        members: int = 7,
        hidden: tuple[int, ...] = (200, 200),
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.n_actions, self.terminates = data.n_actions, bool(data.terminated.any())
        self.n_targets = data.obs.shape[1] + 1
        self.elites = list(range(members))
        n_in = self._inputs(data.obs[:1], data.action[:1]).shape[1]
        self.net = EnsembleMLP(members, n_in, hidden, 2 * self.n_targets + 1)
        target = torch.cat([data.next_obs - data.obs, data.reward.unsqueeze(1)], 1)  # (N, O + 1)
        std = target.std(0, correction=0)
        both = torch.cat([data.obs, data.next_obs])
        self.mean: Tensor
        self.std: Tensor
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("mean", target.mean(0))
        self.register_buffer("std", torch.where(std > CONSTANT, std, 0.0))
        self.register_buffer("low", both.amin(0))
        self.register_buffer("high", both.amax(0))
        self.reward_range = float(data.reward.min()), float(data.reward.max())
        self.optimize(self.net, lr)

    @property
    def n_models(self) -> int:
        """Number of members that are used."""
        return len(self.elites)

    def update(self, batch: Batch, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Update all members once; ``weight`` (K, B) is 1 if None."""
        nll = self.nll(batch)  # (K, B)
        loss = (nll if weight is None else weight * nll).mean(-1).sum()
        self.minimize(loss, self.net)
        return {"loss/dynamics": loss.detach()}

    def nll(self, batch: Batch, noise: float = 0.0) -> Tensor:
        """Negative log-likelihood of each member, without the constant of normals, (K, B).

        Args:
            batch: Transitions.
            noise: Standard deviation of noise beside the predicted one, in that of the target;
                variances add up.
        """
        mean, log_variance, logit = self._predict(batch.obs, batch.action)
        if noise:
            log_variance = (log_variance.exp() + noise**2).log()
        target = torch.cat([batch.next_obs - batch.obs, batch.reward.unsqueeze(1)], 1)
        varies = self.std > 0  # the likelihood of a constant has no bound
        scale = torch.where(varies, self.std, 1.0)
        error = (target - self.mean) / scale - mean  # (K, B, O + 1)
        nll = error.square() * (-log_variance).exp() + log_variance
        nll = 0.5 * (nll * varies).sum(-1)
        if not self.terminates:
            return nll
        ended = batch.terminated.expand_as(logit)
        return nll + F.binary_cross_entropy_with_logits(logit, ended, reduction="none")

    @torch.no_grad()
    def step(self, obs: Tensor, action: Tensor, model: Tensor) -> Step:
        """Draw what follows at obs (B, O) from the elites numbered (B,)."""
        mean, log_variance, logit = (x[self.elites] for x in self._predict(obs, action))
        rows = torch.arange(len(obs), device=obs.device)
        own, std = mean[model, rows], (0.5 * log_variance[model, rows]).exp()  # (B, O + 1)
        moved = own[:, :-1] + std[:, :-1] * torch.randn_like(obs)
        free = obs + self.mean[:-1] + self.std[:-1] * moved  # (B, O)
        next_obs = torch.minimum(torch.maximum(free, self.low), self.high)
        width = (self.high - self.low).clamp(min=1e-6)
        termination = (
            logit[model, rows].sigmoid() if self.terminates else torch.zeros_like(free[:, 0])
        )
        spread = mean[..., :-1].std(0, correction=0) * self.std[:-1]  # (B, O)
        return Step(
            next_obs,
            (self.mean[-1] + self.std[-1] * own[:, -1]).clamp(*self.reward_range),
            termination,
            spread.square().mean(-1).sqrt(),
            ((free - next_obs).abs() / width).amax(-1),
        )

    def _inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        if self.n_actions is not None:
            action = F.one_hot(action, self.n_actions).to(obs.dtype)
        return torch.cat([obs, action], -1)

    def _predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardized means and log-variances (K, B, O + 1), logits of an end (K, B)."""
        out = self.net(self._inputs(obs, action))
        n, (low, high) = self.n_targets, LOG_VARIANCE
        log_variance = high - F.softplus(high - out[..., n : 2 * n])
        return out[..., :n], low + F.softplus(log_variance - low), out[..., -1]
