"""What all algorithms share: the step, randomness and logging contracts, and one optimizer call."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.adam import adam

from lit_offrl.batch import Batch
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.policies import Distribution
from lit_offrl.rng import run_seed, seed_draws, stream_seed
from lit_offrl.targets import td_target

UPDATE_STREAM = 1  # stream 0 draws the batches


class OfflineAlgorithm(LightningModule):
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

    policy: Callable[[Tensor], Distribution]
    """``policy(obs)``: the distribution of actions at normalized obs (B, O)."""

    def __init__(self, discount: float = 0.99) -> None:
        super().__init__()
        if not 0 <= discount <= 1:
            raise InputError(f"`discount` must lie in [0, 1], not {discount}.")
        self.automatic_optimization = False
        self.discount = discount
        self.seed = run_seed()
        self.update_number = 0
        self._optimizers: dict[nn.Module, Adam] = {}
        self._cosine_lr: dict[nn.Module, float] = {}
        self._log_every = 1

    # What a subclass writes and calls.

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Do one gradient update of all networks and return what to log."""
        raise NotImplementedError

    def optimize(
        self, net: nn.Module, lr: float, *, eps: float = 1e-8, cosine: bool = False
    ) -> None:
        """Give ``net`` an Adam optimizer; with ``cosine``, lr falls to 0 over ``max_steps``."""
        if lr <= 0:
            raise InputError(f"A learning rate must be positive, not {lr}.")
        # Lightning moves parameters by .data, so optimizers may be made before that.
        self._optimizers[net] = Adam(net.parameters(), lr=lr, eps=eps, fused=True)
        if cosine:
            self._cosine_lr[net] = lr

    def minimize(self, loss: Tensor, net: nn.Module) -> None:
        """Take one Adam step on ``net`` alone: the only place that touches an optimizer."""
        optimizer = self._optimizers[net]
        group = optimizer.param_groups[0]
        parameters = group["params"]
        gradients = torch.autograd.grad(loss, parameters)
        if self._world_size > 1:
            gradients = _mean_over_ranks(gradients)
        states = [_adam_state(optimizer, parameter) for parameter in parameters]
        with torch.no_grad():
            # Half of optimizer.step() is bookkeeping; the state stays an ordinary Adam's.
            adam(
                parameters,
                # fused Adam steps wrong, silently, where the strides are not the parameter's
                [gradient.contiguous() for gradient in gradients],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def randn(self, *shape: int) -> Tensor:
        """Draw this rank's rows of standard normal noise; the last axis but one is the batch."""
        return self._rows(torch.randn, shape)

    def rand(self, *shape: int) -> Tensor:
        """Draw this rank's rows of noise from U[0, 1); the last axis but one is the batch."""
        return self._rows(torch.rand, shape)

    def batch_mean(self, values: Tensor) -> Tensor:
        """Mean over the global batch, (): what couples the rows of a batch must use it."""
        mean = values.mean()
        return _mean_over_ranks((mean,))[0] if self._world_size > 1 else mean

    # Public face, beside `policy` and `discount`.

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Greedy action at normalized obs (B, O): (B, A) in [-1, 1], or indices (B,)."""
        return self.policy(obs).mode

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
        """Check that data and precision suit the algorithm."""
        spec = getattr(getattr(self._trainer, "datamodule", None), "spec", None)
        if spec is not None:
            self._check_action_space(spec.discrete, spec.dataset_id)
        if str(self.trainer.precision).startswith("16"):
            raise InputError("Set `trainer.precision` to bf16-mixed: Q-values overflow fp16.")

    def _check_action_space(self, discrete: bool, dataset_id: str) -> None:
        kind = "discrete" if discrete else "box"
        if self.actions != kind:
            raise InputError(
                f"{type(self).__name__} does not fit `{dataset_id}`, whose actions are {kind}: "
                f"use {self.hint}."
            )

    def configure_optimizers(self) -> list[Adam]:
        """Hand the optimizers to Lightning, which checkpoints them."""
        if self._cosine_lr and self.trainer.max_steps < 1:
            raise InputError("A cosine schedule needs `trainer.max_steps`, the number of updates.")
        return list(self._optimizers.values())

    def on_train_start(self) -> None:
        """Continue where a checkpoint left off."""
        self.update_number = self.trainer.global_step
        self._log_every = max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run one update per stacked batch (K, B, ...)."""
        for k in range(len(batch.reward)):
            seed_draws(stream_seed(self.seed, self.update_number, UPDATE_STREAM), self.device)
            self._anneal()
            metrics = self.update(batch.at(k))
            self._count_update()
            if self.update_number % self._log_every == 0:
                self._log_update(metrics)

    def _log_update(self, metrics: dict[str, Tensor]) -> None:
        """Write metrics at this update.

        Straight to the loggers: `self.log` costs more than many an update, counts calls of
        `training_step`, and writes stale numbers again at calls that log nothing.
        """
        scalars = {name: value.item() for name, value in metrics.items()}
        for logger in self.loggers:
            logger.log_metrics(scalars, step=self.update_number)
            logger.save()

    def _anneal(self) -> None:
        """Set ``lr (1 + cos(π update / max_steps)) / 2`` where it is asked for."""
        for net, lr in self._cosine_lr.items():
            progress = self.update_number / self.trainer.max_steps
            self._optimizers[net].param_groups[0]["lr"] = (
                lr * (1 + math.cos(math.pi * progress)) / 2
            )

    def _count_update(self) -> None:
        """Advance ``trainer.global_step`` by one, which raw optimizers leave alone."""
        self.update_number += 1
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log :meth:`held_out_scores`, and as ``val/loss`` the TD error or what stands for it."""
        scores = self.held_out_scores(batch.at(0))
        scores["val/loss"] = scores.get("val/td_error", next(iter(scores.values())))
        size = len(batch.reward[0])
        self.log_dict(scores, batch_size=size, sync_dist=True)
        self.log("step", float(self.trainer.global_step), batch_size=size)

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
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["algorithm"] = {"class_path": name, "seed": self.seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another algorithm's or another shape's checkpoint; take over the seed."""
        saved = checkpoint.get("algorithm", {})
        name = f"{type(self).__module__}.{type(self).__qualname__}"
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

    @property
    def _world_size(self) -> int:
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    def _rows(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        *lead, rows, width = shape
        if self._world_size == 1:
            return draw(shape, device=self.device)
        noise = draw((*lead, rows * self._world_size, width), device=self.device)
        return noise.narrow(-2, dist.get_rank() * rows, rows)


def _adam_state(optimizer: Adam, parameter: Tensor) -> dict[str, Tensor]:
    """Return the optimizer's state of a parameter, made as ``Adam.step`` makes it."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state


def _mean_over_ranks(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Average tensors over ranks with one flat all-reduce."""
    flat = torch.cat([t.detach().flatten() for t in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat / dist.get_world_size(), [t.numel() for t in tensors])
    return tuple(part.view_as(t) for part, t in zip(parts, tensors, strict=True))
