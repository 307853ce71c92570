"""How fast this core multiplies matrices: the roof that updates are measured against."""

import torch

from benchmarks.peers.serving import cpu_seconds
from lit_offrl.cpu import route_matmul_to_onednn

SIZE = 256


def peak_flops(products: int = 100) -> float:
    """Floating-point operations per CPU second of float32 products of 256x256 matrices.

    The better of torch's default route and oneDNN's, where that is as exact.

    Args:
        products: How many are timed, three times; the fastest of these counts.
    """
    seconds = _product_seconds(products)
    if route_matmul_to_onednn():
        seconds = min(seconds, _product_seconds(products))
    return 2 * SIZE**3 / seconds


def _product_seconds(products: int) -> float:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, SIZE, SIZE, generator=generator)
    out = torch.empty(SIZE, SIZE)
    return min(cpu_seconds(lambda: torch.mm(a, b, out=out), products) for _ in range(3))
