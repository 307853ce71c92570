"""Process-wide settings for training on a CPU: matrix products, memory, threads."""

import ctypes
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_offrl.cpu_threads import available_cpus, choose_threads, cpuinfo_field, default_threads
from lit_offrl.errors import InputError

_log = logging.getLogger(__name__)

ERROR_RATIO = 10.0
"""Two float32 products of the same matrices err alike within this; bf16's err 1,000 times more."""

MALLOPT = {-3: 32 << 20, -1: 256 << 20, -2: 64 << 20}
"""M_MMAP_THRESHOLD (the most that old glibc takes), M_TRIM_THRESHOLD and M_TOP_PAD, in bytes."""

_last_choice: tuple[int, int] | None = None
"""Threads that torch had before :func:`prepare_cpu` last changed them, and after."""


class CpuSettings(NamedTuple):
    """What is in effect.

    Args:
        threads: Intra-op threads of torch.
        onednn: Whether oneDNN computes float32 matrix products, at full precision.
        malloc: Whether freed blocks of up to 32 MB stay in the process.
    """

    threads: int
    onednn: bool
    malloc: bool


def prepare_cpu(flops: float, ranks: int = 1) -> CpuSettings:
    """Choose the settings of this process for training on its CPU; idempotent.

    The choice depends on machine, environment and arguments alone, never on a timing: the last
    bits of a run depend on it, and so does exact resume. ``LIT_OFFRL_ONEDNN=0``,
    ``LIT_OFFRL_MALLOPT=0`` and ``LIT_OFFRL_THREADS=n`` overrule it.

    Args:
        flops: Floating-point operations of the largest matrix product, see
            :func:`largest_product`.
        ranks: Training processes on this machine.

    Raises:
        InputError: If one of the variables holds something else.
    """
    onednn, malloc = _switch("LIT_OFFRL_ONEDNN"), _switch("LIT_OFFRL_MALLOPT")
    settings = CpuSettings(
        threads=_set_threads(flops, ranks),
        onednn=onednn and route_matmul_to_onednn(),
        malloc=malloc and keep_large_blocks(),
    )
    _log.info(
        "CPU: %d thread(s), float32 matrix products %s oneDNN, freed memory %s.",
        settings.threads,
        "through" if settings.onednn else "not through",
        "kept" if settings.malloc else "not kept",
    )
    return settings


def _set_threads(flops: float, ranks: int) -> int:
    """Set the number of threads where it is not the user's choice, and return it."""
    global _last_choice
    cpus, found = available_cpus(), torch.get_num_threads()
    by_lightning = max(1, cpus // ranks) if ranks > 1 else None
    before = _last_choice[0] if _last_choice and found == _last_choice[1] else found
    defaults = default_threads(cpus, _cpuinfo())
    threads = choose_threads(flops, os.environ, before, defaults, by_lightning)
    if threads != found:
        torch.set_num_threads(threads)
        _last_choice = before, threads
    return threads


# Matrix products.


def route_matmul_to_onednn() -> bool:
    """Let oneDNN compute float32 matrix products where that is faster and as exact.

    MKL takes its AVX2 path on AMD. torch hands float32 products to oneDNN only when bf16 is
    allowed inside them, which oneDNN makes use of on CPUs with AMX alone. So: AMD, AVX-512, no
    AMX, torch >= 2.9, a probe of the error, and nobody chose a precision before. A process that
    sees a CUDA device is left alone, since ``torch.get_float32_matmul_precision()``, which
    Lightning calls there, raises once this is set.

    Returns:
        Whether it is in effect.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None or torch.cuda.is_available() or not has_amd_avx512(_cpuinfo()):
        return False
    if matmul.fp32_precision == "none" and onednn_is_exact():
        matmul.fp32_precision = "bf16"
    return bool(matmul.fp32_precision == "bf16")


def has_amd_avx512(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo describes an AMD CPU with AVX-512 and without AMX."""
    flags = cpuinfo_field(cpuinfo, "flags").split()
    amx = any(flag.startswith("amx") for flag in flags)
    return cpuinfo_field(cpuinfo, "vendor_id") == "AuthenticAMD" and "avx512f" in flags and not amx


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's products are as close to float64 as those of torch's default."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    error = worst_error()
    matmul.fp32_precision = "bf16"
    try:
        return worst_error() <= ERROR_RATIO * error
    except RuntimeError:  # a product that oneDNN cannot do
        return False
    finally:
        matmul.fp32_precision = "none"


def worst_error() -> float:
    """Largest error of float32 products against float64, in the layouts that updates use."""
    generator = torch.Generator().manual_seed(0)
    worst = torch.zeros((), dtype=torch.float64)
    for k in (256, 1024):
        a, b, c = (
            torch.randn(2, *shape, generator=generator, dtype=torch.float32, device="cpu")
            for shape in ((64, k), (k, 96), (64, 96))
        )  # (2, m, k), (2, k, n), (2, m, n)
        exact = _products(a.double(), b.double(), c.double())
        for product, reference in zip(_products(a, b, c), exact, strict=True):
            worst = torch.maximum(worst, (product - reference).abs().max())
    return worst.item()


def _products(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
    """All kinds of products of a (2, m, k) and b (2, k, n), some added to c (2, m, n)."""
    a_t, b_t = a.mT.contiguous().mT, b.mT.contiguous().mT  # the same, stored transposed
    return [
        *(torch.mm(x[0], y[0]) for x in (a, a_t) for y in (b, b_t)),
        *(torch.bmm(x, y) for x in (a, a_t) for y in (b, b_t)),
        torch.bmm(a[0].expand_as(a), b),
        torch.addmm(c[0], a[0], b[0]),
        torch.addmm(c[0, 0], a[0], b_t[0]),  # as nn.Linear
        torch.baddbmm(c[:, :1], a, b),
        torch.mm(a[0], b[0, :, :1]),
        torch.mv(a[0], b[0, :, 0]),
    ]


# Memory.


def keep_large_blocks() -> bool:
    """Let malloc keep freed memory: glibc returns it to the system, update by update.

    Returns:
        Whether it is in effect; only glibc has this.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return all(libc.mallopt(parameter, size) == 1 for parameter, size in MALLOPT.items())


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _switch(name: str) -> bool:
    """Whether a setting is wanted: yes, unless its variable is 0."""
    value = os.environ.get(name, "1")
    if value not in ("0", "1"):
        raise InputError(f"Set `{name}` to 0 or 1, not `{value}`.")
    return value == "1"
