"""Maximum likelihood of one behavior model on some rows of the log."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.calibration import fit_temperature
from lit_offrl.evaluation.behavior.models import TabularPolicy
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy, Kind
from lit_offrl.rng import seeded, stream_seed
from lit_offrl.scaling import Scaling

BATCH_SIZE = 256
LEARNING_RATE = 1e-3
MAX_ROWS = 10_000
"""Rows that scores are made of, evenly spread."""
EVALUATIONS = 20
PATIENCE = 5
"""Evaluations without a better NLL after which fitting ends."""

Progress = Callable[[int, int], None]


class Rows:
    """Whole episodes of the log, scaled when rows of them are asked for.

    Args:
        transitions: The log, in raw units.
        scaling: What the policies are to see.
        episodes: Which episodes.
    """

    def __init__(
        self, transitions: Transitions, scaling: Scaling, episodes: NDArray[np.int64]
    ) -> None:
        self.transitions, self.scaling = transitions, scaling
        self.n_episodes = len(episodes)
        self.rows = transitions.rows_of(np.sort(episodes))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return normalized observations (B, O) and scaled actions, (B, A) or (B,)."""
        rows = self.rows[index]
        obs = self.scaling.normalize_obs(torch.from_numpy(self.transitions.obs[rows]))
        action = torch.from_numpy(self.transitions.action[rows])
        if self.scaling.action_low is not None:  # rounding may push a bound past 1
            action = self.scaling.scale_action(action).float().clamp(-1, 1)
        return obs.float(), action

    def spread(self, most: int = MAX_ROWS) -> tuple[Tensor, Tensor]:
        """Return at most so many of the rows, evenly spread."""
        n = min(len(self), most)
        return self.take(np.linspace(0, len(self) - 1, n).astype(np.int64))


class Counter:
    """Count updates over several fits.

    Args:
        progress: Called with the updates done and their total.
        total: That total; a fit that ends early skips some.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def reach(self, done: int) -> None:
        """Tell that so many updates are done."""
        self.done = min(done, self.total)
        if self.progress is not None:
            self.progress(self.done, self.total)


def count_actions(rows: Rows, spec: DatasetSpec) -> BehaviorPolicy:
    """Make the table of how often each action was taken in each state."""
    policy = BehaviorPolicy("tabular", spec.obs_dim, spec.action_dim)
    table = policy.net
    assert isinstance(table, TabularPolicy)
    state = rows.transitions.obs[rows.rows].argmax(-1)  # (N,)
    action = rows.transitions.action[rows.rows].astype(np.int64)
    flat = np.bincount(state * spec.action_dim + action, minlength=table.counts.numel())
    table.counts.copy_(torch.from_numpy(flat).view_as(table.counts))
    table.obs_mean.copy_(rows.scaling.obs_mean)
    table.obs_std.copy_(rows.scaling.obs_std)
    return policy


def fit_model(
    kind: Kind,
    fitted: Rows,
    judged: Rows,
    spec: DatasetSpec,
    updates: int,
    seed: int,
    counter: Counter,
) -> BehaviorPolicy:
    """Fit one kind of model.

    Args:
        kind: Which.
        fitted: Rows whose likelihood is maximized.
        judged: Rows whose NLL decides on the best weights, the end and the temperature.
        spec: The data set.
        updates: Adam steps.
        seed: Of the weights and the batches.
        counter: Told of the updates.
    """
    if kind == "tabular":
        return count_actions(fitted, spec)
    obs, action = judged.spread()
    with seeded(stream_seed(seed, 0, 1)):
        policy = BehaviorPolicy(kind, spec.obs_dim, spec.action_dim)
    _descend(policy, fitted, (obs, action), updates, seed, counter)
    if kind == "categorical":
        with torch.no_grad():
            policy.temperature.fill_(fit_temperature(policy.net(obs).logits, action))
    return policy


def _descend(
    policy: BehaviorPolicy,
    fitted: Rows,
    judged: tuple[Tensor, Tensor],
    updates: int,
    seed: int,
    counter: Counter,
) -> None:
    """Minimize the NLL by Adam and keep the weights with the best NLL of ``judged``, in place."""
    optimizer = Adam(policy.parameters(), lr=LEARNING_RATE, fused=True)
    annealing = CosineAnnealingLR(optimizer, updates)
    rng = np.random.default_rng(stream_seed(seed, 0, 2))
    every = max(1, updates // EVALUATIONS)
    before, best, best_nll, waited = counter.done, None, np.inf, 0
    for update in range(1, updates + 1):
        loss = -policy.log_prob(*fitted.take(rng.integers(len(fitted), size=BATCH_SIZE))).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        annealing.step()
        if update % every and update < updates:
            continue
        counter.reach(before + update)
        with torch.no_grad():
            nll = -policy.log_prob(*judged).mean().item()
        waited = 0 if nll < best_nll else waited + 1
        if nll < best_nll:
            best, best_nll = {k: v.clone() for k, v in policy.state_dict().items()}, nll
        if waited == PATIENCE:
            break
    if best is None:
        raise InputError(
            "The behavior policy cannot be fitted, since the log-likelihood is not finite: look "
            "for observations or actions that are not."
        )
    policy.load_state_dict(best)
    counter.reach(before + updates)
