"""Fit an ensemble of dynamics to bootstrapped episodes of a log."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_offrl.batch import Batch
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators.dynamics_ensemble import DynamicsEnsemble
from lit_offrl.evaluation.logged import (
    LoggedData,
    batches,
    bootstrap_weights,
    in_chunks,
    row_weights,
)

__all__ = ["DynamicsEnsemble", "fit_dynamics"]

CHECKPOINTS = 10
"""How often held-out episodes are asked."""


def fit_dynamics(
    data: LoggedData,
    updates: int = 5000,
    members: int = 7,
    elites: int = 5,
    seed: int = 0,
    *,
    hidden: tuple[int, ...] = (200, 200),
    lr: float = 1e-3,
    batch_size: int = 256,
    held_out: float = 0.1,
    progress: Callable[[int], None] | None = None,
) -> DynamicsEnsemble:
    """Fit each member to its own resample of episodes and keep the best on held-out ones.

    Of each member the parameters with the least held-out loss during training are kept.

    Args:
        data: The log.
        updates: Number of gradient updates.
        members: Size of the ensemble.
        elites: How many of them are used.
        seed: Seed of networks, resamples and batches.
        hidden: Widths of the hidden layers.
        lr: Learning rate.
        batch_size: B.
        held_out: Share of episodes that no member is fitted to.
        progress: Called with the number of updates done, now and then.

    Raises:
        InputError: If there is but one episode, or the numbers make no sense.
    """
    if data.n_episodes < 2:
        raise InputError("A model needs episodes to hold out, and the log has but one.")
    if not (1 <= elites <= members and updates >= CHECKPOINTS):
        raise InputError("A model needs 1 <= `elites` <= `members` and at least 10 updates.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DynamicsEnsemble(data, members, hidden, lr).to(data.obs.device)
        kept = _held_out_episodes(data.n_episodes, held_out)  # (E,)
        counts = bootstrap_weights(data.n_episodes, members, seed, kept.expand(members, -1))
        rows = kept.to(data.obs.device)[data.episode].nonzero().squeeze(1)
        best, loss = _Best(model.net, members), torch.zeros(members)
        weights = row_weights(counts, data.episode).T  # (N, K)
        steps = batches(data, weights, batch_size, updates, seed)
        for update, (batch, weight) in enumerate(steps, 1):
            model.update(batch, weight.T)
            if update % (updates // CHECKPOINTS) == 0 or update == updates:
                loss = best.offer(_held_out_loss(model, data, rows))
                if progress is not None:
                    progress(update)
        best.restore()
    model.elites = loss.argsort()[:elites].tolist()
    return model


def _held_out_episodes(n_episodes: int, share: float) -> Tensor:
    """Draw which episodes no member is fitted to, one at least and not all, (E,) of bool."""
    n = min(max(1, round(share * n_episodes)), n_episodes - 1)
    held_out = torch.zeros(n_episodes, dtype=torch.bool)
    held_out[torch.randperm(n_episodes)[:n]] = True
    return held_out


def _held_out_loss(model: DynamicsEnsemble, data: LoggedData, rows: Tensor) -> Tensor:
    """Mean negative log-likelihood of each member on rows, (K,)."""
    columns = data.obs, data.action, data.reward, data.next_obs, data.terminated
    return in_chunks(lambda *c: model.nll(Batch(*c)), *(x[rows] for x in columns)).mean(1)


class _Best:
    """Parameters of each member where its loss was least."""

    def __init__(self, net: nn.Module, members: int) -> None:
        self.net = net
        self.loss = torch.full((members,), torch.inf)
        self.kept = [p.detach().clone() for p in net.parameters()]

    def offer(self, loss: Tensor) -> Tensor:
        """Keep members that got better and return the least losses so far, (K,)."""
        better = loss.cpu() < self.loss
        for kept, p in zip(self.kept, self.net.parameters(), strict=True):
            kept[better.to(p.device)] = p.detach()[better.to(p.device)]
        self.loss = torch.where(better, loss.cpu(), self.loss)
        return self.loss

    @torch.no_grad()
    def restore(self) -> None:
        """Write what was kept into the network."""
        for kept, p in zip(self.kept, self.net.parameters(), strict=True):
            p.copy_(kept)
