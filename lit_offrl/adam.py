"""One Adam step on one network: fused, or as the operations of a traced update.

Both work on the state of an ordinary ``torch.optim.Adam``, which checkpoints and schedules see.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.adam import adam

State = dict[str, Tensor]


def rate_dtype(device_type: str) -> torch.dtype:
    """Type of a learning rate that is a tensor: off the CPU, fused Adam reads nothing but float32.

    >>> rate_dtype("cuda")
    torch.float32
    """
    return torch.float64 if device_type == "cpu" else torch.float32


def step_dtype(device_type: str) -> torch.dtype:
    """Type of Adam's count of steps: off the CPU, fused Adam takes any for float32."""
    return torch.get_default_dtype() if device_type == "cpu" else torch.float32


def adam_states(optimizer: Adam) -> list[State]:
    """Return the state of each parameter, made as ``Adam.step`` makes it where there is none."""
    states: list[State] = []
    for parameter in optimizer.param_groups[0]["params"]:
        state: State = optimizer.state[parameter]
        if not state:
            device = parameter.device
            state["step"] = torch.zeros((), dtype=step_dtype(device.type), device=device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        states.append(state)
    return states


@torch.no_grad()
def fused_adam_step(optimizer: Adam, gradients: Sequence[Tensor]) -> None:
    """Do what ``optimizer.step()`` does with these gradients, without half of its bookkeeping."""
    group, states = optimizer.param_groups[0], adam_states(optimizer)
    adam(
        group["params"],
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


@torch.no_grad()
def traced_adam_step(optimizer: Adam, gradients: Sequence[Tensor]) -> None:
    """The same in single operations, which a compiler fuses with what comes before and after.

    ``θ ← θ - lr m̂ / (√v̂ + ε)`` (Kingma and Ba, 2015, algorithm 1); nothing is read back from the
    device.
    """
    group, states = optimizer.param_groups[0], adam_states(optimizer)
    beta1, beta2 = group["betas"]
    parameters: list[Tensor] = group["params"]
    # Steps are equal within a network. As exp(), since Inductor computes a shared exp() once and a
    # power again for every vector of elements; in float32 1 - β2 would lose its digits.
    step = states[0]["step"].double() + 1
    rate = (group["lr"] / (1 - torch.exp(step * math.log(beta1)))).to(parameters[0].dtype)
    scale = (1 / (1 - torch.exp(step * math.log(beta2)))).to(parameters[0].dtype)
    for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
        state["step"].add_(1)
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = (state["exp_avg_sq"] * scale).sqrt()
        parameter.sub_(state["exp_avg"] * rate / (deviation + group["eps"]))
