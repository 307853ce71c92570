"""How far the policy has moved from the one that made the log."""

from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.evaluation.behavior.fit import BehaviorFit
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.columns import Columns
from lit_offrl.evaluation.diagnosis import kl_findings
from lit_offrl.evaluation.diagnosis.kl_answers import compare
from lit_offrl.evaluation.diagnosis.kl_findings import Limits
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.evaluation.probe import make_probe
from lit_offrl.policies import Deterministic, Greedy
from lit_offrl.report import Curve
from lit_offrl.rng import seed_draws
from lit_offrl_callbacks.diagnostic import Diagnostic, offline_data

DRAWS = 16
"""Actions per state where a divergence has no closed form."""


class KLDivergence(Diagnostic):
    """Measures the divergence from a behavior policy β̂ that is fitted to the log beforehand.

    Asks ``policy(obs)``, or ``act(obs)`` of a module that has none or draws from more than it,
    about logged observations, held-out ones where there are any. What two fits of β̂ differ by is
    subtracted before a verdict. A deterministic policy of Box actions has no density, and gets the
    support of its actions.

    Logged Metrics:
        - ``kl/behavior``: mean KL(π‖β̂), in bits; per dimension of Box actions.
        - ``kl/coverage``: KL(β‖π), how much worse π predicts logged actions than β̂, likewise.
        - ``kl/support``: how far π's action lies below β̂'s most usual one, likewise.
        - ``kl/too_close``: distance beyond that of two fits of β̂, likewise.
        - ``verdict/kl_behavior`` and so on: 0 ok, 1 watch, 2 fail, -1 not applicable.

    Args:
        rows: Most transitions to ask about.
        every_n_epochs: Epochs between two diagnoses; the last epoch is diagnosed in any case.
        per_dimension: Bits per dimension from which the verdict on Box actions of several
            dimensions is ``watch``, and ``fail``.
        total: Bits, likewise, for discrete actions and Box actions of one dimension.
        too_close: Bits per dimension below which the policy is called behavior cloning.
        seed: Which transitions, which actions are drawn, and of the fit.
    """

    def __init__(
        self,
        rows: int = 2048,
        every_n_epochs: int = 1,
        per_dimension: tuple[float, float] = (0.5, 2.0),
        total: tuple[float, float] = (1.0, 5.0),
        too_close: float = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_epochs)
        if rows < 1:
            raise InputError(f"`rows` of KLDivergence must be at least 1, not {rows}.")
        for name, pair in (("per_dimension", per_dimension), ("total", total)):
            if not 0 < pair[0] <= pair[1]:
                raise InputError(f"`{name}` of KLDivergence must be two rising bits, not {pair}.")
        self.rows, self.seed, self.too_close = rows, seed, too_close
        self.per_dimension, self.total = per_dimension, total
        self._fit: BehaviorFit | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fit the behavior policy, or take it from the cache."""
        if stage != "fit":
            return
        data = offline_data(trainer, "KLDivergence")
        if not any(callable(getattr(pl_module, name, None)) for name in ("policy", "act")):
            raise InputError(f"{type(pl_module).__name__} has no `policy(obs)`: write one.")
        self._n_actions = data.action_dim if data.discrete else None
        n_dims = 1 if data.discrete else data.action_dim
        watch, fail = self.total if n_dims == 1 else self.per_dimension
        self._limits = Limits(watch, fail, self.too_close, n_dims)
        self._fit = None
        if data.images:
            return
        # every logged episode counts, also where only the best are trained on
        fit = cached_behavior(data.logged, data.scaling, data.spec, seed=self.seed)
        self._fit, self._of_fit = fit, fit.findings()
        held_out = data.held_out_transitions
        rows = held_out if len(held_out) else data.logged
        self._probe = make_probe(rows, data.scaling, 0.0, self.rows, 1, self.seed)
        self._limits = replace(self._limits, floor=fit.self_kl_bits or 0.0)

    def curves(self) -> list[Curve]:
        """Distance from the behavior policy over training."""
        ylabel = "bits" if self._limits.n_dims == 1 else "bits per action dimension"
        labels = {"kl_behavior": "KL(π‖β̂)", "kl_support": "below β̂'s most usual action"}
        return self.history_curve("Distance from the behavior policy", ylabel, labels)

    def diagnose(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        """Compare the policies at the probe's observations."""
        if self._fit is None:
            return [not_applicable("kl_behavior", "No behavior policy is fitted to images.")]
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # some policies draw
            seed_draws(self.seed, pl_module.device)
            columns, reason = self._compare(trainer, pl_module, self._fit.policy)
        gathered = Columns(*columns).to(pl_module.device)
        gathered.update(**columns)
        findings = kl_findings.judge(gathered.compute(), reason, self._limits)
        return kl_findings.trust(findings, self._of_fit)

    def _compare(
        self, trainer: Trainer, pl_module: LightningModule, behavior: BehaviorPolicy
    ) -> tuple[dict[str, Tensor], str]:
        """Columns of this rank's rows, and why there is no density, or ""."""
        rank, world = trainer.global_rank, trainer.world_size
        parameter = next(pl_module.parameters())
        probe = self._probe.share(rank, world)
        seen = probe.to(parameter)
        return compare(
            self._policy(pl_module, seen.obs),
            behavior.to(parameter.device),
            probe.obs.to(parameter.device),
            seen.action,
            self._noise()[:, rank::world].to(parameter.device),
        )

    def _policy(self, pl_module: LightningModule, obs: Tensor) -> Any:
        policy: Any = getattr(pl_module, "policy", None)
        if callable(policy) and getattr(pl_module, "draws_from_policy", True):
            return policy(obs)
        action: Tensor = pl_module.act(obs)  # type: ignore[operator]
        if self._n_actions is None:
            return Deterministic(action)
        return Greedy(action, self._n_actions)

    def _noise(self) -> Tensor:
        """The same draws at each diagnosis and of all ranks, (16, M, ...)."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(DRAWS, *self._probe.action.shape, generator=generator)
