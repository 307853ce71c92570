"""Whether the log knows the actions of a policy: without that, no estimate of it means anything."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.finding import Finding, Verdict
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.rng import seeded

MAX_ROWS = 20_000
CHUNK = 1024
"""Rows at once: a policy that tries 100 candidates per row sees 100 times as many."""
QUANTILES = (0.01, 0.05, 0.25, 0.5)
NO_SUPPORT = 0.2
WATCH = 0.1


@dataclass(frozen=True)
class Support:
    """How much of what a policy does the log has not seen.

    Args:
        unseen_first: u_0, the mean probability of an unseen action in the first step, less that
            which the behavior model gives to the log's own actions.
        unseen: u, the same in each later step.
        compounded: ``1 - (1 - u_0) (1 - u)^(horizon - 1)``: probability of an unseen action in an
            episode.
        horizon: Steps that count, the smaller of the mean length and ``1/(1 - γ)``.
        quantiles: Relative log-density of the policy's actions, at the levels of
            :data:`QUANTILES`, in nats; the expected one at each observation of discrete actions.
        n_rows: Observations that were looked at.
    """

    unseen_first: float
    unseen: float
    compounded: float
    horizon: float
    quantiles: tuple[float, ...]
    n_rows: int

    @property
    def supported(self) -> bool:
        """Whether estimates may count at all."""
        return self.compounded <= NO_SUPPORT

    def finding(self) -> Finding:
        """Say it in words."""
        verdict: Verdict = "ok" if self.compounded <= WATCH else "watch"
        verdict = verdict if self.supported else "fail"
        meaning = (
            f"{self.unseen_first:.2%} of the policy's first actions and {self.unseen:.2%} of its "
            f"later ones have no likeness in the log, which makes {self.compounded:.0%} over "
            f"{self.horizon:.3g} steps (limit {NO_SUPPORT:.0%})."
        )
        advice = {
            "fail": "NO_SUPPORT: trust no estimate of this policy; keep it closer to the behavior "
            "or log its actions.",
            "watch": "Take estimates with care: they lean on actions that the log hardly knows.",
        }.get(verdict, "")
        return Finding("support", verdict, meaning, advice, self.compounded)


def support(
    policy: TargetPolicy,
    behavior: BehaviorPolicy,
    first: Tensor,
    later: Tensor,
    transitions: Transitions,
    discount: float,
    *,
    seed: int = 0,
) -> Support:
    """Measure how much of what a policy does the log has not seen.

    Discrete actions count with their probabilities, Box ones are drawn once per observation.
    What is unseen, :meth:`BehaviorPolicy.unseen` says: exactly where there is a table of counts,
    else by a density below 1e-3 of the highest.

    Args:
        policy: The policy that is evaluated.
        behavior: Model of the log's behavior.
        first: First observations of the log's episodes, normalized, (E, O). Of more than 20,000
            that many are looked at, evenly spread, and of the later ones too.
        later: Observations at which the policy acts later, (N, O): the log's next ones without
            those that end an episode. None where episodes have one step.
        transitions: The log, for the mean length of its episodes.
        discount: γ.
        seed: Of the draws.

    Raises:
        InputError: If there are no observations or the policy gives a number that is none.
    """
    if not len(first) or not transitions.n_episodes:
        raise InputError("There are no observations to look for the policy's support at.")
    with torch.no_grad(), seeded(seed):
        looked_at = [_look(policy, behavior, obs) for obs in (first, later)]
    expected = behavior.logged_unseen.item()
    u_first, u = (
        max(0.0, share.mean().item() - expected) if len(share) else 0.0 for share, _ in looked_at
    )
    density = torch.cat([relative for _, relative in looked_at])
    quantiles = np.quantile(density.numpy(), QUANTILES)
    if not (np.isfinite([u_first, u]).all() and np.isfinite(quantiles).all()):
        raise InputError(
            f"The {policy.name} policy gives actions or probabilities that are not finite: look "
            "at its weights."
        )
    horizon = effective_horizon(len(transitions) / transitions.n_episodes, discount)
    compounded = compound(u_first, u, horizon)
    return Support(u_first, u, compounded, horizon, tuple(quantiles.tolist()), len(density))


def _look(policy: TargetPolicy, behavior: BehaviorPolicy, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Unseen share and relative log-density of what a policy does at obs (N, O), (n,) each."""
    rows = torch.linspace(0, len(obs) - 1, min(len(obs), MAX_ROWS), dtype=torch.float64).long()
    unseen, density = [torch.zeros(0, dtype=torch.double)], [torch.zeros(0, dtype=torch.double)]
    for chunk in torch.split(rows, CHUNK) if len(rows) else ():
        some = obs[chunk.to(obs.device)]  # (B, O)
        try:
            share, relative = _exact(policy, behavior, some)
        except NotApplicableError:  # Box actions, or discrete ones without probabilities
            share, relative = _drawn(policy, behavior, some)
        unseen.append(share.double().cpu())
        density.append(relative.double().cpu())
    return torch.cat(unseen), torch.cat(density)


def effective_horizon(mean_length: float, discount: float) -> float:
    """Return ``min(mean length, 1/(1 - γ))``.

    >>> effective_horizon(1000.0, 0.75), effective_horizon(9.0, 1.0)
    (4.0, 9.0)
    """
    return mean_length if discount >= 1 else min(mean_length, 1 / (1 - discount))


def compound(unseen_first: float, unseen: float, horizon: float) -> float:
    """Return ``1 - (1 - u_0) (1 - u)^(H - 1)``, H at least 1.

    >>> round(compound(0.16, 0.16, 9.238), 2)
    0.8
    """
    return float(1 - (1 - unseen_first) * (1 - unseen) ** max(horizon - 1, 0))


def _exact(policy: TargetPolicy, behavior: BehaviorPolicy, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of unseen actions and expected relative log-density, (B,) each."""
    probs = policy.probs(obs)  # (B, A)
    actions = torch.arange(probs.shape[-1], device=obs.device)[:, None].expand(-1, len(obs))
    unseen = behavior.unseen(obs, actions).T  # (B, A)
    relative = behavior.relative_log_density(obs, actions).T
    return (probs * unseen).sum(-1), (probs * relative).sum(-1)


def _drawn(policy: TargetPolicy, behavior: BehaviorPolicy, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Whether one drawn action is unseen, and its relative log-density, (B,) each."""
    action = policy.sample(obs)  # (B, A) or (B,)
    return behavior.unseen(obs, action), behavior.relative_log_density(obs, action)
