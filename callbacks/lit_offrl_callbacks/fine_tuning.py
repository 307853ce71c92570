"""What fine-tuning gains and costs: return before, dip, recovery, regret, values, distance."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer

from lit_offrl.data.spaces import leaves
from lit_offrl.errors import EnvironmentFailed, InputError, NotApplicableError
from lit_offrl.evaluation import RawPolicy, evaluate
from lit_offrl.evaluation.diagnosis.divergence import policy_kl
from lit_offrl.evaluation.environment import make_env
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.probe import make_probe, return_facts
from lit_offrl.evaluation.rollout import Rollouts
from lit_offrl.online.datamodule import FineTuneDataModule
from lit_offrl.online.findings import (
    dip_finding,
    distance_finding,
    recalibration_finding,
    recovery_finding,
    regret_finding,
)
from lit_offrl.online.measures import Outcome, outcome
from lit_offrl.report import Curve
from lit_offrl.rng import seed_draws
from lit_offrl_callbacks.diagnostic import Diagnostic
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation


class FineTuning(Diagnostic):
    """Plays the offline policy before the first update, and measures what becomes of it.

    Needs a ``FineTuneDataModule`` and an ``OnlineEvaluation`` beside it.

    Logged Metrics:
        - ``finetune/dip``: ``max(0, J_0 - lowest) / |J_0 - J_rand|``, of a moving mean of 5
          evaluations in the first 100,000 steps.
        - ``finetune/recovery``: environment steps until the moving mean is back at J_0.
        - ``finetune/regret``: mean of ``(J_best - J_t) / (J_best - J_rand)`` over evaluations.
        - ``finetune/recalibration``: change of the mean Q of logged actions since the start, in
          raw reward.
        - ``finetune/kl``: KL(π‖offline policy) in bits, mean over logged states.
        - ``online/steps``, ``online/episodes``: environment steps and episodes collected.
        - ``online/return_mean``: mean return of the episodes collected since the last epoch.

    Args:
        episodes: Episodes that the offline policy and random actions are played for.
        rows: Logged transitions that values and distance are measured on.
        seed: Episode i starts from ``env.reset(seed=seed + i)``.
    """

    def __init__(self, episodes: int = 50, rows: int = 1024, seed: int = 30_000) -> None:
        super().__init__()
        if min(episodes, rows) < 1:
            raise InputError("`episodes` and `rows` of FineTuning must be at least 1.")
        self.episodes, self.rows, self.seed = episodes, rows, seed
        self.episodes_spent = 0
        self.before: dict[str, float] = {}
        """Return of the offline policy and of random actions, and mean Q before the start."""
        self._seen = 0
        self._started = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what it needs."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, FineTuneDataModule) or data.offline is None:
            raise InputError("FineTuning needs a FineTuneDataModule: give `fit` one.")
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        evaluations = [c for c in callbacks if isinstance(c, OnlineEvaluation)]
        if not evaluations:
            raise InputError("FineTuning needs an OnlineEvaluation: add one.")
        self._data, self.evaluation = data, evaluations[0]
        self._spread = return_facts(data.train, data.scaling, data.discount).spread
        self._probe = make_probe(data.train, data.scaling, 0.0, self.rows, 1, self.seed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Play the offline policy and random actions, unless a checkpoint knows the result."""
        if not self.before:
            self._measure_before(pl_module)
        self._started = True

    def _measure_before(self, pl_module: LightningModule) -> None:
        data = self._data
        assert data.offline is not None
        offline = RawPolicy(data.offline, data.spec, data.scaling)
        played = self._play(offline)
        self.before = {"return": played.mean, "random": self._random_return()}
        if (q := self._mean_q(pl_module)) is not None:
            self.before["q"] = q
        pl_module.print(
            f"offline policy: {played.mean:.1f} ± {played.std:.1f} over {self.episodes} episodes"
        )

    def _random_return(self) -> float:
        """The data set's reference score, or what random actions return."""
        data = self._data
        if data.spec.ref_min_score is not None:
            return float(data.spec.ref_min_score)
        env = make_env(data.spec, data.env_id)
        env.close()
        space = env.action_space
        space.seed(self.seed)
        return self._play(lambda obs: np.stack([space.sample() for _ in leaves(obs)[0]])).mean

    def _play(self, policy: Callable[[Any], Any]) -> Rollouts:
        data = self._data
        timeout = data.collecting.step_timeout
        self.episodes_spent += self.episodes
        return evaluate(
            policy, data.spec, self.episodes, self.seed, env_id=data.env_id, timeout=timeout
        )

    def diagnose(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        """Sum up the run so far."""
        data = self._data
        finished = data.episodes.finished
        fresh = [episode.total for episode in finished[self._seen :]]
        self._seen = len(finished)
        pl_module.log_dict(
            {"online/steps": float(data.env_steps), "online/episodes": float(len(finished))}
        )
        if fresh:
            pl_module.log("online/return_mean", float(np.mean(fresh)))
        findings = [self._distance(pl_module)]
        if (result := self.outcome()) is not None:
            findings += [f(result) for f in (dip_finding, recovery_finding, regret_finding)]
        q = self._mean_q(pl_module)
        if q is not None and "q" in self.before:
            findings.append(recalibration_finding(q - self.before["q"], self._spread))
        return findings

    def points(self) -> list[tuple[int, float]]:
        """Environment step and mean return of each evaluation."""
        steps = self._data.collecting.steps_before
        return [(steps(update - 1), mean) for update, mean in self.evaluation.history]

    def outcome(self) -> Outcome | None:
        """Dip, recovery and regret so far; None before the first evaluation."""
        points = self.points()
        if not points or "return" not in self.before:
            return None
        best = self._data.spec.ref_max_score
        return outcome(self.before["return"], points, self.before["random"], best)

    @torch.no_grad()
    def _mean_q(self, pl_module: LightningModule) -> float | None:
        """Mean of ``min_j Q_j(s, a)`` over logged actions, in raw reward; None without a critic."""
        seen = self._probe.to(next(pl_module.parameters()))
        try:
            q = pl_module.q_values(seen.obs, seen.action)  # type: ignore[operator]
        except NotApplicableError:
            return None
        return float(q.amin(0).mean()) / self._data.scaling.reward_scale

    def _distance(self, pl_module: LightningModule) -> Finding:
        """KL from the offline policy, over time in the report."""
        parameter, offline = next(pl_module.parameters()), self._data.offline
        assert offline is not None
        if not pl_module.draws_from_policy:
            return distance_finding(None, "It chooses between two policies, and has no density.")
        obs = self._probe.to(parameter).obs
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(16, *self._probe.action.shape, generator=generator)
        with torch.random.fork_rng(devices=[]):
            seed_draws(self.seed, parameter.device)
            try:
                policy: Any = pl_module.policy(obs)  # type: ignore[operator]
                bits = policy_kl(policy, offline.to(parameter.device).policy(obs), noise)[0]
            except NotApplicableError as error:
                return distance_finding(None, str(error))
        return distance_finding(float(bits.mean()))

    def curves(self) -> list[Curve]:
        """Return over environment steps, distance from the offline policy, and values."""
        points = self.points()
        lines = {"return": "offline policy", "random": "random actions"}
        returns = Curve(
            "Return of fine-tuning",
            "mean undiscounted return (raw reward)",
            [float(step) for step, _ in points],
            {"policy": [mean for _, mean in points]},
            hlines={lines[k]: v for k, v in self.before.items() if k in lines},
            xlabel="environment steps",
        )
        return [
            *([returns] if points else []),
            *self.history_curve(
                "Distance from the offline policy", "bits", {"finetune_kl": "KL(π‖offline)"}
            ),
            *self.history_curve(
                "Q of logged actions since the start",
                "change of the mean (raw reward)",
                {"finetune_recalibration": "mean change"},
            ),
        ]

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keep what was collected until an environment failed."""
        if isinstance(exception, EnvironmentFailed) and self._started:
            trainer.save_checkpoint(self._data.folder / "checkpoints" / "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """Return findings, history, and what was measured before the start."""
        own = {"before": dict(self.before), "seen": self._seen}
        return {**super().state_dict(), **own, "episodes_spent": self.episodes_spent}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state_dict)
        self.before, self._seen = dict(state_dict["before"]), int(state_dict["seen"])
        self.episodes_spent = int(state_dict["episodes_spent"])
