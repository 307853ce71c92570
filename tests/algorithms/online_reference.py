"""Layer-normalized critics and a squashed policy, for the references of online algorithms."""

import torch
from torch import Tensor

from tests.algorithms.helpers import Params, dense, mlp

Normal = tuple[Tensor, Tensor]


def layer_norm(p: Params, name: str, x: Tensor, member: int) -> Tensor:
    """(x - mean) / sqrt(var + 1e-5), scaled and shifted."""
    center = x - x.mean(-1, keepdim=True)
    x = center / (center.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * p[f"{name}.weight"][member, 0] + p[f"{name}.bias"][member, 0]


def normed_critic(
    p: Params, name: str, obs: Tensor, action: Tensor, member: int, relu_first: bool
) -> Tensor:
    """Q_j(s, a), (B,), of one critic with layer norms before or after its ReLUs."""

    def hidden(x: Tensor, norm: str) -> Tensor:
        if relu_first:
            return layer_norm(p, norm, x.clip(min=0), member)
        return layer_norm(p, norm, x, member).clip(min=0)

    first = [p[f"{name}.{part}.weight"][member] for part in ("obs_layer", "action_layer")]
    x = torch.cat([obs, action], -1) @ torch.cat(first) + p[f"{name}.obs_layer.bias"][member, 0]
    x = hidden(x, f"{name}.norm")
    last = sum(k.startswith(f"{name}.trunk.layers.") and k.endswith("weight") for k in p) - 1
    for i in range(last):
        x = hidden(dense(p, f"{name}.trunk.layers.{i}", x, member), f"{name}.trunk.norms.{i}")
    return dense(p, f"{name}.trunk.layers.{last}", x, member)[:, 0]


def normed_critics(
    p: Params, name: str, obs: Tensor, action: Tensor, relu_first: bool = False
) -> list[Tensor]:
    """All of them, each (B,)."""
    n = len(p[f"{name}.obs_layer.weight"])
    return [normed_critic(p, name, obs, action, j, relu_first) for j in range(n)]


def tanh_policy(p: Params, obs: Tensor) -> Normal:
    """Mean and log σ before tanh."""
    mean, log_std = mlp(p, "policy.net", obs).chunk(2, -1)
    return mean, (log_std - 1).clip(-20, 2)


def total(values: list[Tensor]) -> Tensor:
    """Sum of scalars."""
    return torch.stack(values).sum()
