"""Whether a critic's values are plausible, while it trains."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.diagnosis import q_history, q_sanity
from lit_offrl.evaluation.diagnosis.q_answers import Critic, all_finite
from lit_offrl.evaluation.diagnosis.q_questions import Questions
from lit_offrl.evaluation.diagnosis.q_sanity import Answers, QThresholds
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.evaluation.probe import return_facts
from lit_offrl.report import Curve, Scatter
from lit_offrl.report.training import value_curves
from lit_offrl.rng import seed_draws
from lit_offrl_callbacks.diagnostic import Diagnostic, discount_of, offline_data


class QValueSanity(Diagnostic):
    """Asks the critic about a fixed sample of the log, held-out rows where there are any.

    Works on any module with ``q_values``, ``act`` and ``discount``. Values are in raw reward, and
    verdicts are on shares of S, P95 - P5 of the log's discounted returns. A module without critic
    gets one finding that says so.

    Logged Metrics:
        - ``q/bounds``: share of values that no policy could earn.
        - ``q/vs_mc``: mean of Q(s, a) minus the Monte Carlo return, in S.
        - ``q/policy_gap``: mean of Q(s, π(s)) - Q(s, a), in S.
        - ``q/ood_gap``: mean of Q(s, a) minus Q of random actions, in S.
        - ``q/constant``: standard deviation of Q(s, a) between rows, in S.
        - ``q/sign``: largest value.
        - ``q/td_error``: squared TD errors on held-out over those on trained rows.
        - ``q/disagreement``: the critics' standard deviation on π over that on the log.
        - ``q/drift``: growth of Q(s, π(s)) per 10,000 updates, in S.
        - ``q/rank``, ``q/coadaptation``: effective rank and products of features.
        - ``awr/weights``: mean weight of advantage-weighted regression (IQL).
        - ``cql/trend``: how far Q(s, a) fell from its peak, in S (CQL).
        - ``q/nan``: 1 if a value or parameter is NaN or infinite.
        - ``verdict/q_bounds`` and so on: 0 ok, 1 watch, 2 fail, -1 not applicable.

    Args:
        rows: Most transitions to ask about.
        starts: Most first observations of episodes to ask about.
        every_n_epochs: Epochs between two diagnoses; the last epoch is diagnosed in any case.
        thresholds: Where verdicts turn; those of :class:`QThresholds` if null.
        seed: Which transitions, and which random actions.
    """

    def __init__(
        self,
        rows: int = 2048,
        starts: int = 256,
        every_n_epochs: int = 1,
        thresholds: QThresholds | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_epochs)
        if min(rows, starts) < 1:
            raise InputError("`rows` and `starts` of QValueSanity must be at least 1.")
        self.rows, self.starts, self.seed = rows, starts, seed
        self.thresholds = thresholds or QThresholds()
        self.trend: list[dict[str, float]] = []
        """Mean Q(s, a), Q(s, π(s)) and feature product, and ``update``, at each diagnosis."""
        self._known: list[tuple[list[float], list[float]]] = []  # logged returns and their Q

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what is asked, and draw the sample."""
        if stage != "fit":
            return
        for method in ("q_values", "act"):
            if not callable(getattr(pl_module, method, None)):
                name = type(pl_module).__name__
                raise InputError(f"QValueSanity: {name} has no `{method}`: write it.")
        discount = discount_of(pl_module)
        data = offline_data(trainer, "QValueSanity")
        self._facts = return_facts(data.logged, data.scaling, discount)
        self._reward_scale = data.scaling.reward_scale
        held_out = data.held_out_transitions
        self._questions = Questions(
            [held_out, data.train] if held_out.n_episodes else [data.train],
            data.scaling,
            discount,
            data.action_dim if data.discrete else None,
            self.rows,
            self.starts,
            self.seed,
            (trainer.global_rank, trainer.world_size),
        )

    def diagnose(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        """Ask about the sample, on every rank about its share."""
        like = next(pl_module.parameters())
        cuda = [like.device] if like.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # the policy may draw, and training must not notice
            seed_draws(self.seed, like.device)
            try:
                answers = self._questions.ask(cast(Critic, pl_module), like)
            except NotApplicableError as error:
                return [not_applicable("q_values", str(error))]
        known = answers["mc_return"].isfinite()
        if known.any():
            returns, q = (answers[name][known].tolist() for name in ("mc_return", "q_data"))
            self._known = [(returns, q)]
        numbers = [values for name, values in answers.items() if name != "mc_return"]
        if not all_finite(pl_module) or not all(bool(v.isfinite().all()) for v in numbers):
            return q_sanity.broken(sorted({*q_history.CHECKS, *self.findings} - {"q_nan"}))
        return [
            Finding("q_nan", "ok", "All values and parameters are finite numbers.", value=0.0),
            *self._judged(trainer.global_step, pl_module, answers),
        ]

    def _judged(self, update: int, pl_module: LightningModule, answers: Answers) -> list[Finding]:
        """Findings about the answers and their history."""
        means = {name: answers[name].mean().item() for name in q_history.SERIES if name in answers}
        self.trend.append({"update": float(update), **means})
        bonus = getattr(pl_module, "entropy_bound", 0.0) / self._reward_scale
        low, high = self._facts.value_low - bonus, self._facts.value_high + bonus
        return q_history.judge(
            self.trend,
            answers,
            replace(self._facts, value_low=low, value_high=high),
            self.thresholds,
            inverse_temperature=getattr(pl_module, "inverse_temperature", None),
            conservative=hasattr(pl_module, "cql_alpha"),
        )

    def curves(self) -> list[Curve]:
        """Mean values over training, with what the log returned."""
        weights = "Weights of advantage-weighted regression"
        return [
            *(value_curves(self.trend, self._facts.mean_return) if self.trend else ()),
            *self.history_curve(weights, "mean weight", {"awr_weights": "mean"}),
        ]

    def scatters(self) -> list[Scatter]:
        """Values against the returns that followed, at the latest diagnosis."""
        title, x, y = "Q against the logged return", "logged return-to-go", "Q(s, a)"
        axes = (f"{x} (raw reward)", f"{y} (raw reward)")
        return [Scatter.of(title, *axes, returns, q) for returns, q in self._known]

    def state_dict(self) -> dict[str, Any]:
        """Return findings, history and trend, in plain types."""
        return {**super().state_dict(), "trend": [dict(point) for point in self.trend]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from earlier findings."""
        super().load_state_dict(state_dict)
        self.trend = [dict(point) for point in state_dict["trend"]]
