"""A log as the tensors that models for off-policy evaluation are fitted on."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_offrl.algorithms.update_path import UPDATE_STREAM
from lit_offrl.batch import Batch, Layout
from lit_offrl.data import Transitions
from lit_offrl.data.sampler import UpdateSampler
from lit_offrl.errors import InputError
from lit_offrl.rng import seed_draws, stream_seed
from lit_offrl.scaling import Scaling

CHUNK = 4096
"""Rows that a network sees at once."""


@dataclass(frozen=True)
class LoggedData:
    """Transitions as networks see them, but with raw rewards.

    Args:
        transitions: The same in raw units.
        obs: Normalized observations, (N, O).
        action: Box actions in [-1, 1], (N, A), or indices of discrete ones, (N,).
        reward: Raw rewards, (N,).
        next_obs: Normalized next observations, (N, O).
        terminated: 1 where an episode ended for good, (N,).
        truncated: 1 where it was cut, (N,).
        episode: Number of the episode, (N,).
        first: First row of each episode, (E,).
        n_actions: Number of discrete actions; None for Box actions.
    """

    transitions: Transitions
    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    truncated: Tensor
    episode: Tensor
    first: Tensor
    n_actions: int | None = None

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def n_episodes(self) -> int:
        """Number of episodes E."""
        return len(self.first)

    def mc_returns(self, discount: float) -> Tensor:
        """Logged discounted return-to-go in raw reward, (N,)."""
        return torch.from_numpy(self.transitions.mc_returns(discount))

    @property
    def layout(self) -> Layout:
        """Columns of a packed batch."""
        action_dim = self.n_actions or self.action.shape[-1]
        return Layout(self.obs.shape[-1], action_dim, self.n_actions is not None)

    def packed(self, *extras: Tensor) -> Tensor:
        """Pack the transitions, and columns of one's own (N, ...) after them, (N, W + ...)."""
        matrix = self.layout.pack(
            self.obs, self.action, self.reward, self.next_obs, self.terminated
        )
        return torch.cat([matrix.to(self.obs.device), *extras], 1)


def logged_data(
    transitions: Transitions,
    scaling: Scaling,
    n_actions: int | None = None,
    device: torch.device | str = "cpu",
) -> LoggedData:
    """Normalize observations and Box actions of a log; rewards stay raw.

    Args:
        transitions: Raw transitions of whole episodes.
        scaling: What the evaluated policy was trained with.
        n_actions: Number of discrete actions; None for Box actions.
        device: Where the evaluated policy is.

    Raises:
        InputError: If there are no transitions.
    """
    if transitions.frames:
        raise InputError("Models of the log do not work on images: see docs/images.md.")
    if not len(transitions):
        raise InputError("The log has no transitions: give a data set that has some.")
    action = scaling.scale_action(torch.tensor(transitions.action))
    return LoggedData(
        transitions,
        obs=scaling.normalize_obs(torch.tensor(transitions.obs)).to(device),
        # rounding may push a bound past 1
        action=(action if n_actions else action.clamp(-1, 1)).to(device),
        reward=torch.tensor(transitions.reward).to(device),
        next_obs=scaling.normalize_obs(torch.tensor(transitions.next_obs)).to(device),
        terminated=torch.tensor(transitions.terminated).float().to(device),
        truncated=torch.tensor(transitions.truncated).float().to(device),
        episode=torch.tensor(transitions.episode).to(device),
        first=torch.tensor(transitions.episode_bounds[:-1]).to(device),
        n_actions=n_actions,
    )


def value_range(reward: Tensor, discount: float, terminates: bool) -> tuple[float, float]:
    """Bounds that no discounted return-to-go can leave, infinite where γ = 1 leaves it open.

    An episode that may end at once earns one reward at least, so r_min ≥ 0 is its own bound.

    Args:
        reward: Rewards, (N,).
        discount: γ.
        terminates: Whether episodes can end for good.

    >>> value_range(torch.tensor([0.0, 1.0]), 0.5, terminates=True)
    (0.0, 2.0)
    >>> value_range(torch.tensor([-3.0, -1.0]), 0.5, terminates=True)
    (-6.0, -1.0)
    >>> value_range(torch.tensor([-3.0, -1.0]), 0.5, terminates=False)
    (-6.0, -2.0)
    """
    low, high = float(reward.min()), float(reward.max())
    horizon = 1 / (1 - discount) if discount < 1 else math.inf

    def sum_of(r: float) -> float:
        return r * horizon if r else 0.0

    if not terminates:
        return sum_of(low), sum_of(high)
    return (sum_of(low) if low < 0 else low), (sum_of(high) if high > 0 else high)


def bootstrap_weights(
    n_episodes: int, members: int, seed: int, left_out: Tensor | None = None
) -> Tensor:
    """How often each episode is in each member's resample of as many episodes, (K, E).

    Args:
        n_episodes: E.
        members: K.
        seed: Seed of the resamples.
        left_out: Episodes that a member must not see, (K, E) of bool.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((members, n_episodes))
    for k in range(members):
        allowed = np.ones(n_episodes) if left_out is None else 1.0 - left_out[k].numpy()
        weights[k] = rng.multinomial(n_episodes, allowed / allowed.sum())
    return torch.from_numpy(weights).float()


def row_weights(episode_weights: Tensor, episode: Tensor) -> Tensor:
    """Weights (K, N) of rows, of mean 1 in each member, for weights (K, E) of their episodes."""
    weights = episode_weights.to(episode.device)[:, episode]
    return weights / weights.mean(1, keepdim=True)


def batches(
    data: LoggedData, extras: Tensor, batch_size: int, updates: int, seed: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield the batch of each update and its rows of ``extras``, and seed the update's draws.

    Args:
        data: Where rows are drawn from.
        extras: Columns beside them, (N, X).
        batch_size: B.
        updates: Number of updates.
        seed: Seed of everything.
    """
    sampler = UpdateSampler(data.packed(extras), batch_size, seed)
    layout = data.layout
    for update in range(updates):
        rows = sampler.block(update, 1)[0]
        seed_draws(stream_seed(seed, update, UPDATE_STREAM), rows.device)
        yield layout.unpack(rows[:, : layout.width]), rows[:, layout.width :]


@torch.no_grad()
def in_chunks(function: Callable[..., Tensor], *columns: Tensor) -> Tensor:
    """Apply a function of rows to all rows, :data:`CHUNK` at a time; results join on axis -1."""
    chunks = zip(*(torch.split(column, CHUNK) for column in columns), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks], -1)
