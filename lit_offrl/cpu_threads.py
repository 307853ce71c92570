"""How many threads torch should use for one operation."""

import os
import sys
from collections.abc import Collection, Mapping

from torch import nn

from lit_offrl.errors import InputError

THREADED_FLOPS = 2e9
"""Size of a matrix product from which several threads cost little on a busy machine."""


def choose_threads(
    flops: float,
    environ: Mapping[str, str],
    current: int,
    defaults: Collection[int],
    by_lightning: int | None = None,
) -> int:
    """Return the number of intra-op threads: 1, unless the user chose or products are large.

    Args:
        flops: Floating-point operations of the largest matrix product.
        environ: Environment variables.
        current: Threads that torch uses now.
        defaults: Threads that torch may use of itself; others were chosen by the user.
        by_lightning: What Lightning sets ``OMP_NUM_THREADS`` to where it starts several ranks.

    Raises:
        InputError: If ``LIT_OFFRL_THREADS`` is not a positive number.
    """
    asked = environ.get("LIT_OFFRL_THREADS", "")
    if asked:
        if not (asked.isascii() and asked.isdigit() and int(asked)):
            raise InputError(f"Set `LIT_OFFRL_THREADS` to a number of threads, not `{asked}`.")
        return int(asked)
    omp = environ.get("OMP_NUM_THREADS")
    by_user = omp is not None and omp != str(by_lightning)
    if by_user or "MKL_NUM_THREADS" in environ or current not in {*defaults, by_lightning}:
        return current
    return current if flops >= THREADED_FLOPS else 1


def default_threads(cpus: int, cpuinfo: str) -> set[int]:
    """Threads that torch may use of itself on ``cpus`` CPUs: all, or one per physical core."""
    cores, siblings = (int(cpuinfo_field(cpuinfo, n) or 0) for n in ("cpu cores", "siblings"))
    return {cpus, cpus * cores // siblings} if siblings else {cpus}


def largest_product(module: nn.Module, rows: int) -> int:
    """Floating-point operations of the largest matrix product of a network with ``rows`` rows."""
    matrices = [p.shape[-2:] for p in module.parameters() if p.ndim >= 2]
    return 2 * rows * max((shape.numel() for shape in matrices), default=0)


def available_cpus() -> int:
    """Count the CPUs that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpuinfo_field(cpuinfo: str, name: str) -> str:
    """Value of a field of the first processor, empty if there is none."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
