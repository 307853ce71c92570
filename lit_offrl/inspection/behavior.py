"""How random the behavior policy is, by a quick fit of the project's own model of it."""

import math

import numpy as np
import torch

from lit_offrl.data import Transitions
from lit_offrl.data.packing import obs_statistics
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.behavior.fit import fit_behavior
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.inspection.thresholds import DETERMINISTIC
from lit_offrl.scaling import Scaling

ROWS = 50_000
"""Rows that the quick fit sees, in whole episodes."""


def behavior_findings(
    transitions: Transitions, spec: DatasetSpec, updates: int, seed: int = 0
) -> list[Finding]:
    """Estimate the entropy and the determinism of β̂.

    Args:
        transitions: The log.
        spec: What is known of it.
        updates: Gradient updates of the fit; 0 leaves it out.
        seed: Of the choice of episodes and the fit.
    """
    if updates == 0 or transitions.n_episodes < 2:
        reason = "Not fitted: `--behavior_updates` is 0, or there is one episode."
        return [not_applicable(n, reason) for n in ("behavior_entropy", "determinism")]
    part = _some_episodes(transitions, seed)
    scaling = _scaling(part, spec)
    fit = fit_behavior(part, scaling, spec, updates=updates, seed=seed)
    dims = 1 if spec.discrete else spec.action_dim
    bits = fit.nll / math.log(2) / dims
    uniform = math.log2(spec.action_dim) if spec.discrete else 1.0
    entropy = Finding(
        "behavior_entropy",
        "ok",
        f"Held-out actions take {bits:.2f} bits per dimension under β̂, where uniform ones take "
        f"{uniform:.2f}{'' if spec.discrete else ' (a density: below zero is possible)'}.",
        value=bits,
        unit="bits",
    )
    if not spec.discrete:
        return [entropy, not_applicable("determinism", "A density has no largest probability.")]
    obs = scaling.normalize_obs(torch.from_numpy(np.array(part.obs)))
    with torch.no_grad():
        share = float((fit.policy.probs(obs).amax(-1) > DETERMINISTIC).float().mean())
    narrow = share > DETERMINISTIC
    determinism = Finding(
        "determinism",
        "watch" if narrow else "ok",
        f"In {share:.0%} of the states one action has more than {DETERMINISTIC:.0%} probability.",
        "The log does not say what other actions do: stay with BC or strong constraints."
        if narrow
        else "",
        value=share,
    )
    return [entropy, determinism]


def _some_episodes(transitions: Transitions, seed: int) -> Transitions:
    order = np.random.default_rng(seed).permutation(transitions.n_episodes)
    steps = np.diff(transitions.episode_bounds)[order].cumsum()
    count = max(2, int(np.searchsorted(steps, ROWS)))
    return transitions.select_episodes(np.sort(order[:count]))


def _scaling(transitions: Transitions, spec: DatasetSpec) -> Scaling:
    mean, std = obs_statistics(transitions, np.arange(len(transitions)))
    return Scaling(
        torch.tensor(mean, dtype=torch.float32),
        torch.tensor(std + 1e-3, dtype=torch.float32),
        None if spec.action_low is None else torch.tensor(spec.action_low),
        None if spec.action_high is None else torch.tensor(spec.action_high),
    )
