"""Process-wide CPU settings: when they are made, when not, and that they keep full precision."""

import ctypes
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_offrl import cpu
from lit_offrl.cpu import (
    CpuSettings,
    has_amd_avx512,
    keep_large_blocks,
    onednn_is_exact,
    prepare_cpu,
)
from lit_offrl.cpu_threads import (
    THREADED_FLOPS,
    choose_threads,
    cpuinfo_field,
    default_threads,
    largest_product,
)
from lit_offrl.errors import InputError
from lit_offrl.networks import QNetwork

ZEN = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
siblings\t: 32
cpu cores\t: 16
flags\t\t: fpu avx2 avx512f avx512_bf16

processor\t: 1
vendor_id\t: AuthenticAMD
flags\t\t: fpu avx2
"""
INTEL = ZEN.replace("AuthenticAMD", "GenuineIntel")
SWITCHES = ["LIT_OFFRL_ONEDNN", "LIT_OFFRL_MALLOPT", "LIT_OFFRL_THREADS"]
KINDS = [
    "mm",
    "mm, first transposed",
    "mm, second transposed",
    "mm, first transposed, second transposed",
    "mm, one column",
    "mv, one column",
    "bmm",
    "bmm, first transposed",
    "bmm, second transposed",
    "bmm, first transposed, second transposed",
    "bmm, first shared",
    "addmm",
    "addmm, second transposed, bias",
    "baddbmm, bias",
]

MATMUL: Any = getattr(torch.backends.mkldnn, "matmul", None)
has_route = pytest.mark.skipif(MATMUL is None, reason="torch cannot set it per backend")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start as a fresh process does, on an AMD CPU without a GPU; put everything back."""
    for name in [*SWITCHES, "OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: ZEN)
    monkeypatch.setattr(cpu, "available_cpus", lambda: 2)
    monkeypatch.setattr(cpu, "_last_choice", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads, precision = torch.get_num_threads(), getattr(MATMUL, "fp32_precision", None)
    if MATMUL is not None:
        MATMUL.fp32_precision = "none"
    onednn_is_exact.cache_clear()
    yield
    onednn_is_exact.cache_clear()
    torch.set_num_threads(threads)
    if MATMUL is not None:
        MATMUL.fp32_precision = precision


@pytest.fixture
def two_threads() -> None:
    """Let torch use what it takes of itself on two CPUs; slow where these are busy."""
    torch.set_num_threads(2)


@pytest.fixture
def mallopt(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replace glibc by one that notes what it is asked for."""
    calls: list[tuple[int, int]] = []

    def note(parameter: int, size: int) -> int:
        calls.append((parameter, size))
        return 1

    libc = SimpleNamespace(gnu_get_libc_version=None, mallopt=note)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(sys, "platform", "linux")
    return calls


# Matrix products.


def test_only_an_amd_cpu_with_avx512_and_without_amx_qualifies() -> None:
    assert has_amd_avx512(ZEN)
    assert not has_amd_avx512(INTEL)
    assert not has_amd_avx512(ZEN.replace("avx512f", "avx512_vnni"))
    assert not has_amd_avx512(ZEN.replace("avx2", "amx_tile"))
    assert not has_amd_avx512("")


def test_a_cpuinfo_field_is_the_first_processors() -> None:
    assert cpuinfo_field(ZEN, "flags") == "fpu avx2 avx512f avx512_bf16"
    assert cpuinfo_field("model name : a: b", "model name") == "a: b"
    assert cpuinfo_field(ZEN, "cores") == ""


@has_route
def test_the_route_is_taken_where_the_error_stays() -> None:
    errors = iter([5e-5, 9e-5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "worst_error", lambda: next(errors))
        assert cpu.route_matmul_to_onednn()
        assert cpu.route_matmul_to_onednn()  # no third probe
    assert MATMUL.fp32_precision == "bf16"


@has_route
@pytest.mark.parametrize("error", [5e-2, float("nan")])
def test_the_route_is_left_alone_where_the_error_grows(error: float) -> None:
    errors = iter([5e-5, error])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "worst_error", lambda: next(errors))
        assert not cpu.route_matmul_to_onednn()
    assert MATMUL.fp32_precision == "none"
    torch.get_float32_matmul_precision()  # raises while the route is set


def kind_of_product(name: str, added: list[Tensor], x: Tensor, y: Tensor) -> str:
    """Say in words what oneDNN may treat in a way of its own."""
    words = [name]
    if x.stride(-1) != 1:
        words.append("first transposed")
    if x.ndim == 3 and x.stride(0) == 0:
        words.append("first shared")
    if y.ndim == 1 or y.shape[-1] == 1:
        words.append("one column")
    elif y.stride(-1) != 1:
        words.append("second transposed")
    if added and (added[0].ndim == 1 or added[0].shape[-2] == 1):
        words.append("bias")
    return ", ".join(words)


@has_route
@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_sees_bf16_in_each_kind_of_product(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kind.split(",")[0]
    product: Callable[..., Tensor] = getattr(torch, name)

    def rounded(*operands: Tensor) -> Tensor:
        *added, x, y = operands
        routed = MATMUL.fp32_precision == "bf16" and x.dtype == torch.float32
        if routed and kind_of_product(name, added, x, y) == kind:
            x, y = x.bfloat16().float(), y.bfloat16().float()
        return product(*added, x, y)

    monkeypatch.setattr(torch, name, rounded)
    assert not onednn_is_exact()
    assert MATMUL.fp32_precision == "none"


@has_route
def test_a_product_that_onednn_cannot_do_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*operands: Tensor) -> Tensor:
        if MATMUL.fp32_precision == "bf16":
            raise RuntimeError("could not create a primitive")
        return torch.mm(operands[0], operands[1].unsqueeze(1)).squeeze(1)

    monkeypatch.setattr(torch, "mv", fail)
    assert not cpu.route_matmul_to_onednn()
    assert MATMUL.fp32_precision == "none"


@has_route
def test_float32_products_are_as_exact_with_the_route_as_without() -> None:
    cpu.route_matmul_to_onednn()  # whatever it decides on this machine with this cpuinfo
    assert cpu.worst_error() < 1e-3


@has_route
@pytest.mark.parametrize("case", ["intel", "cuda", "chosen", "old torch"])
def test_other_machines_and_choices_are_left_alone(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "onednn_is_exact", lambda: True)
    assert cpu.route_matmul_to_onednn()
    MATMUL.fp32_precision = "ieee" if case == "chosen" else "none"
    if case == "intel":
        monkeypatch.setattr(cpu, "_cpuinfo", lambda: INTEL)
    elif case == "cuda":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    elif case == "old torch":
        monkeypatch.setattr(torch.backends, "mkldnn", SimpleNamespace())
    assert not cpu.route_matmul_to_onednn()
    assert MATMUL.fp32_precision == ("ieee" if case == "chosen" else "none")


@has_route
def test_float64_products_do_not_change() -> None:
    a, b = torch.randn(2, 64, 64, dtype=torch.float64)
    before = torch.mm(a, b)
    MATMUL.fp32_precision = "bf16"
    assert torch.equal(torch.mm(a, b), before)


# Memory.


def test_malloc_is_told_all_three_sizes(mallopt: list[tuple[int, int]]) -> None:
    assert keep_large_blocks()
    assert mallopt == [(-3, 32 * 2**20), (-1, 256 * 2**20), (-2, 64 * 2**20)]


def test_a_refused_size_says_not_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda parameter, size: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    assert not keep_large_blocks()


def test_other_systems_and_c_libraries_are_left_alone(
    mallopt: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_large_blocks()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delattr(ctypes.CDLL(None), "gnu_get_libc_version")
    assert not keep_large_blocks()
    assert mallopt == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_not_mapped_anew() -> None:
    code = """
import ctypes, resource
from lit_offrl.cpu import keep_large_blocks
libc, size, rounds = ctypes.CDLL(None), 8 << 20, 10
libc.malloc.restype = ctypes.c_void_p
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size))) for _ in range(8)]
        for block in blocks: libc.memset(block, 1, ctypes.c_size_t(size))
        for block in blocks: libc.free(block)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / rounds
faults()
print(faults())
print(keep_large_blocks())
faults()
print(faults())
"""
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    if out[1] == "False":
        pytest.skip("not glibc")
    assert float(out[2]) < 10 < float(out[0])


# Threads.


@pytest.mark.parametrize(
    ("environ", "current", "flops", "expected"),
    [
        ({}, 16, 1e6, 1),
        ({}, 32, 1e6, 1),
        ({}, 16, THREADED_FLOPS, 16),
        ({}, 16, THREADED_FLOPS - 1, 1),
        ({}, 6, 1e6, 6),  # by torch.set_num_threads
        ({"OMP_NUM_THREADS": "16"}, 16, 1e6, 16),
        ({"MKL_NUM_THREADS": "16"}, 16, 1e6, 16),
        ({"LIT_OFFRL_THREADS": "3", "OMP_NUM_THREADS": "2"}, 2, 1e6, 3),
        ({"LIT_OFFRL_THREADS": ""}, 16, 1e6, 1),
    ],
)
def test_one_thread_unless_the_user_chose_or_products_are_large(
    environ: dict[str, str], current: int, flops: float, expected: int
) -> None:
    assert choose_threads(flops, environ, current, default_threads(32, ZEN)) == expected


def test_what_lightning_sets_for_several_ranks_is_not_the_users_choice() -> None:
    environ = {"OMP_NUM_THREADS": "8"}
    assert choose_threads(1e6, environ, 8, {32}, by_lightning=8) == 1
    assert choose_threads(1e6, environ, 8, {32}, by_lightning=16) == 8


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_a_wrong_number_of_threads_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_OFFRL_THREADS", value)
    with pytest.raises(InputError, match=f"`LIT_OFFRL_THREADS` to a number.*`{value}`"):
        prepare_cpu(1e6)


def test_torch_takes_all_cpus_or_one_per_core() -> None:
    assert default_threads(32, ZEN) == {32, 16}
    assert default_threads(8, ZEN) == {8, 4}
    assert default_threads(8, "") == {8}


def test_the_largest_product_is_one_members_largest_matrix_times_all_rows() -> None:
    q = QNetwork(11, 3, (256, 128), n_critics=10)
    assert largest_product(q, rows=64) == 2 * 64 * 256 * 128
    assert largest_product(nn.Linear(8, 4), rows=2) == 128
    assert largest_product(nn.ReLU(), rows=2) == 0 == largest_product(nn.LayerNorm(8), rows=2)


# Everything.


@pytest.mark.usefixtures("two_threads")
@has_route
def test_everything_is_prepared_and_said_in_one_line(
    mallopt: list[tuple[int, int]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "onednn_is_exact", lambda: True)
    caplog.set_level(logging.INFO, logger="lit_offrl.cpu")
    assert prepare_cpu(1e6) == CpuSettings(threads=1, onednn=True, malloc=True)
    assert torch.get_num_threads() == 1
    assert MATMUL.fp32_precision == "bf16"
    assert len(mallopt) == 3
    expected = "CPU: 1 thread(s), float32 matrix products through oneDNN, freed memory kept."
    assert caplog.messages == [expected]


@pytest.mark.usefixtures("two_threads")
@has_route
@pytest.mark.parametrize(
    ("name", "value", "expected", "message"),
    [
        ("LIT_OFFRL_ONEDNN", "0", CpuSettings(1, onednn=False, malloc=True), "not through oneDNN"),
        ("LIT_OFFRL_MALLOPT", "0", CpuSettings(1, onednn=True, malloc=False), "memory not kept"),
        ("LIT_OFFRL_THREADS", "2", CpuSettings(2, onednn=True, malloc=True), "2 thread"),
    ],
)
def test_each_setting_has_an_off_switch(
    name: str,
    value: str,
    expected: CpuSettings,
    message: str,
    mallopt: list[tuple[int, int]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "onednn_is_exact", lambda: True)
    monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO, logger="lit_offrl.cpu")
    assert prepare_cpu(1e6) == expected
    assert torch.get_num_threads() == expected.threads
    assert (MATMUL.fp32_precision == "bf16") == expected.onednn
    assert bool(mallopt) == expected.malloc
    assert message in caplog.messages[0]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", SWITCHES[:2])
@pytest.mark.parametrize("value", ["", "off", "2"])
def test_a_wrong_switch_is_refused_before_anything_changes(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"Set `{name}` to 0 or 1, not `{value}`"):
        prepare_cpu(1e6)
    assert torch.get_num_threads() == 2
    assert getattr(MATMUL, "fp32_precision", "none") == "none"


@pytest.mark.usefixtures("two_threads")
def test_a_second_call_decides_as_the_first_would(
    mallopt: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare_cpu(1e6).threads == 1
    assert prepare_cpu(1e6).threads == 1
    assert prepare_cpu(THREADED_FLOPS).threads == 2 == torch.get_num_threads()
    assert prepare_cpu(1e6).threads == 1
    monkeypatch.setenv("LIT_OFFRL_THREADS", "3")
    assert prepare_cpu(1e6).threads == 3 == torch.get_num_threads()
    monkeypatch.delenv("LIT_OFFRL_THREADS")
    assert prepare_cpu(THREADED_FLOPS).threads == 2 == torch.get_num_threads()


@pytest.mark.usefixtures("two_threads")
def test_threads_that_the_user_sets_between_two_calls_stay(mallopt: list[tuple[int, int]]) -> None:
    prepare_cpu(1e6)
    torch.set_num_threads(3)
    assert prepare_cpu(1e6).threads == 3 == torch.get_num_threads()


@pytest.mark.usefixtures("two_threads")
def test_ranks_started_by_lightning_take_one_thread_each(
    mallopt: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "available_cpus", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert prepare_cpu(1e6, ranks=4).threads == 1
    assert prepare_cpu(1e6, ranks=2).threads == 2  # somebody's: Lightning's would be 4
