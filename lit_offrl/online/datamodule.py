"""The DataModule of a fine-tuning run: a log, a buffer, and environments that fill it."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.data import DatasetSpec, OfflineDataModule
from lit_offrl.data.packing import least_after_cut
from lit_offrl.data.sampler import UpdateBlocks
from lit_offrl.errors import EnvironmentFailed, InputError
from lit_offrl.evaluation import RawPolicy
from lit_offrl.online.environments import Environments, Step
from lit_offrl.online.episodes import OpenEpisodes
from lit_offrl.online.exploration import Exploration, Explorer
from lit_offrl.online.mixing import MixedSampler, Mixing, RowWeight
from lit_offrl.online.replay import ReplayBuffer
from lit_offrl.rng import seed_draws, stream_seed
from lit_offrl.scaling import Scaling

_log = logging.getLogger(__name__)
ACTION_STREAM = 2


@dataclass(frozen=True)
class Collecting:
    """How a run collects.

    Args:
        steps: Environment steps of the run, over all environments.
        num_envs: Environments that are stepped side by side.
        utd: Gradient updates per environment step (update-to-data ratio).
        warmup_steps: Steps before the first update, with the policy as it was trained offline.
        random_steps: Steps at the start with uniform actions, in place of the policy's.
        capacity: Transitions that the buffer holds.
        eval_every: Environment steps between evaluations and checkpoints.
        step_timeout: Seconds after which an environment counts as hanging; 0 waits for ever.
    """

    steps: int = 100_000
    num_envs: int = 1
    utd: float = 1.0
    warmup_steps: int = 0
    random_steps: int = 0
    capacity: int = 1_000_000
    eval_every: int = 5_000
    step_timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "capacity", "eval_every"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, not {getattr(self, name)}.")
        for name in ("warmup_steps", "random_steps", "step_timeout"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` must not be negative, as {getattr(self, name)} is.")
        if not 0 < self.utd < math.inf:
            raise InputError(f"`utd` must be positive, not {self.utd}.")
        if self.updates < 1:
            raise InputError(
                f"`steps` {self.steps} ends the run before its first update at step "
                f"{self.steps_before(0)} (`warmup_steps`, `random_steps`, `utd`): raise it."
            )

    @property
    def first_update_at(self) -> int:
        """Environment steps before the first update."""
        return max(self.warmup_steps, self.random_steps)

    @property
    def updates(self) -> int:
        """Gradient updates of the whole run."""
        return math.floor((self.steps - self.first_update_at) * self.utd)

    @property
    def updates_per_epoch(self) -> int:
        """Updates between two evaluations."""
        return max(1, round(self.eval_every * self.utd))

    @property
    def updates_per_step(self) -> int:
        """Updates between two steps of all environments, K."""
        return max(1, math.floor(self.num_envs * self.utd))

    def steps_before(self, update: int) -> int:
        """Environment steps that must be done before an update."""
        return self.first_update_at + math.ceil((update + 1) / self.utd)


class FineTuneDataModule(OfflineDataModule):
    """Batches of a log and of what the present policy has collected in its environment.

    Between two chunks of updates the environments are stepped. Observation statistics, reward
    transform, action bounds and split are those of the policy that was trained offline.

    Args:
        spec: Data set that the policy was trained on.
        scaling: Scaling that it was trained with.
        collecting: How much to collect.
        mixing: How to mix it with the log.
        exploration: How to act.
        folder: The run's folder, for the buffer.
        env_id: Environment; the recorded one if None.
        **data: Arguments of :class:`OfflineDataModule`.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        scaling: Scaling,
        collecting: Collecting,
        mixing: Mixing,
        exploration: Exploration,
        folder: Path,
        env_id: str | None = None,
        **data: Any,
    ) -> None:
        super().__init__(
            updates_per_step=collecting.updates_per_step,
            updates_per_epoch=collecting.updates_per_epoch,
            **data,
        )
        spec.refuse_images("Fine-tuning")
        self.known_spec, self.known_scaling = spec, scaling
        self.collecting, self.mixing, self.exploration = collecting, mixing, exploration
        self.folder, self.env_id = folder, env_id
        self.offline: OfflineAlgorithm | None = None
        """The policy as it was trained offline, frozen."""
        self.row_weight: RowWeight | None = None
        """Weight of packed logged rows, see :class:`MixedSampler`."""
        self.env_steps = 0
        """Steps taken so far, over all environments."""
        self._resumed: dict[str, Any] | None = None
        self._environments: Environments | None = None

    @property
    def scaling(self) -> Scaling:
        """Scaling of the policy that was trained offline."""
        return self.known_scaling

    def setup(self, stage: str) -> None:
        """Pack the log, make the environments, and take up where a checkpoint left off."""
        if self.spec.content_hash != self.known_spec.content_hash:
            raise InputError(
                f"`{self.spec.dataset_id}` (content {self.spec.content_hash[:8]}) is not the log "
                f"that the policy was trained on (`{self.known_spec.dataset_id}`, "
                f"{self.known_spec.content_hash[:8]}): give it that one with `--dataset_id`."
            )
        super().setup(stage)
        envs = self.collecting.num_envs
        self.buffer = ReplayBuffer(
            self.collecting.capacity, self.layout.width, self.folder / "buffer"
        )
        lowest = self.scaling.transform_reward(torch.tensor(self._loaded[0].reward.min()))
        self.episodes = OpenEpisodes(
            envs,
            self.layout,
            self.discount,
            self.scaling,
            self.buffer,
            least_after_cut(float(lowest), self.discount),
        )
        self._sampler = MixedSampler(
            self.train_matrix, self.buffer, self.batch_size, self.seed, self.row_weight
        )
        self._environments = Environments(
            self.spec, self.env_id, envs, self.seed, self.collecting.step_timeout
        )
        if self.trainer is not None and self.offline is not None:
            algorithm: Any = self.trainer.lightning_module
            obs = next(algorithm.parameters()).new_zeros(1, self.obs_dim)
            self.exploration.refuse_unfit(algorithm, self.offline.to(obs.device), obs)
        if self._resumed is None:
            self._environments.start()
        else:
            self._take_up(self._resumed, self._environments)

    def _take_up(self, state: dict[str, Any], environments: Environments) -> None:
        self.env_steps = int(state["env_steps"])
        self.buffer.load(state["buffer"])
        self.episodes.load_state_dict(state["episodes"])
        if not environments.load_state_dict(state["environments"]):
            _log.warning(
                "The environment does not repeat itself: the episodes that the checkpoint cut "
                "are given up, and new ones begin."
            )
            environments.abandon()
            environments.restart()
            self.episodes.give_up()

    # Batches.

    def train_dataloader(self) -> UpdateBlocks:
        """Numbers of the updates to come, K at a time: their batches are made when they start."""
        assert self.trainer is not None
        return UpdateBlocks(self, self.trainer, self.updates_per_step, self.updates_per_epoch)

    def block(self, first_update: int, k: int) -> Tensor:
        """First update and K, (2,): Lightning asks for a block ahead of time."""
        return torch.tensor([first_update, k])

    def on_before_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        """Collect up to the block's first update, and gather its batches, (K, B, W)."""
        if batch.is_floating_point():  # a held-out batch
            return batch
        first, k = batch.tolist()
        self._collect(self.collecting.steps_before(first + k - 1))
        fraction = self.mixing.fraction(self.env_steps)
        return torch.stack([self._sampler.batch(first + i, fraction) for i in range(k)])

    def _collect(self, until: int) -> None:
        """Step the environments until that many steps are done."""
        assert self.trainer is not None and self._environments is not None
        if self.env_steps >= until:
            return
        algorithm: Any = self.trainer.lightning_module
        assert self.offline is not None
        policy = _Collector(
            Explorer(algorithm, self.offline.to(algorithm.device), self.exploration),
            self.spec,
            self.scaling,
        )
        try:
            while self.env_steps < until:
                seed_draws(stream_seed(self.seed, self.env_steps, ACTION_STREAM), algorithm.device)
                policy.step = self.env_steps
                policy.random = self.env_steps < self.collecting.random_steps
                policy.warming_up = self.env_steps < self.collecting.warmup_steps
                raw = policy(self._environments.obs)
                self._keep(self._environments.step(raw), policy.scaled)
        except EnvironmentFailed:  # so that a checkpoint can still be written
            self.episodes.give_up()
            self._environments.abandon()
            raise

    def _keep(self, step: Step, action: Tensor) -> None:
        self.env_steps += len(step.reward)
        self.episodes.add(step, action, self.env_steps)

    def teardown(self, stage: str) -> None:
        """Close the environments."""
        if self._environments is not None:
            self._environments.close()

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """What a policy needs to act and a run to go on; writes the buffer's new rows."""
        assert self._environments is not None
        return {
            **super().state_dict(),
            "online": {
                "env_steps": self.env_steps,
                "buffer": self.buffer.save(self.episodes.settled),
                "episodes": self.episodes.state_dict(),
                "environments": self._environments.state_dict(),
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed and what was collected; refuse another run's checkpoint."""
        if "online" not in state_dict:
            raise InputError("The checkpoint is not one of `lit-offrl finetune`.")
        super().load_state_dict(state_dict)
        self._resumed = state_dict["online"]
        if self._environments is not None:
            self._take_up(self._resumed, self._environments)


class _Collector(RawPolicy):
    """A policy that explores, and remembers its actions as the networks see them."""

    def __init__(self, explorer: Explorer, spec: DatasetSpec, scaling: Scaling) -> None:
        super().__init__(explorer.algorithm, spec, scaling)
        self._act = self._explore
        self._explorer = explorer
        self.step = 0
        self.random = self.warming_up = False
        self.scaled = torch.empty(0)
        """Latest actions in [-1, 1] or indices, (E, A) or (E,), on the CPU."""

    def _explore(self, obs: Tensor) -> Tensor:
        if self.random and self.spec.discrete:
            action = torch.randint(self.spec.action_dim, (len(obs),))
        elif self.random:
            action = 2 * torch.rand(len(obs), self.spec.action_dim) - 1
        else:
            action = self._explorer.act(obs, self.step, self.warming_up)
        self.scaled = action.cpu()
        return action
