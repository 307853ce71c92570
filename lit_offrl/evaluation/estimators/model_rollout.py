"""Value of a policy by episodes imagined in learned dynamics."""

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.estimators.dynamics_ensemble import Dynamics
from lit_offrl.evaluation.target import TargetPolicy

FAR_OUTSIDE = 0.1
"""An episode has left the data where it passes their box by this share of its width."""


@dataclass(frozen=True)
class ModelResult:
    """Estimated discounted return of a policy in learned dynamics, in raw reward.

    Args:
        value: Mean return over imagined episodes, each step by another model at random.
        std_error: Standard error, over start states and over models.
        model_values: Mean return where each model goes on alone, (models,).
        disagreement: Mean spread of the models at each step, (H,).
        left_share: Share of episodes that went far out of the box of the logged observations.
        clipped_share: Share of steps that were clipped to it.
        horizon: Number of steps H.
        beyond_horizon: γ^H, the weight of what was not imagined.
    """

    value: float
    std_error: float
    model_values: Tensor
    disagreement: Tensor
    left_share: float
    clipped_share: float
    horizon: int
    beyond_horizon: float

    @property
    def growth(self) -> float:
        """Disagreement at the last step, as a multiple of that at the first; 1 if there is none."""
        first, last = float(self.disagreement[0]), float(self.disagreement[-1])
        return last / first if first > 0 else 1.0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Normal interval."""
        z = float(stats.norm.ppf((1 + level) / 2))
        return self.value - z * self.std_error, self.value + z * self.std_error

    def estimate(self, level: float = 0.95) -> Estimate:
        """Return the estimate as all estimators report it."""
        return Estimate(
            "model",
            "model-based",
            self.value,
            self.interval(level),
            self.std_error,
            details={
                "disagreement_growth": self.growth,
                "left_share": self.left_share,
                "clipped_share": self.clipped_share,
                "horizon": self.horizon,
                "beyond_horizon": self.beyond_horizon,
            },
        )


def default_horizon(transitions: Transitions, discount: float) -> int:
    """Steps to imagine: the time limit, or until γ^t < 0.01, whichever comes first.

    The longest episode that was cut stands for the time limit; without one and with γ = 1 the
    longest of all does.
    """
    lengths = transitions.episode_bounds[1:] - transitions.episode_bounds[:-1]
    cut = transitions.truncated[transitions.episode_bounds[1:] - 1]
    limits = [int(lengths[cut].max())] if cut.any() else []
    if discount < 1:
        limits.append(math.ceil(math.log(0.01) / math.log(discount)) if discount > 0 else 1)
    return min(limits, default=int(lengths.max()))


@torch.no_grad()
def evaluate_in_model(
    dynamics: Dynamics,
    policy: TargetPolicy,
    start: Tensor,
    discount: float,
    horizon: int,
    rollouts: int = 500,
    seed: int = 0,
) -> ModelResult:
    """Imagine episodes from logged first observations.

    The reward of a transition counts before the end that comes with it, and an end is not drawn:
    what follows counts by the probability that the episode still goes on.

    Args:
        dynamics: Learned dynamics.
        policy: The policy to evaluate.
        start: Normalized first observations, (E, O).
        discount: γ.
        horizon: Number of steps H.
        rollouts: Number of episodes, spread over the first observations.
        seed: Seed of everything drawn.

    Raises:
        InputError: If returns become infinite, or the numbers make no sense.
    """
    if horizon < 1 or rollouts < dynamics.n_models:
        raise InputError(f"Imagine at least 1 step and {dynamics.n_models} episodes.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        order = torch.randperm(len(start))[torch.arange(rollouts) % len(start)]
        paired = order[: rollouts // dynamics.n_models]  # the same for every model alone
        alone = torch.arange(dynamics.n_models).repeat_interleave(len(paired))
        obs = start[torch.cat([order, paired.repeat(dynamics.n_models)]).to(start.device)]
        returns, disagreement, left, clipped = _imagine(
            dynamics, policy, obs, alone.to(start.device), discount, horizon
        )
    if not bool(returns.isfinite().all()):
        raise InputError("Imagined returns became infinite: fit the model for longer.")
    model_values = returns[rollouts:].view(dynamics.n_models, -1).mean(1)
    mixed = returns[:rollouts]
    of_start = float(mixed.var()) / min(len(start), rollouts) if rollouts > 1 else 0.0
    of_model = float(model_values.var()) if dynamics.n_models > 1 else 0.0
    return ModelResult(
        value=float(mixed.mean()),
        std_error=math.sqrt(of_start + of_model),
        model_values=model_values.cpu(),
        disagreement=disagreement.cpu(),
        left_share=float(left[:rollouts].float().mean()),
        clipped_share=clipped,
        horizon=horizon,
        beyond_horizon=discount**horizon,
    )


def _imagine(
    dynamics: Dynamics,
    policy: TargetPolicy,
    obs: Tensor,
    alone: Tensor,
    discount: float,
    horizon: int,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Returns (B,), disagreement (H,), who left the data (B,), and the clipped share of steps.

    The last ``len(alone)`` episodes keep the model numbered there; the others draw one each step.
    """
    rows = len(obs)
    returns = torch.zeros(rows, dtype=torch.float64, device=obs.device)
    alive = torch.ones_like(returns)
    left = torch.zeros_like(alive, dtype=torch.bool)
    spread, clipped, steps = [], 0.0, 0.0
    for t in range(horizon):
        drawn = torch.randint(dynamics.n_models, (rows - len(alone),), device=obs.device)
        step = dynamics.step(obs, policy.sample(obs), torch.cat([drawn, alone]))
        returns += discount**t * alive * step.reward
        total = float(alive.sum())
        spread.append((alive * step.disagreement).sum() / max(total, 1e-12))
        clipped += float((alive * (step.outside > 0)).sum())
        steps += total
        left |= (step.outside > FAR_OUTSIDE) & (alive > 0.01)
        alive = alive * (1 - step.termination)
        obs = step.next_obs
    return returns, torch.stack(spread), left, clipped / steps
