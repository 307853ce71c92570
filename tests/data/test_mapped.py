import errno
import mmap
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lit_offrl.algorithms import IQL
from lit_offrl.data import OfflineDataModule, Transitions, columns, mapped, packing
from lit_offrl.data.columns import ColumnFile
from lit_offrl.data.sampler import UpdateSampler
from lit_offrl.data.weighting import Sampling
from lit_offrl.errors import InputError
from tests.data.makers import ACTION, episode, make_minari
from tests.ranks import on_ranks, quiet_trainer

NAME = "tests/small-v0"
EVERYTHING = ("next_action", "mc_return", "has_next_action", "truncated")


def make(name: str = NAME, kind: Any = ACTION) -> None:
    make_minari([episode(i, 5 + i, action_space=kind) for i in range(12)], name, action_space=kind)


@pytest.fixture(autouse=True)
def dataset(folders: None) -> None:
    make()


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each matrix that was packed into a file."""
    seen: list[int] = []
    pack_into = packing.pack_into

    def counted(packed: Any, transitions: Any, rows: Any, *options: Any) -> None:
        seen.append(len(rows))
        pack_into(packed, transitions, rows, *options)

    monkeypatch.setattr(mapped, "pack_into", counted)
    return seen


def both(name: str = NAME, **options: Any) -> tuple[OfflineDataModule, OfflineDataModule]:
    in_memory = OfflineDataModule(name, 16, **options)
    return in_memory, OfflineDataModule(name, 16, storage="mapped", **options)


def entries(tmp_path: Path, kind: str = "packed") -> list[Path]:
    return sorted((tmp_path / "cache").glob(f"{kind}-*-v2"))


def leftovers(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"held_out": 0.4, "split_seed": 3, "top_fraction": 0.5},
        {"held_out": 0.0, "normalize_obs": False},
        {"extras": EVERYTHING, "discount": 0.9, "reward_range": 10.0, "reward_shift": -1.0},
        {"sampling": Sampling("return")},
    ],
    ids=str,
)
def test_batches_are_the_same_bit_for_bit(discrete: bool, options: dict[str, Any]) -> None:
    kind: Any = spaces.Discrete(5) if discrete else ACTION
    make("tests/kind-v0", kind)
    memory, on_disk = both("tests/kind-v0", **options)
    for module in (memory, on_disk):
        module.trainer = quiet_trainer(1, max_steps=40)
    for one, two in zip(memory.train_dataloader(), on_disk.train_dataloader(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(memory.held_out_matrix, on_disk.held_out_matrix)
    assert torch.equal(memory.train_matrix, on_disk.train_matrix)
    assert memory.state_dict() == on_disk.state_dict()


def test_batches_are_the_same_where_many_chunks_are_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, on_disk = both(extras=EVERYTHING)
    whole = memory.train_matrix
    monkeypatch.setattr("lit_offrl.data.packing.CHUNK", 7)
    monkeypatch.setattr("lit_offrl.data.packing.RELEASE", 2)
    on_disk.__dict__["scaling"] = memory.scaling  # sums depend on the chunks, by rounding
    assert torch.equal(on_disk.train_matrix, whole)


def test_the_matrix_is_mapped_and_nothing_warns(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = both()[1]
        matrix = module.train_matrix
    (entry,) = entries(tmp_path)
    stored = np.load(entry / "matrix.npy", mmap_mode="r+")
    stored[0, 0] = 123.0
    stored.flush()
    assert matrix[0, 0] == 123.0


def test_a_second_run_finds_the_file(packings: list[int], tmp_path: Path) -> None:
    first, second = both()[1], both()[1]
    assert torch.equal(first.train_matrix, second.train_matrix)
    assert len(packings) == 1
    assert len(entries(tmp_path)) == 1
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"held_out": 0.3},
        {"split_seed": 1},
        {"normalize_obs": False},
        {"reward_range": 10.0},
        {"reward_scale": 2.0},
        {"reward_shift": 1.0},
        {"top_fraction": 0.5},
        {"extras": ("truncated",)},
        {"extras": ("mc_return",)},
    ],
    ids=str,
)
def test_a_changed_option_makes_another_file(
    changed: dict[str, Any], packings: list[int], tmp_path: Path
) -> None:
    both()[1].setup("fit")
    memory, on_disk = both(**changed)
    assert torch.equal(memory.train_matrix, on_disk.train_matrix)
    assert len(packings) == len(entries(tmp_path)) == 2


def test_other_episodes_of_the_same_scaling_make_another_file(packings: list[int]) -> None:
    for seed in (0, 1):
        memory, on_disk = both(split_seed=seed, normalize_obs=False)
        assert torch.equal(memory.train_matrix, on_disk.train_matrix)
    assert len(packings) == 2


def test_the_discount_matters_to_the_returns_alone(packings: list[int]) -> None:
    for discount in (0.9, 0.99):
        both(discount=discount)[1].setup("fit")
    assert len(packings) == 1
    for discount in (0.9, 0.99):
        memory, on_disk = both(discount=discount, extras=("mc_return",))
        assert torch.equal(memory.train_matrix, on_disk.train_matrix)
    assert len(packings) == 3


def test_batch_size_and_sampling_take_the_same_file(packings: list[int]) -> None:
    both()[1].setup("fit")
    OfflineDataModule(NAME, 8, storage="mapped", sampling=Sampling("return")).setup("fit")
    assert len(packings) == 1


def test_other_data_make_another_file(packings: list[int]) -> None:
    both()[1].setup("fit")
    make_minari([episode(i, 6 + i) for i in range(12)], "tests/other-v0")
    memory, on_disk = both("tests/other-v0")
    assert torch.equal(memory.train_matrix, on_disk.train_matrix)
    assert len(packings) == 2


@pytest.mark.parametrize("name", ["matrix.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
@pytest.mark.parametrize("large", [0, 1 << 28], ids=["stamped", "small"])
def test_a_damaged_file_is_rebuilt(
    name: str,
    damage: str,
    large: int,
    packings: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "LARGE", large)
    memory, on_disk = both()
    on_disk.setup("fit")
    path = entries(tmp_path)[0] / name
    content = bytearray(path.read_bytes())
    path.unlink()  # what is mapped stays as it is
    content[-9 if name == "matrix.npy" else 3] ^= 0x55
    if damage != "remove":
        path.write_bytes(content if damage == "flip" else content[:-5])
    assert torch.equal(both()[1].train_matrix, memory.train_matrix)
    assert torch.equal(both()[1].train_matrix, memory.train_matrix)
    assert len(packings) == 2


def test_a_stamp_stands_in_for_the_checksum_of_large_files_until_they_change(
    packings: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "LARGE", 0)
    both()[1].setup("fit")
    read: list[int] = []
    crc32 = zlib.crc32

    def counted(block: Any, *start: Any) -> int:
        read.append(len(block))
        return int(crc32(block, *start))

    monkeypatch.setattr(zlib, "crc32", counted)
    both()[1].setup("fit")
    assert read == []
    os.utime(entries(tmp_path)[0] / "matrix.npy", (0, 0))  # as after a copy
    both()[1].setup("fit")
    assert len(read) == 1
    assert len(packings) == 1


def interrupted(monkeypatch: pytest.MonkeyPatch, file: str, happen: Callable[[], None]) -> None:
    """Let something happen where the first rows of a column are written."""
    write = ColumnFile.__setitem__

    def failing(self: ColumnFile, rows: slice, values: Any) -> None:
        if self._path.name == file:
            happen()
        write(self, rows, values)

    monkeypatch.setattr(ColumnFile, "__setitem__", failing)


@pytest.mark.parametrize("file", ["matrix.npy", "next_obs.npy"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        interrupted(patch, file, full)
        with pytest.raises(InputError, match=r"needs [\d.e-]+ GB in .*cache \(No space") as caught:
            both()[1].setup("fit")
    assert "\n" not in str(caught.value)
    assert "LIT_OFFRL_CACHE" in str(caught.value)
    assert leftovers(tmp_path) == entries(tmp_path) == []
    memory, on_disk = both()
    assert torch.equal(memory.train_matrix, on_disk.train_matrix)


@pytest.mark.parametrize("file", ["matrix.npy", "next_obs.npy"])
def test_what_a_killed_process_left_is_not_taken_for_good(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packings: list[int]
) -> None:
    if (child := os.fork()) == 0:  # dies in the middle, with no chance to clean up
        interrupted(monkeypatch, file, lambda: os._exit(9))
        both()[1].setup("fit")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(leftovers(tmp_path)) == 1
    memory, on_disk = both()
    assert torch.equal(memory.train_matrix, on_disk.train_matrix)
    assert leftovers(tmp_path) == []
    assert len(packings) == 1


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"must write to .*cache .*LIT_OFFRL_CACHE") as caught:
        both()[1].setup("fit")
    assert "\n" not in str(caught.value)


def test_a_read_only_folder_serves_what_it_holds(
    packings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    both()[1].setup("fit")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("lit_offrl.data.cache.FileLock", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    memory, on_disk = both()
    assert torch.equal(memory.train_matrix, on_disk.train_matrix)
    with pytest.raises(InputError, match=r"must write to .*Permission denied"):
        both(held_out=0.5)[1].setup("fit")
    assert len(packings) == 1


def test_an_unknown_storage_is_refused() -> None:
    wrong: Any = "disk"
    with pytest.raises(InputError, match="`storage` may be memory or mapped, not disk"):
        OfflineDataModule(NAME, storage=wrong)


@pytest.mark.parametrize("group", [1 << 18, 7])
def test_selected_transitions_are_mapped_too(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "GROUP", group)
    memory, on_disk = both(held_out=0.3, top_fraction=0.5)
    for what in ("logged", "train", "held_out_transitions"):
        one, two = getattr(memory, what), getattr(on_disk, what)
        assert isinstance(two.obs, np.memmap)
        for name, column in one.columns().items():
            np.testing.assert_array_equal(getattr(two, name), column)
            assert getattr(two, name).dtype == column.dtype
    assert len(entries(tmp_path, "episodes")) == 3
    assert np.array_equal(on_disk.train_returns, on_disk.train.returns())


def test_returns_to_go_are_the_same_in_any_grouping(monkeypatch: pytest.MonkeyPatch) -> None:
    transitions = both()[0].train
    whole = transitions.mc_returns(0.9)
    for group in (1, 7, 30):
        monkeypatch.setattr("lit_offrl.data.transitions.GROUP", group)
        assert np.array_equal(transitions.mc_returns(0.9), whole)


def test_training_alone_copies_no_transitions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(Transitions, "select_episodes", refuse)
    for kind in ("uniform", "return", "advantage", "stratified"):
        module = both(sampling=Sampling(kind))[1]
        quiet_trainer(1, max_steps=2).fit(IQL(module.obs_dim, module.action_dim), module)


def test_all_episodes_are_not_copied_at_all(tmp_path: Path) -> None:
    module = both(held_out=0.0)[1]
    assert module.train is module.logged is module._loaded[0]
    assert entries(tmp_path, "episodes") == []


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_a_large_file_are_read_to_the_same_batches(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, on_disk = both(sampling=Sampling("return" if weighted else "uniform"))
    monkeypatch.setattr(mapped, "RESIDENT", on_disk._mapped.nbytes - 1)
    assert isinstance(mapped.drawn_from(on_disk._mapped), mapped.FileRows)
    for module in (memory, on_disk):
        module.trainer = quiet_trainer(1, max_steps=100)
    on_disk.__dict__["train_matrix"] = "not to be mapped"
    for one, two in zip(memory.train_dataloader(), on_disk.train_dataloader(), strict=True):
        assert torch.equal(one, two)
    every = torch.arange(len(memory.train_matrix))
    assert torch.equal(mapped.FileRows(on_disk._mapped).index_select(0, every), memory.train_matrix)


def test_small_matrices_are_mapped_and_not_read_row_by_row() -> None:
    assert isinstance(mapped.drawn_from(both()[1]._mapped), torch.Tensor)


def test_rows_outlive_a_cache_that_is_deleted(tmp_path: Path) -> None:
    module = both()[1]
    rows = mapped.FileRows(module._mapped)
    before = module.train_matrix[[3, 1]]
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(rows.index_select(0, torch.tensor([3, 1])), before)
    assert torch.equal(module.train_matrix[[3, 1]], before)


def resident_files() -> int:
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_rows_that_are_read_do_not_stay_resident_nor_do_released_pages(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.ones((1 << 22, 4), np.float32))  # 64 MiB
    array = np.load(tmp_path / "large.npy", mmap_mode="r")
    before = resident_files()
    rows = mapped.FileRows(array).index_select(0, torch.arange(0, 1 << 22, 512))
    assert rows.sum() == 4 * len(rows)
    assert resident_files() - before < 4 << 20
    assert array.sum() == 1 << 24
    assert resident_files() - before > 60 << 20
    columns.release_pages(array)
    assert resident_files() - before < 4 << 20


def test_released_pages_hold_the_same_numbers() -> None:
    module = both()[1]
    before = module.train_matrix.clone()
    columns.release_pages(module._mapped)
    module._loaded[0].release_pages()
    assert torch.equal(module.train_matrix, before)
    private = np.ones(5)
    columns.release_pages(private)
    assert private.tolist() == [1.0] * 5


def train(storage: Any, folder: Path, last: int, resume: Path | None = None) -> dict[str, Any]:
    """Train up to an update and return the weights; leaves `last.ckpt`."""
    module = OfflineDataModule(NAME, 16, updates_per_epoch=10, storage=storage)
    torch.manual_seed(0)
    iql = IQL(module.obs_dim, module.action_dim, hidden=(8,), cosine_schedule=False)
    trainer = quiet_trainer(1, max_steps=last)
    trainer.fit(iql, module, ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{storage}-{last}.ckpt")
    return dict(iql.state_dict())


@pytest.mark.parametrize(("first", "second"), [("memory", "mapped"), ("mapped", "memory")])
def test_a_run_may_go_on_with_the_other_storage(tmp_path: Path, first: str, second: str) -> None:
    straight = train("memory", tmp_path, 20)
    train(first, tmp_path, 10)
    resumed = train(second, tmp_path, 20, tmp_path / f"{first}-10.ckpt")
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


def load_on_a_rank(storage: Any, *, devices: int) -> dict[str, Any]:
    """First block of this rank, and the file that its matrix lies in."""
    module = OfflineDataModule(NAME, 16, storage=storage)
    rank = int(os.environ["RANK"])
    module.setup("fit")
    block = UpdateSampler(module.train_matrix, 16, 0, rank, devices).block(0, 4)
    maps = Path("/proc/self/maps").read_text().splitlines()
    files = sorted({line.split()[-1] for line in maps if line.endswith("matrix.npy")})
    return {"block": block, "files": files}


@pytest.mark.slow
def test_ranks_map_one_file_and_see_what_one_would(tmp_path: Path) -> None:
    on_disk, in_memory = (
        on_ranks(load_on_a_rank, tmp_path, storage) for storage in ("mapped", "memory")
    )
    expected = UpdateSampler(both()[0].train_matrix, 16, seed=0).block(0, 4)
    for found in (on_disk, in_memory):
        assert torch.equal(torch.cat([rank["block"] for rank in found], dim=1), expected)
    assert on_disk[0]["files"] == on_disk[1]["files"] != []
    assert len(entries(tmp_path)) == len(on_disk[0]["files"]) == 1
    assert [rank["files"] for rank in in_memory] == [[], []]
