"""What the CPU settings of ``lit_offrl.cpu`` do to matrix products and to eager updates.

    python benchmarks/cpu_settings.py products
    python benchmarks/cpu_settings.py threads
    python benchmarks/cpu_settings.py {onednn,malloc,threads} IQL 256 256

``products`` compares MKL and oneDNN, op by op, on one thread; ``threads`` one and two threads. The
others run updates with a setting off and on, in two processes per round; a figure is the median
over rounds. Compare CPU time on a busy machine, wall time on an idle one.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_offrl.algorithms import CQL, IQL, OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.cpu import prepare_cpu, route_matmul_to_onednn, worst_error
from lit_offrl.cpu_threads import largest_product

SWITCHES = {
    "onednn": ("LIT_OFFRL_ONEDNN", "0", "1"),
    "malloc": ("LIT_OFFRL_MALLOPT", "0", "1"),
    "threads": ("LIT_OFFRL_THREADS", "1", "2"),
}
CASES = [("IQL", 256, 256), ("CQL", 256, 256), ("IQL", 1024, 256)]
SHAPES = [(256, 256), (256, 1024), (4096, 256), (4096, 512), (4096, 1024)]
"""Rows and width of products."""

SECONDS = 2.0
"""Wall time of one measurement, but at least two updates."""


def timed(call: Callable[[], object], seconds: float) -> tuple[int, float, float]:
    """Number of calls in ``seconds``, and wall and CPU time of one."""
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while count < 2 or time.perf_counter() - wall < seconds:
        call()
        count += 1
    return count, (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def products() -> dict[str, Callable[[], Tensor]]:
    """Matrix products of updates: batch 256 or 2048, width 256, two members."""
    a, b, w, full = torch.randn(4, 256, 256).unbind()
    rows, bias, column = torch.randn(2048, 256), torch.randn(256), torch.randn(256, 1)
    a2, w2, bias2 = torch.randn(2, 256, 256), torch.randn(2, 256, 256), torch.randn(2, 1, 256)
    a64, b64, a16, b16 = a.double(), b.double(), a.bfloat16(), b.bfloat16()
    parameter = w.clone().requires_grad_()
    return {
        "mm": lambda: torch.mm(a, b),
        "mm, second transposed": lambda: torch.mm(a, b.t()),
        "mm, first transposed": lambda: torch.mm(a.t(), b),
        "mm, 2048 rows": lambda: torch.mm(rows, w),
        "mm, inner width 11": lambda: torch.mm(a[:, :11].contiguous(), w[:11]),
        "addmm": lambda: torch.addmm(full, a, w),
        "linear": lambda: F.linear(a, w, bias),
        "linear and its gradient": lambda: torch.autograd.grad(
            F.linear(a, parameter, bias).sum(), parameter
        )[0],
        "bmm": lambda: torch.bmm(a2, w2),
        "baddbmm": lambda: torch.baddbmm(bias2, a2, w2),
        "mm, one column": lambda: torch.mm(a, column),
        "mv": lambda: torch.mv(a, bias),
        "vecdot": lambda: torch.linalg.vecdot(a, bias),
        "mm of float64": lambda: torch.mm(a64, b64),
        "mm of bfloat16": lambda: torch.mm(a16, b16),
    }


def compare_products(rounds: int) -> None:
    """Print CPU time per op, by MKL and by oneDNN in turn."""
    torch.set_num_threads(1)
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    print(f"{'µs of CPU time':26}{'MKL':>9}{'oneDNN':>9}{'ratio':>8}")
    for name, product in products().items():
        seconds: dict[str, list[float]] = {"none": [], "bf16": []}
        for _ in range(rounds):
            for precision, measured in seconds.items():
                matmul.fp32_precision = precision
                product()
                measured.append(timed(product, 0.02)[2])
        off, on = (1e6 * statistics.median(measured) for measured in seconds.values())
        print(f"{name:26}{off:9.1f}{on:9.1f}{off / on:8.2f}")
    errors = []
    for precision in ("none", "bf16"):
        matmul.fp32_precision = precision
        errors.append(worst_error())
    print("largest error against float64: {:.1e} and {:.1e}".format(*errors))


def compare_threads(rounds: int) -> None:
    """Print wall time of products of growing size, by one and by two threads in turn."""
    route_matmul_to_onednn()
    print(f"{'ms, by 1 and 2 threads':26}{'GFLOP':>7}{'least':>17}{'median':>17}{'ratio':>7}")
    for rows, width in SHAPES:
        a, b = torch.randn(rows, width), torch.randn(width, width)
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for threads, measured in enumerate(found, 1):
                torch.set_num_threads(threads)
                measured.append(timed(partial(torch.mm, a, b), 0)[1])
        least = [1e3 * min(measured) for measured in found]
        median = [1e3 * statistics.median(measured) for measured in found]
        print(
            f"{f'mm, {rows} x {width} x {width}':26}{2e-9 * rows * width**2:7.2f}"
            f"{least[0]:9.2f}{least[1]:8.2f}{median[0]:9.2f}{median[1]:8.2f}"
            f"{median[0] / median[1]:7.3f}"
        )


def measure_updates(name: str, width: int, size: int) -> None:
    """Print as JSON what an eager update costs under this process's settings."""
    torch.manual_seed(0)
    hidden = (width, width)
    algorithm: OfflineAlgorithm
    if name == "IQL":
        algorithm = IQL(obs_dim=11, action_dim=3, hidden=hidden)
    else:
        algorithm = CQL(obs_dim=11, action_dim=3, hidden=hidden, critic_hidden=hidden)
    flops = largest_product(algorithm, size)
    prepare_cpu(flops)
    batch = Batch(
        obs=torch.randn(size, 11),
        action=torch.rand(size, 3) * 2 - 1,
        reward=torch.randn(size),
        next_obs=torch.randn(size, 11),
        terminated=torch.zeros(size),
    )
    timed(lambda: algorithm.update(batch), 0)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    count, wall, cpu = timed(lambda: algorithm.update(batch), SECONDS)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "flops": flops,
        "wall": wall * 1e3,
        "cpu": cpu * 1e3,
        "faults": (usage.ru_minflt - faults) / count,
        "peak": usage.ru_maxrss / 1024,
    }
    print(json.dumps(found))


def compare_updates(setting: str, cases: list[tuple[str, int, int]], rounds: int) -> None:
    """Print what updates cost with a setting off and on."""
    variable, *values = SWITCHES[setting]
    header = f"{'ms per update, off and on':34}{'wall':>19}{'ratio':>7}{'CPU':>19}{'ratio':>7}"
    print(f"{header}{'faults':>13}{'MB':>11}")
    for case in cases:
        found: list[list[dict[str, Any]]] = [[], []]
        for _ in range(rounds):
            for value, results in zip(values, found, strict=True):
                command = [sys.executable, __file__, "measure", *map(str, case)]
                environment = {**os.environ, "LIT_OFFRL_THREADS": "1", variable: value}
                out = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=True
                )
                results.append(json.loads(out.stdout))
        print(_row(case, found), flush=True)


def _row(case: tuple[str, int, int], found: list[list[dict[str, Any]]]) -> str:
    def both(key: str) -> tuple[float, float]:
        off, on = (statistics.median(result[key] for result in results) for results in found)
        return off, on

    wall, cpu, faults, peak = both("wall"), both("cpu"), both("faults"), both("peak")
    label = f"{case[0]} {case[1]} wide, batch {case[2]} ({found[0][0]['flops'] / 1e6:.0f} M)"
    return (
        f"{label:34}{wall[0]:9.2f} {wall[1]:9.2f}{wall[0] / wall[1]:7.2f}"
        f"{cpu[0]:9.2f} {cpu[1]:9.2f}{cpu[0] / cpu[1]:7.2f}"
        f"{faults[0]:6.0f} {faults[1]:6.0f}{peak[0]:5.0f} {peak[1]:5.0f}"
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Measure the settings of lit_offrl.cpu.")
    parser.add_argument("what", choices=["products", *SWITCHES, "measure"])
    parser.add_argument("case", nargs="*", help="algorithm, width, batch size; default: several")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.what == "products":
        return compare_products(options.rounds)
    if options.what == "threads" and not options.case:
        return compare_threads(options.rounds)
    cases = CASES
    if options.case:
        name, width, size = options.case
        cases = [(name, int(width), int(size))]
    if options.what == "measure":
        return measure_updates(*cases[0])
    return compare_updates(options.what, cases, options.rounds)


if __name__ == "__main__":
    main()
