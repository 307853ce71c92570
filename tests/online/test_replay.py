from pathlib import Path

import numpy as np
import pytest
import torch

from lit_offrl.batch import Layout
from lit_offrl.errors import InputError
from lit_offrl.online.replay import ReplayBuffer

LAYOUT = Layout(1, 1, True, ("mc_return",))  # obs, action, reward, next_obs, terminated, mc_return


def numbered(first: int, end: int) -> torch.Tensor:
    """Rows (n, 6) that hold their own number."""
    return torch.arange(first, end).float().unsqueeze(1).repeat(1, LAYOUT.width)


def held(buffer: ReplayBuffer) -> list[float]:
    """Numbers of the rows that are held, sorted."""
    places = torch.arange(len(buffer))
    return sorted(buffer.gather(places)[:, 0].tolist())


def full(folder: Path, rows: int, capacity: int = 8) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, LAYOUT.width, folder)
    for start in range(0, rows, 3):
        buffer.add(numbered(start, min(start + 3, rows)))
    return buffer


@pytest.mark.parametrize("rows", [0, 5, 8, 13, 29])
def test_the_latest_rows_are_held(tmp_path: Path, rows: int) -> None:
    buffer = full(tmp_path, rows)
    assert buffer.count == rows
    assert len(buffer) == min(rows, 8)
    assert held(buffer) == list(range(max(0, rows - 8), rows))


def test_more_rows_at_once_than_fit_leave_the_last(tmp_path: Path) -> None:
    buffer = ReplayBuffer(4, LAYOUT.width, tmp_path)
    buffer.add(numbered(0, 11))
    assert held(buffer) == [7, 8, 9, 10]


def test_a_late_field_is_filled_in_where_its_row_is_still_held(tmp_path: Path) -> None:
    buffer = full(tmp_path, 10)  # holds 2 to 9
    buffer.write([1, 2, 9], LAYOUT, mc_return=torch.tensor([-1.0, -2.0, -9.0]))
    assert buffer.rows[2, 5] == -2 and buffer.rows[1, 5] == -9  # 9 took the place of 1
    assert (buffer.rows[:, :5] == buffer.rows[:, :1]).all()
    assert (buffer.rows[3:, 5] == buffer.rows[3:, 0]).all()
    before = buffer.rows.clone()
    buffer.write([0, 1], LAYOUT, mc_return=torch.ones(2))  # none of these is held
    assert torch.equal(buffer.rows, before)


@pytest.mark.parametrize("rows", [0, 5, 8, 13, 29])
@pytest.mark.parametrize("open_rows", [0, 2])
def test_what_was_saved_comes_back(tmp_path: Path, rows: int, open_rows: int) -> None:
    buffer = full(tmp_path, rows)
    state = buffer.save(max(0, rows - open_rows))
    again = ReplayBuffer(8, LAYOUT.width, tmp_path)
    again.load(state)
    assert again.count == rows
    assert torch.equal(again.rows[: len(again)], buffer.rows[: len(buffer)])


def test_each_row_is_written_once(tmp_path: Path) -> None:
    buffer = full(tmp_path, 5)
    buffer.save(4)
    buffer.add(numbered(5, 7))
    buffer.save(6)
    buffer.save(6)
    pieces = {p.name: np.load(p)[:, 0].tolist() for p in tmp_path.iterdir()}
    assert pieces == {"rows-000000000000.npy": [0, 1, 2, 3], "rows-000000000004.npy": [4, 5]}


def test_a_checkpoint_from_before_forgets_what_came_after(tmp_path: Path) -> None:
    buffer = full(tmp_path, 4)
    state = buffer.save(3)
    buffer.add(numbered(4, 7))
    buffer.save(7)
    again = ReplayBuffer(8, LAYOUT.width, tmp_path)
    again.load(state)
    assert held(again) == [0, 1, 2, 3]
    again.add(numbered(4, 6))
    state = again.save(6)
    assert held(again) == [0, 1, 2, 3, 4, 5]
    third = ReplayBuffer(8, LAYOUT.width, tmp_path)
    third.load(state)
    assert held(third) == [0, 1, 2, 3, 4, 5]


def test_files_of_another_run_are_passed_over(tmp_path: Path) -> None:
    other = ReplayBuffer(8, LAYOUT.width, tmp_path)
    other.add(-numbered(1, 7))
    other.save(2)
    other.save(6)
    own = full(tmp_path, 6)
    own.save(3)
    state = own.save(6)
    assert len(list(tmp_path.iterdir())) == 3
    again = ReplayBuffer(8, LAYOUT.width, tmp_path)
    again.load(state)
    assert held(again) == [0, 1, 2, 3, 4, 5]


def test_a_missing_or_damaged_piece_is_named(tmp_path: Path) -> None:
    buffer = full(tmp_path, 4)
    buffer.save(4)
    buffer.add(numbered(4, 6))
    state = buffer.save(6)
    first, second = sorted(tmp_path.iterdir())
    second.write_bytes(second.read_bytes()[:100])
    with pytest.raises(InputError, match=r"rows-000000000004\.npy is damaged"):
        ReplayBuffer(8, LAYOUT.width, tmp_path).load(state)
    second.unlink()
    with pytest.raises(InputError, match="Rows from 4 on"):
        ReplayBuffer(8, LAYOUT.width, tmp_path).load(state)
    first.unlink()
    with pytest.raises(InputError, match="Rows from 0 on"):
        ReplayBuffer(8, LAYOUT.width, tmp_path).load(state)


def test_another_capacity_is_refused(tmp_path: Path) -> None:
    state = full(tmp_path, 4).save(4)
    with pytest.raises(InputError, match="8 rows of 6 numbers, not 9 of 6"):
        ReplayBuffer(9, LAYOUT.width, tmp_path).load(state)
    with pytest.raises(InputError, match="must be positive"):
        ReplayBuffer(0, 6, tmp_path)
    with pytest.raises(InputError, match="does not fit into memory"):
        ReplayBuffer(10**14, 6, tmp_path)
