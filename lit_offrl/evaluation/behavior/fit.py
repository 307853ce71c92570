"""Estimate the behavior policy from the log, and say how far the estimate can be trusted."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium import spaces
from minari.serialization import deserialize_space

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.findings import (
    overfit_finding,
    score_findings,
    self_kl_finding,
)
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy, Kind
from lit_offrl.evaluation.behavior.scores import Scores, divergence_bits, score
from lit_offrl.evaluation.behavior.training import (
    Counter,
    Progress,
    Rows,
    count_actions,
    fit_model,
)
from lit_offrl.evaluation.finding import Finding
from lit_offrl.rng import stream_seed
from lit_offrl.scaling import Scaling

UPDATES = 2500
HELD_OUT_FRACTION = 0.1
PROBE_ROWS = 2048


@dataclass(frozen=True)
class BehaviorFit:
    """A behavior model, and how far it can be trusted.

    Args:
        policy: The model β̂.
        scores: Its scores on the held-out episodes; on the fitted ones if ``in_sample``.
        nll_train: Mean NLL of the fitted rows, in nats.
        in_sample: Whether no episodes were held out.
        n_episodes: Number of episodes, held-out ones included.
        self_kl_bits: KL between fits to two halves of the episodes, mean over states and both
            directions: the floor of any KL to β̂. None if there is one episode.
        self_kl_bits_per_dim: The same of each action dimension's marginal; one number if actions
            are discrete.
    """

    policy: BehaviorPolicy
    scores: Scores
    nll_train: float
    in_sample: bool
    n_episodes: int
    self_kl_bits: float | None
    self_kl_bits_per_dim: tuple[float, ...] | None

    @property
    def kind(self) -> Kind:
        """Kind of the model."""
        return self.policy.kind

    @property
    def nll(self) -> float:
        """Mean NLL of the held-out rows, in nats."""
        return self.scores.nll

    @property
    def ece(self) -> float | None:
        """Expected calibration error; None for Box actions."""
        return self.scores.ece

    @property
    def pit(self) -> tuple[float, ...] | None:
        """KS distance of the PIT per action dimension; None for discrete actions."""
        return self.scores.pit

    @property
    def pit_statistic(self) -> float | None:
        """Largest of these distances."""
        return self.scores.pit_statistic

    def findings(self) -> list[Finding]:
        """Say what the scores mean."""
        dims = 1 if self.policy.discrete else self.policy.action_dim
        return [
            *score_findings(self.scores),
            overfit_finding(self.nll, self.nll_train, dims, self.in_sample),
            self_kl_finding(self.self_kl_bits, dims),
        ]


def fit_behavior(
    transitions: Transitions,
    scaling: Scaling,
    spec: DatasetSpec,
    *,
    kind: Kind | Literal["auto"] = "auto",
    updates: int = UPDATES,
    seed: int = 0,
    held_out_fraction: float = HELD_OUT_FRACTION,
    progress: Progress | None = None,
) -> BehaviorFit:
    """Fit β̂ by maximum likelihood, every row with the same weight.

    Give it the log as it is: a batch sampler's weights or the best episodes alone would make it
    the model of a policy that nobody followed. Networks keep the weights with the best held-out
    NLL and end early when it stops falling; logits are then divided by the temperature with the
    best held-out NLL (Guo et al. 2017). A table is counted over all episodes once it is scored.

    Args:
        transitions: The log, in raw units.
        scaling: Between raw units and what the policies see.
        spec: The data set.
        kind: See :class:`BehaviorPolicy`; ``auto`` is a table where observations are Discrete,
            else ``categorical``; for Box actions the better held-out NLL of the other two.
        updates: Adam steps on batches of 256.
        seed: Of the split, the networks and the batches.
        held_out_fraction: Fraction of the episodes that scores are made on. 0 fits and scores the
            same rows, as regression importance sampling asks (Hanna et al. 2019).
        progress: Called with the updates done and their total.

    Raises:
        InputError: If there is no data, or an option does not suit it.
    """
    spec.refuse_images("A behavior policy")
    kinds = _kinds(kind, spec)
    _check(transitions, spec, updates, held_out_fraction)
    n = transitions.n_episodes
    order = np.random.default_rng(stream_seed(seed, 0)).permutation(n)
    n_held_out = min(max(round(held_out_fraction * n), 1), n - 1) if held_out_fraction > 0 else 0
    fitted = Rows(transitions, scaling, order[n_held_out:])
    judged = Rows(transitions, scaling, order[:n_held_out]) if n_held_out else fitted
    counter = Counter(progress, updates * len(kinds) + 2 * (updates // 2))

    models = [fit_model(k, fitted, judged, spec, updates, seed, counter) for k in kinds]
    scored = [(model, _score(model, judged)) for model in models]
    policy, scores = min(scored, key=lambda pair: pair[1].nll)
    nll_train = _score(policy, fitted).nll
    if policy.kind == "tabular":
        policy = count_actions(Rows(transitions, scaling, order), spec)
    policy.logged_unseen.fill_(_score(policy, judged).unseen)
    self_kl = None
    if n > 1:
        halves = [Rows(transitions, scaling, half) for half in (order[::2], order[1::2])]
        self_kl = _self_kl(policy.kind, halves, judged, spec, updates // 2, seed, counter)
    return BehaviorFit(
        policy.requires_grad_(False).eval(),
        scores,
        nll_train,
        n_held_out == 0,
        n,
        None if self_kl is None else self_kl[0],
        None if self_kl is None else self_kl[1],
    )


def score_behavior(policy: BehaviorPolicy, transitions: Transitions, scaling: Scaling) -> Scores:
    """Score any behavior model on a log, such as one that was fitted to another.

    Args:
        policy: The model.
        transitions: The log, in raw units.
        scaling: Scaling that the model was fitted with.
    """
    return _score(policy, Rows(transitions, scaling, np.arange(transitions.n_episodes)))


def _check(
    transitions: Transitions, spec: DatasetSpec, updates: int, held_out_fraction: float
) -> None:
    if not len(transitions):
        raise InputError(f"Data set `{spec.dataset_id}` has no rows to fit a behavior policy to.")
    if updates < 2:
        raise InputError(f"`updates` must be at least 2, not {updates}.")
    if not 0 <= held_out_fraction < 1:
        raise InputError(f"`held_out_fraction` must lie in [0, 1), not {held_out_fraction}.")


def _kinds(kind: str, spec: DatasetSpec) -> list[Kind]:
    """Kinds of model to fit."""
    kinds: list[Kind] = ["tanh_gaussian", "mixture"]
    if spec.discrete:
        tabular = isinstance(deserialize_space(spec.obs_space), spaces.Discrete)
        kinds = ["tabular", "categorical"] if tabular else ["categorical"]
    if kind == "auto":
        return kinds[:1] if spec.discrete else kinds
    chosen = [k for k in kinds if k == kind]
    if not chosen:
        raise InputError(
            f"Data set `{spec.dataset_id}`: `kind` may be auto, {' or '.join(kinds)}, not {kind}."
        )
    return chosen


def _score(policy: BehaviorPolicy, rows: Rows) -> Scores:
    return score(policy, *rows.spread(), n_episodes=rows.n_episodes)


def _self_kl(
    kind: Kind,
    halves: list[Rows],
    judged: Rows,
    spec: DatasetSpec,
    updates: int,
    seed: int,
    counter: Counter,
) -> tuple[float, tuple[float, ...]]:
    """KL in bits between fits to halves of the episodes, total and per dimension."""
    one, other = (
        fit_model(kind, half, half, spec, updates, seed + 1 + i, counter)
        for i, half in enumerate(halves)
    )
    obs, _ = judged.spread(PROBE_ROWS)
    there, back = divergence_bits(one, other, obs), divergence_bits(other, one, obs)
    per_dim = tuple((a + b) / 2 for a, b in zip(there[1], back[1], strict=True))
    return (there[0] + back[0]) / 2, per_dim
