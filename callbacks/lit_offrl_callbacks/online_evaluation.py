"""Returns of the policy in the data set's own environment, while it trains."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_offrl.errors import InputError
from lit_offrl.evaluation import RawPolicy, make_env, normalized_score, play
from lit_offrl_callbacks.diagnostic import is_last_epoch
from lit_offrl_callbacks.shared_episodes import Numbers, check_share, play_shared

_log = logging.getLogger(__name__)


class OnlineEvaluation(Callback):
    """Plays greedy episodes at the end of each validation, and after the last update.

    Returns are undiscounted and in raw reward. Choosing a checkpoint or a setting by them spends
    episodes of the real environment, which offline RL sets out to avoid: hence they are counted,
    and the last, the best and the mean of the last evaluations are reported apart. All
    evaluations start from the same seeds. With several ranks each plays its share.

    Logged Metrics:
        - ``eval/return_mean``: mean return of the episodes.
        - ``eval/return_std``: standard deviation of the return between episodes.
        - ``eval/length_mean``: mean number of steps of an episode.
        - ``eval/normalized_score``: Minari-normalized score, 0 to 100 between the data set's
          reference returns; only where it has them. It is not a D4RL score.
        - ``eval/episodes_spent``: episodes played so far, over all evaluations.

    Args:
        episodes: Episodes per evaluation; 0 never enters an environment.
        every_n_epochs: Epochs between evaluations; the last epoch is evaluated in any case.
        seed: Episode i starts from ``env.reset(seed=seed + i)``.
        num_envs: Environments that are stepped side by side; changes speed, not episodes.
        env_id: Environment to play in; the recorded one if null.
        mean_of_last: How many evaluations :meth:`summary` averages.
        step_timeout: Seconds after which a step counts as hanging; 0 waits for ever.
    """

    def __init__(
        self,
        episodes: int = 10,
        every_n_epochs: int = 1,
        seed: int = 0,
        num_envs: int | None = None,
        env_id: str | None = None,
        mean_of_last: int = 5,
        step_timeout: float = 0.0,
    ) -> None:
        if episodes < 0:
            raise InputError(f"`episodes` of OnlineEvaluation must not be negative: {episodes}.")
        if min(every_n_epochs, mean_of_last, 1 if num_envs is None else num_envs) < 1:
            raise InputError("The counts given to OnlineEvaluation must be at least 1.")
        self.episodes = episodes
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.num_envs = num_envs
        self.env_id = env_id
        self.mean_of_last = mean_of_last
        self.step_timeout = step_timeout
        self.history: list[tuple[int, float]] = []  # update and mean return of each evaluation
        self.episodes_spent = 0
        self.evaluates_online = False
        """Whether there is an environment to play in."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check early that the environment can be made and fits."""
        if stage != "fit" or self.episodes == 0:
            return
        data = getattr(trainer, "datamodule", None)
        spec, scaling = getattr(data, "spec", None), getattr(data, "scaling", None)
        if spec is None or scaling is None:
            raise InputError("OnlineEvaluation needs an OfflineDataModule: give `fit` one.")
        check_share(self, self.episodes, trainer)
        self._policy = RawPolicy(pl_module, spec, scaling)
        self.evaluates_online = spec.env_spec is not None or self.env_id is not None
        if self.evaluates_online:
            make_env(spec, self.env_id).close()
        elif trainer.is_global_zero:
            _log.warning("`%s`: no environment recorded; not evaluated online.", spec.dataset_id)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate before a ModelCheckpoint looks for what it monitors."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._log_if_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate where no validation ran."""
        self._log_if_due(trainer, pl_module)

    def _log_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if metrics := self.evaluate_if_due(trainer, pl_module):
            # not `sync_dist`: all ranks know the same, and diagnostics log `step` without it too
            pl_module.log_dict(metrics)

    def evaluate_if_due(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Play, at the end of an epoch that is to be evaluated; nothing if it is not or was."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or is_last_epoch(trainer)
        done = bool(self.history) and self.history[-1][0] == trainer.global_step
        if self.evaluates_online and due and not done:
            return self._evaluate(trainer, pl_module)
        return {}

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        spec = self._policy.spec
        seeds = range(self.seed, self.seed + self.episodes)
        played = play_shared(self._play, seeds, trainer, pl_module.device)
        returns = played["returns"]  # (episodes,)

        mean = float(returns.mean())
        self.history.append((trainer.global_step, mean))
        self.episodes_spent += len(returns)
        metrics = {
            "eval/return_mean": mean,
            "eval/return_std": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
            "eval/length_mean": float(played["lengths"].mean()),
            "eval/episodes_spent": float(self.episodes_spent),
            "step": float(trainer.global_step),  # the loggers' x axis
        }
        if (score := normalized_score(spec, mean)) is not None:
            metrics["eval/normalized_score"] = score
        return metrics

    def _play(self, seeds: Sequence[int]) -> Numbers:
        spec, timeout = self._policy.spec, self.step_timeout
        rollouts = play(self._policy, spec, seeds, self.num_envs, self.env_id, timeout)
        return {"returns": rollouts.returns, "lengths": rollouts.lengths}

    def summary(self) -> dict[str, float]:
        """Return last, best and mean-of-last-k return apart; nothing where none was measured."""
        if not self.history:
            return {}
        best_update, best = max(self.history, key=lambda point: point[1])
        last = [mean for _, mean in self.history[-self.mean_of_last :]]
        return {
            "last": last[-1],
            "best": best,
            "best_update": best_update,
            "mean_of_last_k": sum(last) / len(last),
            "episodes_spent": self.episodes_spent,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the history, in plain types."""
        return {"history": list(self.history), "episodes_spent": self.episodes_spent}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a history."""
        self.history = [(int(update), float(mean)) for update, mean in state_dict["history"]]
        self.episodes_spent = int(state_dict["episodes_spent"])
