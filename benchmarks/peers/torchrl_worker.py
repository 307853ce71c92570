"""Times TorchRL 0.14.1's updates for the benchmarks; runs in an environment of its own.

A virtual environment for it takes ``pip install torch==2.13.0 torchrl==0.14.1``.

An update is what its own examples (``sota-implementations``) do: sample from the replay buffer,
call the loss module, one backward pass of the sum of its losses, Adam, target updater; TD3+BC as
there critic first, then policy every second update. It has no BCQ, and no ``fit`` around it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.optim import Adam
from torchrl.data import Bounded, Categorical  # type: ignore[import-not-found]
from torchrl.modules import QValueActor, ValueOperator  # type: ignore[import-not-found]
from torchrl.objectives import (  # type: ignore[import-not-found]
    BCLoss,
    CQLLoss,
    DiscreteCQLLoss,
    HardUpdate,
    IQLLoss,
    SoftUpdate,
    TD3BCLoss,
    group_optimizers,
)

from benchmarks.peers.serving import Request, cpu_seconds, serve
from benchmarks.peers.settings import ALGORITHMS
from benchmarks.peers.torchrl_networks import (
    critic,
    deterministic_actor,
    gaussian_actor,
    load,
    mlp,
)

DISCOUNT, POLYAK = 0.99, 0.005
LOSSES = {  # those that are minimized; a loss module also returns what is only logged
    "IQL": ("loss_actor", "loss_value", "loss_qvalue"),
    "CQL": ("loss_actor", "loss_qvalue", "loss_cql", "loss_alpha"),
    "BC": ("loss_bc",),
    "DiscreteCQL": ("loss_qvalue", "loss_cql"),
}
Update = Callable[[Any], object]


def loss_module(name: str, obs_dim: int, action_dim: int) -> Any:
    """Create networks and losses of an algorithm with the shared settings."""
    model = ALGORITHMS[name].model
    if name == "BC":
        return BCLoss(deterministic_actor(obs_dim, action_dim), loss_function="l2")
    if name == "DiscreteCQL":
        spec = Categorical(action_dim)
        actor = QValueActor(mlp(obs_dim, action_dim), in_keys=["observation"], spec=spec)
        loss = DiscreteCQLLoss(actor, loss_function="smooth_l1", action_space=spec)
    elif name == "TD3BC":
        loss = TD3BCLoss(
            deterministic_actor(obs_dim, action_dim),
            critic(obs_dim, action_dim),
            bounds=(-1.0, 1.0),
            loss_function="l2",
            alpha=model["bc_alpha"],
        )
    elif name == "IQL":
        loss = IQLLoss(
            gaussian_actor(obs_dim, action_dim),
            critic(obs_dim, action_dim),
            value_network=ValueOperator(mlp(obs_dim, 1), in_keys=["observation"]),
            loss_function="l2",
            temperature=model["inverse_temperature"],
            expectile=model["expectile"],
        )
    else:
        loss = CQLLoss(
            gaussian_actor(obs_dim, action_dim),
            critic(obs_dim, action_dim),
            action_spec=Bounded(-1.0, 1.0, (action_dim,)),
            loss_function="l2",
            min_q_weight=model["cql_alpha"],
            num_random=model["n_actions"],
        )
    loss.make_value_estimator(gamma=DISCOUNT)
    return loss


def parameters(loss: Any, net: str) -> list[torch.nn.Parameter]:
    """Trainable parameters of one network of a loss module."""
    return list(getattr(loss, f"{net}_params").flatten_keys().values())


def optimizer(name: str, loss: Any) -> Any:
    """One Adam over the networks' own, as the examples group them."""
    model = ALGORITHMS[name].model
    if name in ("BC", "DiscreteCQL"):
        return Adam(loss.parameters(), lr=model["lr"])
    if name == "IQL":
        nets = ("actor_network", "qvalue_network", "value_network")
        return group_optimizers(*(Adam(parameters(loss, net), lr=model["lr"]) for net in nets))
    return group_optimizers(
        Adam(parameters(loss, "actor_network"), lr=model["policy_lr"]),
        Adam(parameters(loss, "qvalue_network"), lr=model["q_lr"]),
        Adam([loss.log_alpha], lr=model["policy_lr"]),
    )


def target_updater(name: str, loss: Any) -> Callable[[], object]:
    """Return the step of the target networks."""
    if name == "BC":
        return lambda: None
    if name == "DiscreteCQL":
        period = ALGORITHMS[name].model["target_period"]
        step: Callable[[], object] = HardUpdate(loss, value_network_update_interval=period).step
    else:
        step = SoftUpdate(loss, tau=POLYAK).step
    return step


def joint_update(name: str, loss: Any) -> Update:
    """Return an update of all networks from one backward pass."""
    adam, step_targets = optimizer(name, loss), target_updater(name, loss)

    def update(batch: Any) -> object:
        adam.zero_grad(set_to_none=True)
        losses = loss(batch)
        sum(losses[key] for key in LOSSES[name]).backward()
        adam.step()
        step_targets()
        return losses.detach()

    return update


def td3_bc_update(loss: Any) -> Update:
    """Return an update of the critics, and of policy and targets at every ``policy_delay``-th."""
    model = ALGORITHMS["TD3BC"].model
    q_adam = Adam(parameters(loss, "qvalue_network"), lr=model["lr"])
    policy_adam = Adam(parameters(loss, "actor_network"), lr=model["lr"])
    step_targets = target_updater("TD3BC", loss)
    done = 0

    def update(batch: Any) -> object:
        nonlocal done
        done += 1
        q_loss, _ = loss.qvalue_loss(batch)
        q_adam.zero_grad()
        q_loss.backward()
        q_adam.step()
        if done % model["policy_delay"] == 0:
            policy_loss, _ = loss.actor_loss(batch)
            policy_adam.zero_grad()
            policy_loss.backward()
            policy_adam.step()
            step_targets()
        return q_loss.detach()

    return update


@cache
def ready(name: str, path: str, compiled: bool) -> tuple[Any, Update]:
    """Return replay buffer and update of an algorithm."""
    buffer = load(path)
    batch = buffer.sample()
    obs_dim = batch["observation"].shape[-1]
    discrete = batch["action"].ndim == 1
    action_dim = int(buffer[:]["action"].max()) + 1 if discrete else batch["action"].shape[-1]
    loss = loss_module(name, obs_dim, action_dim)
    update = td3_bc_update(loss) if name == "TD3BC" else joint_update(name, loss)
    return buffer, torch.compile(update) if compiled else update


def race(request: Request) -> Request:
    """Time updates, sampling included."""
    buffer, update = ready(request["algorithm"], request["data"], request["compile"])
    return {"seconds": cpu_seconds(lambda: update(buffer.sample()), request["updates"])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(race)
