"""What all algorithms share: their public face, and how they fit into Lightning."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Adam

from lit_offrl.algorithms.steps import check_steps, count_update, is_logged, log_update
from lit_offrl.algorithms.update_path import UpdatePath
from lit_offrl.batch import Batch
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.policies import Distribution
from lit_offrl.ranges import within
from lit_offrl.targets import td_target


class OfflineAlgorithm(UpdatePath):
    """Base class: subclasses build networks in ``__init__`` and write :meth:`update`.

    One number counts gradient updates: ``trainer.global_step``, which ``max_steps``,
    ``log_every_n_steps``, checkpoint names and the loggers' x axis follow, whatever the number of
    networks or of updates per ``training_step``.

    Every draw of an update is a function of (seed, update number), and with several ranks each
    takes its rows of the global draw.

    Args:
        discount: γ.
    """

    actions: Literal["box", "discrete"]
    """Kind of action space that the algorithm works on."""
    hint: str
    """What to use instead when the action space is of the other kind."""
    extras: tuple[str, ...] = ()
    """Optional fields of a batch that updates need, see :class:`~lit_offrl.batch.Batch`."""

    policy: Callable[[Tensor], Distribution]
    """``policy(obs)``: the distribution of actions at normalized obs (B, O)."""
    draws_from_policy = True
    """Whether ``policy`` is all that :meth:`explore` draws from, so that draws have its density."""

    def __init__(self, discount: float = 0.99) -> None:
        super().__init__()
        within("[0, 1]", discount=discount)
        self.automatic_optimization = False
        self.discount = discount

    # Public face, beside `policy` and `discount`.

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Greedy action at normalized obs (B, O): (B, A) in [-1, 1], or indices (B,)."""
        return self.policy(obs).mode

    @torch.no_grad()
    def explore(self, obs: Tensor) -> Tensor:
        """Draw actions at normalized obs (B, O): (B, A), or indices (B,)."""
        return self.policy(obs).sample()

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B), in transformed reward.

        Raises:
            NotApplicableError: If the algorithm learns no critic.
        """
        raise NotApplicableError(f"{type(self).__name__} learns no critic.")

    def action_values(self, obs: Tensor) -> Tensor:
        """Values of all discrete actions, (n, B, A), in transformed reward.

        Raises:
            NotApplicableError: If actions are not discrete or there is no critic.
        """
        raise NotApplicableError(f"{type(self).__name__} has no values of all discrete actions.")

    # Lightning.

    def setup(self, stage: str) -> None:
        """Check that data, precision and numbers of steps suit the algorithm."""
        spec = getattr(getattr(self._trainer, "datamodule", None), "spec", None)
        if spec is not None:
            self._check_action_space(spec.discrete, spec.dataset_id)
            self._check_extras(self._trainer.datamodule)  # type: ignore[union-attr]
            if spec.images and not self.hparams.get("images"):
                raise InputError(
                    f"{type(self).__name__} takes no images, which the observations of "
                    f"`{spec.dataset_id}` hold: use BC, IQL or an algorithm for discrete actions."
                )
        check_precision(self.trainer.precision)
        check_steps(self.trainer)
        if self.trainer.precision == "64-true":
            self.double()  # Lightning does so too, but after it has put a checkpoint's weights in

    def _check_action_space(self, discrete: bool, dataset_id: str) -> None:
        kind = "discrete" if discrete else "box"
        if self.actions != kind:
            raise InputError(
                f"{type(self).__name__} does not fit `{dataset_id}`, whose actions are {kind}: "
                f"use {self.hint}."
            )

    def _check_extras(self, data: Any) -> None:
        if missing := [name for name in self.extras if name not in data.extras]:
            raise InputError(
                f"{type(self).__name__} needs {', '.join(self.extras)} in its batches: set "
                f"`data.extras` to [{', '.join([*data.extras, *missing])}]."
            )
        if "mc_return" in self.extras and data.discount != self.discount:
            raise InputError(
                f"`data.discount` {data.discount} of the returns is not the algorithm's "
                f"{self.discount}: make them equal."
            )

    def configure_optimizers(self) -> list[Adam]:
        """Hand the optimizers to Lightning, which checkpoints them."""
        if self._cosine_lr and self.trainer.max_steps < 1:
            raise InputError("A cosine schedule needs `trainer.max_steps`, the number of updates.")
        return list(self._optimizers.values())

    def on_train_start(self) -> None:
        """Continue where a checkpoint left off."""
        self.start(self.trainer.global_step, self.trainer.max_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run one update per stacked batch (K, B, ...)."""
        for k in range(len(batch.reward)):
            metrics = self.train_update(batch.at(k))
            count_update(self.trainer)
            if is_logged(self.trainer, self.update_number):
                scalars = {k: v.item() for k, v in self.over_ranks(metrics).items()}
                log_update(self, scalars, self.update_number)

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log :meth:`validation_scores`."""
        size = len(batch.reward[0])
        self.log_dict(self.validation_scores(batch.at(0)), batch_size=size, sync_dist=True)
        self.log("step", float(self.trainer.global_step), batch_size=size)

    def validation_scores(self, batch: Batch) -> dict[str, Tensor]:
        """:meth:`held_out_scores`, and as ``val/loss`` the TD error or what stands for it."""
        scores = self.held_out_scores(batch)
        return {**scores, "val/loss": scores.get("val/td_error", next(iter(scores.values())))}

    def held_out_scores(self, batch: Batch) -> dict[str, Tensor]:
        """How well held-out actions are predicted and, with a critic, ``val/td_error``.

        The first is ``val/nll``, ``val/action_mse`` or ``val/error_rate``, as the policy allows;
        the second ``E (r + γ (1 - terminated) min_j Q_j(s', π(s')) - min_j Q_j(s, a))²``.
        """
        policy = self.policy(batch.obs)
        scores = {f"val/{policy.imitation_metric}": policy.imitation_loss(batch.action).mean()}
        try:
            q = self.q_values(batch.obs, batch.action).amin(0)
            next_q = self.q_values(batch.next_obs, self.act(batch.next_obs)).amin(0)
        except NotApplicableError:
            return scores
        scores["val/td_error"] = (td_target(batch, self.discount, next_q) - q).square().mean()
        return scores

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the class and the seed, which loading and resuming need."""
        checkpoint["algorithm"] = {"class_path": class_path(self), "seed": self.seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another algorithm's or another shape's checkpoint; take over the seed."""
        saved, name = checkpoint.get("algorithm", {}), class_path(self)
        if seeds := saved.get("seeds"):
            raise InputError(
                f"The checkpoint holds {len(seeds)} seeds: set `--seeds` to {len(seeds)} and "
                f"`--seed_everything` to {seeds[0]}, or give one of seed-*/checkpoints/."
            )
        if saved.get("class_path") != name:
            raise InputError(
                f"The checkpoint holds {saved.get('class_path', 'another model')}, not {name}: "
                "give the checkpoint of the same algorithm."
            )
        held, own = checkpoint["state_dict"], self.state_dict()
        for key in {**own, **held}:  # also what the other one lacks
            found, expected = (tuple(d[key].shape) if key in d else "missing" for d in (held, own))
            if found != expected:
                raise InputError(
                    f"The checkpoint does not fit: `{key}` has shape {found}, expected {expected}. "
                    "Use the dataset, options and network sizes it was made with."
                )
        self.seed = saved["seed"]


def check_precision(precision: object) -> None:
    """Refuse a Trainer's precision that Q-values, or small steps of weights, do not survive."""
    named = str(precision)
    if named.startswith(("16", "bf16-true")):
        why = "Q-values overflow fp16" if named.startswith("16") else "weights lose small steps"
        raise InputError(f"Set `trainer.precision` to bf16-mixed, not {named}: {why}.")


def class_path(algorithm: OfflineAlgorithm) -> str:
    """Where a checkpoint's reader finds the algorithm's class."""
    return f"{type(algorithm).__module__}.{type(algorithm).__qualname__}"
