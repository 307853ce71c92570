"""Fit FQE to bootstrapped and cross-fitted folds of a log."""

import math
from collections.abc import Callable
from functools import partial

import torch
from scipy import stats
from torch import Tensor, nn

from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators.fqe import FQE
from lit_offrl.evaluation.estimators.fqe_result import SAMPLES, FQEResult
from lit_offrl.evaluation.logged import (
    LoggedData,
    batches,
    bootstrap_weights,
    in_chunks,
    row_weights,
    value_range,
)
from lit_offrl.evaluation.target import TargetPolicy

CHECKPOINTS = 30
"""How many points the curve of the estimate has."""


def fit_fqe(
    data: LoggedData,
    policy: TargetPolicy,
    discount: float,
    updates: int = 5000,
    members: int = 5,
    seed: int = 0,
    *,
    hidden: tuple[int, ...] = (256, 256),
    lr: float = 3e-4,
    polyak: float = 0.1,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> FQEResult:
    """Fit an ensemble on bootstrapped episodes, each member without one fold of them.

    Args:
        data: The log.
        policy: The policy to evaluate.
        discount: γ.
        updates: Number of gradient updates.
        members: Size K of the ensemble, and number of folds.
        seed: Seed of folds, resamples, networks and batches.
        hidden: Widths of the hidden layers.
        lr: Learning rate.
        polyak: Step of the target network: ``polyak * updates`` times the Bellman backup must
            reach far beyond 1 / (1 - γ).
        batch_size: B.
        progress: Called with the number of updates done, now and then.

    Raises:
        InputError: If there is too little data, or no return to estimate.
    """
    _check(data, discount, updates, members)
    layout, mc_return = data.layout, data.mc_returns(discount)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fqe = FQE(
            layout.obs_dim,
            layout.action_dim,
            layout.discrete,
            policy,
            hidden,
            members,
            lr,
            discount,
            polyak,
            offset=float(mc_return.mean()),  # so that few updates suffice
            scale=_spread(mc_return),
            q_range=value_range(data.reward, discount, bool(data.terminated.any())),
        ).to(data.obs.device)
        return _Fit(fqe, data, members, seed).run(updates, batch_size, seed, progress)


def check_size(updates: int, members: int) -> None:
    """Refuse a fit that is too small to say how sure it is.

    Raises:
        InputError: If there are too few updates or members.
    """
    if updates < CHECKPOINTS:
        raise InputError(f"FQE needs at least {CHECKPOINTS} updates, not {updates}.")
    if members < 2:
        raise InputError(f"FQE's interval needs at least 2 members, not {members}.")


def _check(data: LoggedData, discount: float, updates: int, members: int) -> None:
    check_size(updates, members)
    if data.n_episodes < 2:
        raise InputError("FQE resamples episodes, and the log has but one: record more.")
    if discount == 1 and not bool(data.terminated.any()):
        raise InputError("Without an end of episodes and with a discount of 1 there is no value.")


def _spread(returns: Tensor) -> float:
    """Standard deviation of returns; their size, or 1, where all are equal."""
    return float(returns.std(correction=0)) or float(returns.abs().max()) or 1.0


def _drift(curve: dict[int, float]) -> float:
    """Rise of the line through the last third of a curve: two of its points would be noise.

    >>> _drift({100: 7.0, 200: 6.0, 300: 1.0, 400: 2.0, 500: 3.0, 600: 4.0})
    2.0
    """
    updates = max(curve)
    last = {u: value for u, value in curve.items() if u >= updates * 2 / 3}
    slope = stats.linregress(list(last), list(last.values())).slope
    return float(slope * (updates - min(last)))


class _Fit:
    """One fit: the network beside the folds, resamples and choices of π that do not change."""

    def __init__(self, fqe: FQE, data: LoggedData, members: int, seed: int) -> None:
        self.fqe, self.data = fqe, data
        order = torch.randperm(data.n_episodes)
        self.fold = torch.empty_like(order)  # (E,)
        self.fold[order] = torch.arange(data.n_episodes) % members
        left_out = self.fold == torch.arange(members).unsqueeze(1)  # (K, E)
        self.counts = bootstrap_weights(data.n_episodes, members, seed, left_out)
        self.counts = self.counts.to(data.obs.device)
        self.fixed = fqe.actions == "discrete" or fqe.target_policy.deterministic
        self.start = data.obs[data.first]  # (E, O)
        self.start_choice = self._choices(self.start)

    def run(
        self, updates: int, batch_size: int, seed: int, progress: Callable[[int], None] | None
    ) -> FQEResult:
        k = len(self.counts)
        extras = row_weights(self.counts, self.data.episode).T  # (N, K)
        if self.fixed:
            extras = torch.cat([extras, self._choices(self.data.next_obs).squeeze(0)], 1)
        curve, last_third, clipped = {}, updates * 2 // 3, torch.zeros(())
        marks = {updates * (i + 1) // CHECKPOINTS for i in range(CHECKPOINTS)}
        steps = batches(self.data, extras, batch_size, updates, seed)
        for update, (batch, extra) in enumerate(steps, 1):
            choice = self._shaped(extra[:, k:]) if self.fixed else None
            metrics = self.fqe.update(batch, extra[:, :k].T, choice)
            if update > last_third:
                clipped = clipped + metrics["q/clipped"]
            if update in marks:
                curve[update] = float(self._member_values().mean())
                if progress is not None:
                    progress(update)
        if not math.isfinite(curve[updates]):
            raise InputError("FQE diverged: lower its learning rate.")
        return self._result(curve, _drift(curve), float(clipped) / (updates - last_third))

    def _choices(self, obs: Tensor) -> Tensor:
        """What π does at all of obs: (rows, A), or (samples, rows, A) of Box actions."""
        parts = [self.fqe.choose(part, SAMPLES) for part in torch.split(obs, 4096)]
        return torch.cat(parts, -2)

    def _shaped(self, choice: Tensor) -> Tensor:
        return choice if self.fqe.actions == "discrete" else choice.unsqueeze(0)

    @torch.no_grad()
    def _member_values(self) -> Tensor:
        """Mean of V over each member's resample of first observations, (K,)."""
        v = self.fqe.expected(self.fqe.target_q, self.start, self.start_choice)  # (K, E)
        return (self.counts * v).sum(1) / self.counts.sum(1)

    @torch.no_grad()
    def _result(self, curve: dict[int, float], drift: float, clipped_share: float) -> FQEResult:
        fqe, data = self.fqe, self.data
        q, v, next_v = torch.zeros(3, len(data), device=data.obs.device)
        row_fold = self.fold.to(data.obs.device)[data.episode]  # (N,)
        for k in range(len(self.counts)):
            rows = (row_fold == k).nonzero().squeeze(1)
            if len(rows):
                net = fqe.member(k)
                q[rows] = in_chunks(partial(fqe.taken, net), data.obs[rows], data.action[rows])[0]
                v[rows] = in_chunks(partial(self._v, net), data.obs[rows])[0]
                next_v[rows] = in_chunks(partial(self._v, net), data.next_obs[rows])[0]
        error = data.reward + fqe.discount * (1 - data.terminated) * next_v - q
        last = torch.cat([data.first[1:], data.first.new_tensor([len(data)])]) - 1  # (E,)
        return FQEResult(
            member_values=self._member_values().cpu(),
            fold=self.fold,
            q=q.cpu(),
            v=v.cpu(),
            tail_v=((1 - data.terminated) * next_v)[last].cpu(),
            bellman_residual=float(error.square().mean().sqrt()),
            curve=curve,
            drift=drift,
            clipped_share=clipped_share,
            scale=fqe.scale,
            fqe=fqe,
        )

    def _v(self, net: nn.Module, obs: Tensor) -> Tensor:
        return self.fqe.expected(net, obs, self.fqe.choose(obs, SAMPLES))
