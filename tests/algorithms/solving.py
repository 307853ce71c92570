"""Find where an algorithm's own updates stand still, exactly rather than by training."""

from collections.abc import Sequence
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
from torch import Tensor, nn

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch


def losses_of_update(algorithm: OfflineAlgorithm, batch: Batch) -> dict[nn.Module, Tensor]:
    """The losses that ``update`` would minimize, by network; nothing is changed."""
    losses: dict[nn.Module, Tensor] = {}
    with (
        mock.patch.object(algorithm, "minimize", lambda loss, net: losses.update({net: loss})),
        mock.patch.object(algorithm, "polyak", 0.0),
    ):
        algorithm.update(batch)
    return losses


def minimize_exactly(algorithm: OfflineAlgorithm, batch: Batch, net: nn.Module) -> None:
    """Minimize the loss of ``net``, whose targets must not depend on it; in place."""
    parameters = list(net.parameters())
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=200,
        tolerance_grad=1e-11,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        loss = losses_of_update(algorithm, batch)[net]
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def solve_fixed_point(
    algorithm: OfflineAlgorithm,
    batch: Batch,
    nets: Sequence[nn.Module],
    *,
    q: nn.Module,
    target_q: nn.Module,
) -> None:
    """Set ``nets`` to where all their gradients vanish with the target net equal to Q; in place.

    The nets must be linear in one-hot observations; their biases, which would make the solution
    ambiguous, are zeroed.
    """
    weights = [p for net in nets for name, p in net.named_parameters() if name.endswith("weight")]
    owners = [net for net in nets for name, _ in net.named_parameters() if name.endswith("weight")]
    for net in nets:
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def write(x: NDArray[np.float64]) -> None:
        nn.utils.vector_to_parameters(torch.from_numpy(x.copy()), weights)
        target_q.load_state_dict(q.state_dict())

    def gradients(x: NDArray[np.float64]) -> NDArray[np.float64]:
        write(x)
        losses = losses_of_update(algorithm, batch)
        parts = [
            torch.autograd.grad(losses[net], weight, retain_graph=True)[0].flatten()
            for net, weight in zip(owners, weights, strict=True)
        ]
        return torch.cat(parts).numpy()

    # A global method first, then Newton's: the gradients are piecewise smooth, so that it ends in
    # a few steps once it is near. Heads of actions without data make the slope singular.
    x = root(gradients, nn.utils.parameters_to_vector(weights).detach().numpy()).x
    for _ in range(20):
        g = gradients(x)
        if np.abs(g).max() < 1e-11:
            return
        shifts = 1e-6 * np.eye(len(x))
        slope = [(gradients(x + dx) - gradients(x - dx)) / 2e-6 for dx in shifts]
        x = x - np.linalg.lstsq(np.array(slope).T, g, rcond=1e-9)[0]
    raise AssertionError(f"No fixed point: a gradient of {np.abs(g).max():.1e} is left.")
