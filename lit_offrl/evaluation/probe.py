"""A fixed sample of logged transitions that diagnostics ask the algorithm about."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_offrl.data.transitions import Transitions
from lit_offrl.scaling import Scaling

UNKNOWN_TAIL = 0.05
"""A return-to-go counts where what lies behind a truncation weighs less than this, γ^(T-t)."""


@dataclass(frozen=True)
class Probe:
    """Sampled transitions as the networks see them, and what they were worth.

    Rewards and returns are in raw scale: of ``r + reward_shift / reward_scale``. A critic's value
    divided by ``reward_scale`` compares with them; without a shift they are raw units.

    Args:
        obs: Normalized observations, (M, O).
        action: Actions, scaled to [-1, 1], (M, A), or indices, (M,).
        reward: Rewards in raw scale, (M,).
        next_obs: Normalized next observations, (M, O).
        terminated: 1 where the episode ended for good, (M,).
        mc_return: Discounted return-to-go in raw scale, (M,); NaN where a truncation hides it.
        start_obs: Normalized first observations of episodes, (S, O).
        start_return: Discounted return of those episodes, (S,); NaN where it is hidden.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    mc_return: Tensor
    start_obs: Tensor
    start_return: Tensor

    def share(self, rank: int, world_size: int) -> "Probe":
        """Every ``world_size``-th row from ``rank`` on: each rank asks about its own."""
        return Probe(**{name: field[rank::world_size] for name, field in vars(self).items()})

    def to(self, like: Tensor) -> "Probe":
        """Move to the device and float type of a tensor."""
        return Probe(
            **{
                name: field.to(like) if field.is_floating_point() else field.to(like.device)
                for name, field in vars(self).items()
            }
        )


@dataclass(frozen=True)
class ReturnFacts:
    """What the log says about values, in raw scale: the constants of every verdict on a critic.

    Args:
        reward_low: Smallest reward.
        reward_high: Largest reward.
        value_low: L: no policy's value can be smaller if rewards stay in their range.
        value_high: U: no policy's value can be larger.
        spread: S: P95 - P5 of the discounted returns-to-go, at least the range of the rewards; 0
            only if all rewards are equal.
        mean_return: Mean discounted return-to-go, NaN if none is known.
        high_return: P99 of them, likewise.
        best_return: Largest discounted return of an episode, likewise.
        known_share: Share of the rows whose return-to-go is known.
    """

    reward_low: float
    reward_high: float
    value_low: float
    value_high: float
    spread: float
    mean_return: float
    high_return: float
    best_return: float
    known_share: float


def known_returns(transitions: Transitions, discount: float) -> NDArray[np.float64]:
    """Discounted return-to-go of each row, (N,); NaN where a truncation hides too much of it.

    A row of a truncated episode counts where ``γ^(T - t) < 0.05``: what would have come after
    weighs little then. With γ = 1 no row of a truncated episode does.
    """
    togo = transitions.mc_returns(discount).astype(np.float64)
    last = transitions.episode_bounds[1:] - 1  # (E,) last row of each episode
    left = np.diff(transitions.episode_bounds)[transitions.episode] + (
        transitions.episode_bounds[transitions.episode] - np.arange(len(togo))
    )  # (N,) steps until the end, this one included
    hidden = ~transitions.terminated[last][transitions.episode] & (discount**left >= UNKNOWN_TAIL)
    togo[hidden] = np.nan
    return togo


def return_facts(transitions: Transitions, scaling: Scaling, discount: float) -> ReturnFacts:
    """Derive bounds and spreads from raw transitions (all of the training split).

    Bounds: science has ``r_min / (1 - γ)`` where a reward is negative, else ``r_min`` (an episode
    may end at once), and likewise above.

    Args:
        transitions: Whole episodes.
        scaling: Its reward transform's shift is taken along.
        discount: γ.
    """
    shifted = in_raw_scale(transitions, scaling)
    reward = shifted.reward.astype(np.float64)
    low, high = float(reward.min()), float(reward.max())
    horizon = 1 / (1 - discount) if discount < 1 else float(np.diff(shifted.episode_bounds).max())
    togo = known_returns(shifted, discount)
    known = togo[np.isfinite(togo)]
    # where truncations hide all returns, the cut ones still tell what is much
    scale = known if len(known) else shifted.mc_returns(discount).astype(np.float64)
    starts = togo[shifted.episode_bounds[:-1]]
    p5, p95 = np.quantile(scale, [0.05, 0.95])
    return ReturnFacts(
        reward_low=low,
        reward_high=high,
        value_low=low * horizon if low < 0 else low,
        value_high=high * horizon if high > 0 else high,
        spread=float(max(p95 - p5, high - low)),
        mean_return=float(known.mean()) if len(known) else np.nan,
        high_return=float(np.quantile(known, 0.99)) if len(known) else np.nan,
        best_return=float(np.nanmax(starts)) if np.isfinite(starts).any() else np.nan,
        known_share=len(known) / len(togo),
    )


def in_raw_scale(transitions: Transitions, scaling: Scaling) -> Transitions:
    """Add the reward transform's shift, in raw units, to every reward."""
    if scaling.reward_shift == 0:
        return transitions
    shift = scaling.reward_shift / scaling.reward_scale
    return replace(transitions, reward=transitions.reward + np.float32(shift))


def make_probe(
    transitions: Transitions,
    scaling: Scaling,
    discount: float,
    rows: int = 2048,
    starts: int = 256,
    seed: int = 0,
) -> Probe:
    """Draw a probe, the same for the same seed.

    Args:
        transitions: Whole episodes, raw.
        scaling: What the networks see.
        discount: γ of the returns.
        rows: Most transitions to take, without replacement.
        starts: Most episode starts to take.
        seed: Which ones.
    """
    rng = np.random.default_rng(seed)
    n, first = len(transitions), transitions.episode_bounds[:-1]
    picked = np.sort(rng.choice(n, min(rows, n), replace=False))  # (M,)
    begun = np.sort(rng.choice(first, min(starts, len(first)), replace=False))  # (S,)
    shifted = in_raw_scale(transitions, scaling)
    returns = torch.from_numpy(known_returns(shifted, discount)).float()  # (N,)

    def normalized(obs: NDArray[Any]) -> Tensor:
        return scaling.normalize_obs(torch.from_numpy(obs))

    action = torch.from_numpy(transitions.action[picked])
    if action.is_floating_point():  # rounding may push a bound past 1
        action = scaling.scale_action(action).clamp(-1, 1)
    return Probe(
        obs=normalized(transitions.observed(picked)),
        action=action,
        reward=torch.from_numpy(shifted.reward[picked]),
        next_obs=normalized(transitions.next_observed(picked)),
        terminated=torch.from_numpy(transitions.terminated[picked]).float(),
        mc_return=returns[picked],
        start_obs=normalized(transitions.observed(begun)),
        start_return=returns[begun],
    )
