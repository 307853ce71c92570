"""TorchRL's replay buffer and networks with the benchmarks' shared settings."""

from typing import Any

import numpy as np
import torch
from tensordict import TensorDict  # type: ignore[import-not-found]
from tensordict.nn import (  # type: ignore[import-not-found]
    NormalParamExtractor,
    TensorDictModule,
    TensorDictSequential,
)
from torchrl.data import (  # type: ignore[import-not-found]
    Bounded,
    LazyTensorStorage,
    TensorDictReplayBuffer,
)
from torchrl.modules import (  # type: ignore[import-not-found]
    MLP,
    ProbabilisticActor,
    TanhModule,
    TanhNormal,
    ValueOperator,
)

from benchmarks.peers.settings import BATCH_SIZE, HIDDEN


def load(path: str) -> Any:
    """Put exported transitions into a replay buffer; see ``load`` in ``d3rlpy_worker``."""
    with np.load(path) as data:
        fields = {name: torch.from_numpy(data[name]) for name in data.files}
    rows = torch.nonzero(fields["timeout"] == 0).squeeze(1)
    action = fields["action"][rows]
    terminal = fields["terminal"][rows, None] > 0  # (N, 1)
    discrete = action.ndim == 1
    transitions = TensorDict(
        {
            "observation": fields["obs"][rows],
            "action": action.long() if discrete else action,
            "next": {
                # the next row; behind an ended episode it is never used
                "observation": fields["obs"][(rows + 1).clamp(max=len(fields["obs"]) - 1)],
                "reward": fields["reward"][rows, None],
                "done": terminal,
                "terminated": terminal,
            },
        },
        batch_size=[len(rows)],
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(rows)), batch_size=BATCH_SIZE)
    buffer.extend(transitions)
    return buffer


def mlp(n_in: int, n_out: int) -> Any:
    """Network of the shared widths."""
    return MLP(n_in, n_out, num_cells=HIDDEN, activation_class=torch.nn.ReLU)


def gaussian_actor(obs_dim: int, action_dim: int) -> Any:
    """Policy ``tanh N(μ(s), σ(s)²)``."""
    net = torch.nn.Sequential(mlp(obs_dim, 2 * action_dim), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=Bounded(-1.0, 1.0, (action_dim,)),
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0, "tanh_loc": False},
    )


def deterministic_actor(obs_dim: int, action_dim: int) -> Any:
    """Policy ``tanh π(s)``."""
    return TensorDictSequential(
        TensorDictModule(mlp(obs_dim, action_dim), in_keys=["observation"], out_keys=["param"]),
        TanhModule(in_keys=["param"], out_keys=["action"], spec=Bounded(-1.0, 1.0, (action_dim,))),
    )


def critic(obs_dim: int, action_dim: int) -> Any:
    """Network Q(s, a)."""
    return ValueOperator(mlp(obs_dim + action_dim, 1), in_keys=["observation", "action"])
