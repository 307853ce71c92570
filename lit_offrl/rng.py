"""Randomness as a function of (seed, update, stream), so that resuming changes nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MASK = (1 << 64) - 1


def stream_seed(seed: int, update: int, stream: int = 0) -> int:
    """Mix three integers into the seed of one draw (splitmix64, Steele et al. 2014).

    Args:
        seed: The run's seed.
        update: Number of the gradient update that draws.
        stream: Which of the run's independent streams draws.

    Returns:
        An integer in [0, 2^63), as ``torch.Generator.manual_seed`` takes it.
    """
    state = 0
    for part in (seed, stream, update):
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the default generator of ``device``, from which every draw of an update comes.

    ``torch.manual_seed`` would do, but costs over 100 µs where CUDA is not initialized.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def run_seed() -> int:
    """Seed of the run, as Lightning's ``seed_everything`` leaves it; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED") or 0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch for a while, and give the caller's generators back afterwards."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = [torch.cuda.current_device()] if in_use else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
