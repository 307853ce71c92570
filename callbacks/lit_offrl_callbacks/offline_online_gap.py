"""Whether the values that training ends with are what the policy earns in the environment."""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation import RawPolicy
from lit_offrl.evaluation.columns import Columns
from lit_offrl.evaluation.diagnosis.gap import episode_spread
from lit_offrl.evaluation.diagnosis.gap_episodes import (
    Array,
    Terms,
    entered,
    greedy_value,
    play_numbers,
)
from lit_offrl.evaluation.diagnosis.gap_findings import (
    critic_finding,
    distrusted,
    estimate_finding,
    reward_range_finding,
    without_episodes,
)
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import Finding
from lit_offrl.evaluation.probe import in_raw_scale, make_probe
from lit_offrl.evaluation.rollout import MAX_ENVS
from lit_offrl.rng import seed_draws
from lit_offrl_callbacks.diagnostic import Diagnostic, discount_of, offline_data
from lit_offrl_callbacks.shared_episodes import check_share, play_shared


class OfflineOnlineGap(Diagnostic):
    """Plays episodes and compares their returns with what the critic promised.

    J_off is the mean of ``min_j Q_j(s0, act(s0))`` over logged first observations, J_on the mean
    return of greedy episodes, discounted alike and in raw scale (of ``r + reward_shift /
    reward_scale``). Where a time limit T cuts off more than 5 % of the weight, γ^T, the critic's
    value of the last step stands in for what was cut off. Episodes spend the real environment, so
    they are counted. An estimate given as ``off_policy`` is compared too, with plain returns.

    Logged Metrics:
        - ``gap/critic``: ``(J_off - J_on) / max(|J_on|, S)`` of the critic; above 0 it is
          optimistic. S is P95 - P5 of the returns of logged episodes.
        - ``gap/ope``: the same of ``off_policy``.
        - ``gap/reward_range``: share of online rewards outside of the log's range.
        - ``verdict/gap_critic`` and so on: 0 ok, 1 watch, 2 fail, -1 not applicable.

    Args:
        episodes: Episodes per comparison; 0 never enters an environment.
        every_n_epochs: Epochs between comparisons; 0 compares after the last epoch alone.
        seed: Episode i starts from ``env.reset(seed=seed + i)``.
        env_id: Environment to play in; the recorded one if null.
        num_envs: Environments that are stepped side by side; 16 if null.
        starts: Most logged first observations to ask the critic about.
    """

    def __init__(
        self,
        episodes: int = 50,
        every_n_epochs: int = 0,
        seed: int = 10_000,
        env_id: str | None = None,
        num_envs: int | None = None,
        starts: int = 256,
    ) -> None:
        super().__init__(every_n_epochs or sys.maxsize)
        if episodes == 1 or episodes < 0:
            raise InputError(f"`episodes` of OfflineOnlineGap must be 0 or above 1: {episodes}.")
        if min(starts, 1 if num_envs is None else num_envs) < 1:
            raise InputError("The counts given to OfflineOnlineGap must be at least 1.")
        self.episodes, self.seed, self.starts = episodes, seed, starts
        self.env_id, self.num_envs = env_id, num_envs or MAX_ENVS
        self.episodes_spent = 0
        self.off_policy: Estimate | None = None
        """Off-policy estimate of the greedy policy, set by whoever made one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check early that the environment can be made, and gather what the log says."""
        if stage != "fit":
            return
        data = offline_data(trainer, "OfflineOnlineGap")
        scaling = data.scaling
        self._policy = RawPolicy(pl_module, data.spec, scaling)
        discount = discount_of(pl_module)
        if self.episodes:
            check_share(self, self.episodes, trainer)
        self._scale, reward = scaling.reward_scale, data.train.reward
        self._missing, limit = entered(data.spec, self.env_id, self.episodes, discount)
        logged = float(reward.min()), float(reward.max())
        shift = scaling.reward_shift / scaling.reward_scale
        self._terms = Terms(discount, shift, limit, logged)
        self._starts = make_probe(data.train, scaling, discount, 1, self.starts, self.seed)
        self._spread = episode_spread(data.train, discount)
        self._critic_spread = episode_spread(in_raw_scale(data.train, scaling), discount)

    def diagnose(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        """Ask the critic, play, and compare."""
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # some policies draw
            seed_draws(self.seed, pl_module.device)
            return self._found(trainer, pl_module)

    def _found(self, trainer: Trainer, pl_module: LightningModule) -> list[Finding]:
        values = self._start_values(trainer, pl_module)
        if self._missing:
            return [without_episodes(values, self._missing)]
        played = self._play(trainer, pl_module, values is not None)
        self.episodes_spent += len(played["steps"])
        findings = [
            reward_range_finding(
                float(played["outside"].sum() / played["steps"].sum()),
                (float(played["low"].min()), float(played["high"].max())),
                self._terms.logged_rewards,
            ),
            critic_finding(values, played["bootstrapped"], self._critic_spread, self._terms),
        ]
        if self.off_policy is not None:
            findings.append(
                estimate_finding(self.off_policy, played["plain"], self._spread, self._terms)
            )
        return distrusted(findings)

    def _value(self, pl_module: LightningModule, obs: Tensor) -> Tensor:
        """``min_j Q_j(s, act(s))`` in raw scale at normalized obs (B, O), (B,)."""
        return greedy_value(pl_module, obs) / self._scale

    def _start_values(self, trainer: Trainer, pl_module: LightningModule) -> Array | None:
        """Values of the logged first observations, (S,), of all ranks; None without a critic."""
        obs = self._starts.share(trainer.global_rank, trainer.world_size).start_obs
        columns = Columns("value").to(pl_module.device)
        try:
            columns.update(value=self._value(pl_module, obs))
        except NotApplicableError:
            return None
        values: Array = columns.compute()["value"].cpu().numpy()
        return values

    def _play(self, trainer: Trainer, pl_module: LightningModule, critic: bool) -> dict[str, Array]:
        """:func:`play_numbers` of the episodes of all ranks."""
        value = (lambda obs: self._value(pl_module, obs)) if critic else None
        return play_shared(
            lambda seeds: play_numbers(
                self._policy, value, self._terms, seeds, self.num_envs, self.env_id
            ),
            range(self.seed, self.seed + self.episodes),
            trainer,
            pl_module.device,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return findings, history and the episodes spent."""
        return {**super().state_dict(), "episodes_spent": self.episodes_spent}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from earlier findings."""
        super().load_state_dict(state_dict)
        self.episodes_spent = int(state_dict["episodes_spent"])
