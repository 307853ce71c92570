"""Runs d3rlpy's BCQ from given weights, on given batches and noise; `benchmarks/parity.py` asks.

It runs in d3rlpy's environment, as `d3rlpy_worker.py` does.
"""

import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from d3rlpy.torch_utility import TorchMiniBatch  # type: ignore[import-not-found]
from torch import Tensor

from benchmarks.peers.d3rlpy_worker import create, squash_decoder
from benchmarks.peers.serving import Request, serve

BATCH = ("obs", "action", "reward", "next_obs", "terminated")
NOISE = ("posterior", "target", "proposals")
Given = dict[str, Tensor]
Pair = tuple[str, Tensor, Tensor]


def pairs(modules: Any, given: Given) -> Iterator[Pair]:
    """Yield the name of each of our networks, one of its tensors, and d3rlpy's for it."""
    latent = modules.vae_decoder._fc.out_features * 2
    encoder, decoder = modules.vae_encoder, modules.vae_decoder
    yield from _network("vae.encoder", encoder._encoder, given)
    for head, rows in ((encoder._mu, slice(latent)), (encoder._logstd, slice(latent, None))):
        yield "vae.encoder", given["vae.encoder.4.weight"][rows], head.weight
        yield "vae.encoder", given["vae.encoder.4.bias"][rows], head.bias
    for name, network in (
        ("vae.decoder", decoder),
        ("perturbation.net", modules.policy),
        ("target_perturbation.net", modules.targ_policy),
    ):
        yield from _network(name, network._encoder, given)
        yield from _linear(name, 4, network._fc, given)
    for name, critics in (("q", modules.q_funcs), ("target_q", modules.targ_q_funcs)):
        for i, critic in enumerate(critics):
            yield from _critic(name, i, critic, given)


def _network(name: str, encoder: Any, given: Given) -> Iterator[Pair]:
    for i in (0, 2):
        yield from _linear(name, i, encoder._layers[i], given)


def _linear(name: str, i: int, layer: Any, given: Given) -> Iterator[Pair]:
    yield name, given[f"{name}.{i}.weight"], layer.weight
    yield name, given[f"{name}.{i}.bias"], layer.bias


def _critic(name: str, i: int, critic: Any, given: Given) -> Iterator[Pair]:
    """Member ``i``: weights are (in, out), and the first layer's rows of actions lie apart."""
    first, second = critic._encoder._layers[0], critic._encoder._layers[2]
    parts = [given[f"{name}.{part}_layer.weight"][i] for part in ("obs", "action")]
    yield name, torch.cat(parts).T, first.weight
    yield name, given[f"{name}.obs_layer.bias"][i, 0], first.bias
    for k, layer in enumerate((second, critic._fc)):
        yield name, given[f"{name}.trunk.layers.{k}.weight"][i].T, layer.weight
        yield name, given[f"{name}.trunk.layers.{k}.bias"][i, 0], layer.bias


def compare(request: Request) -> Request:
    """Return the largest difference of each network after the updates that were recorded."""
    torch.set_default_dtype(torch.float64)
    squash_decoder()
    with np.load(request["path"]) as file:
        data = {name: torch.from_numpy(file[name]) for name in file.files}
    algo = create("BCQ", request["updates"])
    algo.create_impl(tuple(data["obs"].shape[2:]), data["action"].shape[2])
    modules = algo._impl._modules

    def recorded(update: int) -> Given:
        prefix = f"{update}/"
        return {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}

    with torch.no_grad():
        for _, value, parameter in pairs(modules, recorded(0)):
            parameter.copy_(value)
    differences: dict[str, dict[str, float]] = {}
    for update in range(request["updates"]):
        _update(algo, {name: data[name][update] for name in BATCH + NOISE}, update)
        if update + 1 in request["compared"]:
            worst: dict[str, float] = {}
            for name, value, parameter in pairs(modules, recorded(update + 1)):
                difference = (value - parameter).abs().max().item()
                worst[name] = max(worst.get(name, 0.0), difference)
            differences[str(update + 1)] = worst
    return {"differences": differences}


def _update(algo: Any, given: Given, update: int) -> None:
    """Do one update, with what d3rlpy would draw."""
    posterior, target, proposals = (given[name] for name in NOISE)  # (B, Z), (n, B, Z), (1, B, Z)
    draws: list[Tensor] = [target.transpose(0, 1).flatten(0, 1), proposals[0]]

    def drawn(*shape: Any, **options: Any) -> Tensor:
        noise = draws.pop(0)
        assert noise.numel() == math.prod(np.ravel(shape)), shape  # sizes, or one tuple of them
        return noise.clone()

    column = given["reward"][:, None]
    batch = TorchMiniBatch(
        observations=given["obs"],
        actions=given["action"],
        rewards=column,
        next_observations=given["next_obs"],
        next_actions=given["action"],
        returns_to_go=torch.zeros_like(column),
        terminals=given["terminated"][:, None],
        intervals=torch.ones_like(column),
        device="cpu:0",
    )
    with (
        mock.patch("torch.randn", drawn),
        mock.patch("torch.distributions.normal._standard_normal", lambda *_, **__: posterior),
    ):
        algo._impl.update(batch, update)
    assert not draws


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(compare)
