"""What a compiled IQL update spends its time on.

    python benchmarks/where_time_goes.py

One thread, batch 256, two hidden layers of 256, Hopper's shape, under ``torch.profiler``, which
itself makes an update a little slower.
"""

from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.racing import ACTION_DIM, OBS_DIM
from lit_offrl import compiled
from lit_offrl.algorithms import IQL
from lit_offrl.batch import Layout
from lit_offrl.cpu import prepare_cpu
from lit_offrl.cpu_threads import largest_product

UPDATES = 200
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv")


def kind(name: str) -> str:
    """Which line of the table an operation belongs to."""
    operation = name.removeprefix("aten::").removeprefix("aoti_torch_cpu_").removesuffix("_out")
    if operation in PRODUCTS:
        return "matrix products"
    if "cpp_fused" in name:
        return "Adam and target network" if "addcmul" in name else "other fused operations"
    return "calls, copies and the rest"


def main() -> None:
    """Profile and print a table."""
    torch.manual_seed(0)
    layout = Layout(OBS_DIM, ACTION_DIM, False)
    batch = layout.unpack(torch.rand(256, layout.width))
    iql = IQL(OBS_DIM, ACTION_DIM, hidden=(256, 256))
    prepare_cpu(largest_product(iql, 256))
    iql.compile_update = True
    iql.start(0, -1)
    compiled.OPTIONS["cpp.enable_kernel_profile"] = True
    for _ in range(50):
        iql.train_update(batch)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(UPDATES):
            iql.train_update(batch)
    micros: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        micros[kind(event.key)] += event.self_cpu_time_total / UPDATES
    print("| | ms per update |\n|---|---|")
    for name, value in sorted(micros.items(), key=lambda item: -item[1]):
        print(f"| {name} | {value / 1000:.2f} |")
    print(f"| all | {sum(micros.values()) / 1000:.2f} |")


if __name__ == "__main__":
    main()
