"""Plumbing of the algorithm tests, and a plain float64 reference to compare one update with.

The reference keeps all parameters in one dictionary of float64 tensors, keyed as in
``state_dict()``, applies layers and critics one by one, and takes hand-written Adam steps.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.batch import Batch

OBS_DIM, ACTION_DIM, BATCH_SIZE, N_ACTIONS = 3, 2, 5, 4  # all different: wrong axes raise

Algorithm = TypeVar("Algorithm", bound=OfflineAlgorithm)
Params = dict[str, Tensor]
Metrics = dict[str, Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(seed: int, *, discrete: bool = False, size: int = BATCH_SIZE) -> Batch:
    """A float64 batch whose second and last rows are terminated and whose third is truncated."""
    g = generator(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    terminated, truncated = torch.zeros(2, size, dtype=torch.float64)
    terminated[1] = terminated[-1] = truncated[2] = 1
    if discrete:
        action = torch.randint(N_ACTIONS, (size,), generator=g)
    else:
        action = 0.9 * normal(size, ACTION_DIM).tanh()
    following = action[torch.randperm(size, generator=generator(seed))]
    return Batch(
        obs=normal(size, OBS_DIM),
        action=action,
        reward=normal(size),
        next_obs=normal(size, OBS_DIM),
        terminated=terminated,
        truncated=truncated,
        mc_return=normal(size),
        next_action=following,
        has_next_action=1 - torch.maximum(terminated, truncated),
    )


def perturb(module: nn.Module, names: str = "", seed: int = 0, scale: float = 0.3) -> None:
    """Add noise to the parameters whose name starts with ``names``; in place."""
    g = generator(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(names):
                noise = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
                parameter.add_(scale * noise.to(parameter.dtype))


def ready(algorithm: Algorithm, seed: int = 0) -> Algorithm:
    """Turn an algorithm to float64 and all its networks, targets too, to different random ones."""
    algorithm.double()
    perturb(algorithm, seed=seed)
    return algorithm


def fix_output(net: nn.Sequential, *values: float) -> None:
    """Make the last layer return ``values`` whatever comes in; in place."""
    last = net[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data.zero_()
    last.bias.data.copy_(torch.tensor(values))


def record_noise(algorithm: OfflineAlgorithm, seed: int = 0) -> list[Tensor]:
    """Let ``randn`` and ``rand`` draw float64 noise and put each draw into the returned list."""
    g, drawn = generator(seed), []

    def draw(kind: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*shape: int) -> Tensor:
            drawn.append(kind(*shape, generator=g, dtype=torch.float64))
            return drawn[-1]

        return call

    # setattr: mypy does not let methods be assigned to.
    for name, kind in (("randn", torch.randn), ("rand", torch.rand)):
        setattr(algorithm, name, draw(kind))
    return drawn


def run_updates(algorithm: OfflineAlgorithm, batches: Sequence[Batch]) -> list[Metrics]:
    """Call ``update`` once per batch, counting updates as ``training_step`` does."""
    metrics = []
    for batch in batches:
        metrics.append(algorithm.update(batch))
        algorithm.update_number += 1
    return metrics


def snapshot(module: nn.Module) -> Params:
    """Copies of all parameters by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(before: Params, after: Params) -> set[str]:
    """First parts of the names (``q``, ``target_q``, ...) of the parameters that changed."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def reference_params(algorithm: nn.Module) -> Params:
    """All parameters as independent float64 leaves."""
    return {k: v.double().requires_grad_() for k, v in snapshot(algorithm).items()}


def dense(p: Params, name: str, x: Tensor, member: int | None = None) -> Tensor:
    """One layer: nn.Linear (out, in), or member ``member`` (in, out) of an EnsembleLinear."""
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    if member is None:
        return x @ weight.T + bias
    return x @ weight[member] + bias[member, 0]


def mlp(p: Params, name: str, x: Tensor) -> Tensor:
    """A ReLU network of nn.Linear layers, whatever stands between them in its Sequential."""
    prefix = f"{name}."
    layers = {int(k[len(prefix) :].split(".")[0]) for k in p if k.startswith(prefix)}
    for i in sorted(layers):
        x = dense(p, f"{name}.{i}", x)
        if i != max(layers):
            x = F.relu(x)
    return x


def ensemble_mlp(p: Params, name: str, x: Tensor, member: int) -> Tensor:
    """Member ``member`` of an EnsembleMLP."""
    n_layers = sum(k.startswith(f"{name}.layers.") and k.endswith(".weight") for k in p)
    for i in range(n_layers):
        x = dense(p, f"{name}.layers.{i}", x, member)
        if i != n_layers - 1:
            x = F.relu(x)
    return x


def critic(p: Params, name: str, obs: Tensor, action: Tensor, member: int) -> Tensor:
    """Q_j(s, a), (B,), of one critic of a QNetwork, whose first layer sees [s, a] whole."""
    first = [p[f"{name}.{part}.weight"][member] for part in ("obs_layer", "action_layer")]
    x = torch.cat([obs, action], -1) @ torch.cat(first) + p[f"{name}.obs_layer.bias"][member, 0]
    return ensemble_mlp(p, f"{name}.trunk", F.relu(x), member)[:, 0]


def critics(p: Params, name: str, obs: Tensor, action: Tensor) -> list[Tensor]:
    """Q_1(s, a), ..., Q_n(s, a), each (B,)."""
    n = len(p[f"{name}.obs_layer.weight"])
    return [critic(p, name, obs, action, j) for j in range(n)]


def polyak(p: Params, net: str, target: str, step: float) -> None:
    """``θ̄ ← (1 - step) θ̄ + step θ`` for all parameters under the two names."""
    for key in [k for k in p if k.startswith(f"{target}.")]:
        online = p[net + key[len(target) :]].detach()
        p[key] = (1 - step) * p[key].detach() + step * online


class ReferenceAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) on the parameters whose names start with ``net.``."""

    def __init__(self, p: Params, net: str, lr: float, eps: float = 1e-8) -> None:
        self.p, self.lr, self.eps, self.t = p, lr, eps, 0
        self.keys = [k for k in p if k.startswith(f"{net}.")]
        self.m = {k: torch.zeros_like(p[k]) for k in self.keys}
        self.v = {k: torch.zeros_like(p[k]) for k in self.keys}

    def step(self, loss: Tensor, lr: float | None = None) -> None:
        """Replace the parameters by new leaves; graphs made of the old ones stay valid."""
        gradients = torch.autograd.grad(loss, [self.p[k] for k in self.keys], retain_graph=True)
        self.t += 1
        for k, g in zip(self.keys, gradients, strict=True):
            self.m[k] = 0.9 * self.m[k] + 0.1 * g
            self.v[k] = 0.999 * self.v[k] + 0.001 * g * g
            m_hat = self.m[k] / (1 - 0.9**self.t)
            v_hat = self.v[k] / (1 - 0.999**self.t)
            change = (self.lr if lr is None else lr) * m_hat / (v_hat.sqrt() + self.eps)
            self.p[k] = (self.p[k] - change).detach().requires_grad_()


def assert_same_params(actual: nn.Module, expected: Params) -> None:
    """All parameters, those of target networks too, equal the reference's."""
    found = snapshot(actual)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        close(value, expected[name].detach(), name)


def close(actual: Tensor, expected: Tensor | float, name: str = "", rtol: float = 1e-9) -> None:
    """Equal within float64 rounding."""
    expected = torch.as_tensor(expected, dtype=actual.dtype)

    def message(text: str) -> str:
        return f"{name}: {text}"

    torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=1e-12, msg=message)


def assert_update_matches(
    algorithm: OfflineAlgorithm,
    reference: Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]],
    batches: Sequence[Batch],
) -> None:
    """Updates of the algorithm and of a reference give the same losses and parameters.

    Args:
        algorithm: In float64, with targets different from the online networks.
        reference: Makes, of parameters and the list that noise is put into, a function that does
            one update and returns the losses; it takes the noise out of the list with ``pop(0)``.
        batches: One per update.
    """
    noise = record_noise(algorithm)
    p = reference_params(algorithm)
    update = reference(p, noise)
    for i, batch in enumerate(batches):
        (metrics,) = run_updates(algorithm, [batch])
        losses = update(batch)
        assert not noise, "the reference left noise unused"
        for name, value in losses.items():
            close(metrics[name], value.detach(), f"{name} of update {i}")
        assert_same_params(algorithm, p)
