"""Each frame of an image observation is stored once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from lit_offrl.data.columns import Column, ColumnFile, GrowingColumn
from lit_offrl.data.frames import FrameBuilder, Frames, assemble, frames_of
from lit_offrl.data.transitions import Transitions

H, W = 33, 34
Images = NDArray[np.uint8]


def plain(steps: int, seed: int, *shape: int) -> Images:
    """Frames that have nothing in common."""
    return np.random.default_rng(seed).integers(256, size=(steps + 1, *shape), dtype=np.uint8)


def stacks(steps: int, seed: int, size: int, axis: int, padding: str = "reset") -> Images:
    """The last ``size`` frames at each step, as Gymnasium's wrapper gives them."""
    frames = plain(steps, seed, H, W)
    first = frames[:1] if padding == "reset" else np.zeros_like(frames[:1])
    whole = np.concatenate([np.repeat(first, size - 1, axis=0), frames])
    return np.stack([np.stack(list(whole[t : t + size]), axis) for t in range(steps + 1)])


def built(episodes: list[Images]) -> Frames:
    columns: dict[str, Any] = {}

    def new(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Column:
        known = shape[0] >= 0
        column: Column = np.empty(shape, dtype) if known else GrowingColumn(shape[1:], dtype)
        columns[name] = column
        return column

    rows = sum(len(images) - 1 for images in episodes)
    builder = FrameBuilder((0, *episodes[0].shape[1:]), "x", rows, new)
    stop = 0
    for images in episodes:
        start, stop = stop, stop + len(images) - 1
        builder.add(slice(start, stop), images)
    columns["x_frames"] = columns["x_frames"].done()
    frames = frames_of("x", columns)
    assert not columns
    return frames


def assert_same_images(frames: Frames, episodes: list[Images]) -> None:
    obs = np.concatenate([images[:-1] for images in episodes])
    following = np.concatenate([images[1:] for images in episodes])
    np.testing.assert_array_equal(frames.images(frames.index), obs.reshape(len(obs), -1))
    np.testing.assert_array_equal(frames.images(frames.next_index), following.reshape(len(obs), -1))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_a_stack_adds_one_frame_a_step(axis: int, padding: str) -> None:
    episodes = [stacks(n, n, 4, axis, padding) for n in (6, 1, 9)]
    frames = built(episodes)
    assert_same_images(frames, episodes)
    assert len(frames.frames) == (7 + 2 + 10) + (0 if padding == "reset" else 3)
    assert frames.frames.shape[1] == H * W


@pytest.mark.parametrize("shape", [(H, W), (H, W, 3), (3, H, W), (2, H, W, 3)])
def test_images_without_a_common_frame_are_stored_whole(shape: tuple[int, ...]) -> None:
    episodes = [plain(n, n, *shape) for n in (3, 5)]
    frames = built(episodes)
    assert_same_images(frames, episodes)
    assert frames.frames.size == 10 * np.prod(shape)


def test_a_stack_that_skips_a_frame_is_kept_as_it_is() -> None:
    episodes = [stacks(8, 0, 4, 0)]
    episodes[0][4, 1] += 1  # not what was seen before
    frames = built(episodes)
    assert_same_images(frames, episodes)
    assert len(frames.frames) == 9 + 3 + 3


def test_more_frames_than_expected_make_room() -> None:
    episodes = [plain(4, 0, H, W, 3), plain(300, 1, H, W, 3)]
    assert_same_images(built(episodes), episodes)


def test_rows_share_the_frames() -> None:
    episodes = [stacks(6, 0, 4, 0)]
    frames, rows = built(episodes), np.array([4, 0])
    some = frames.take(rows)
    assert some.frames is frames.frames
    np.testing.assert_array_equal(some.images(some.next_index), episodes[0][[5, 1]].reshape(2, -1))


def test_bytes_of_frames_and_indices_are_counted() -> None:
    frames = built([stacks(9, 0, 4, 0)])
    assert frames.nbytes == 10 * H * W + 2 * 9 * 4 * 4


def columns(n: int, numbers: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "obs": rng.normal(size=(n, numbers)).astype(np.float32),
        "action": np.zeros(n, np.int64),
        "reward": np.zeros(n, np.float32),
        "next_obs": rng.normal(size=(n, numbers)).astype(np.float32),
        "terminated": np.zeros(n, np.bool_),
        "truncated": np.zeros(n, np.bool_),
        "episode": np.repeat([0, 1], [3, n - 3]),
    }


def test_observations_are_put_together_from_numbers_and_images() -> None:
    episodes = [plain(3, 0, H, W), plain(2, 1, H, W)]
    one = built(episodes)
    two = Frames((H * W + 2, H, W), one.frames, one.next_index, one.index)
    log = Transitions(**columns(5, 3), frames=(one, two))
    seen = log.observed(np.array([1, 4]))
    assert seen.dtype == np.float32
    assert seen.shape == (2, 2 * H * W + 3)
    image, gap, other, rest = np.split(seen, [H * W, H * W + 2, 2 * H * W + 2], 1)
    np.testing.assert_array_equal(image, [episodes[0][1].ravel(), episodes[1][1].ravel()])
    np.testing.assert_array_equal(other, [episodes[0][2].ravel(), episodes[1][2].ravel()])
    np.testing.assert_array_equal(np.concatenate([gap, rest], 1), log.obs[[1, 4]])
    following = log.next_observed(np.array([4]))
    np.testing.assert_array_equal(following[0, : H * W], episodes[1][2].ravel())
    np.testing.assert_array_equal(following[0, -1:], log.next_obs[4, 2:])


def test_images_alone_are_bytes() -> None:
    frames = built([plain(3, 0, H, W)])
    seen = assemble(np.empty((3, 0), np.float32), (frames,), [frames.images(frames.index)])
    assert seen.dtype == np.uint8


@pytest.mark.parametrize("rows", [-1, 5])
def test_a_column_in_a_file_may_grow(rows: int, tmp_path: Path) -> None:
    column = ColumnFile(tmp_path / "a.npy", (rows, 2), np.int32)
    column[0:3] = np.arange(6).reshape(3, 2)
    assert column.n_bytes == (5 if rows == 5 else 3) * 8
    column[3:5] = np.arange(4).reshape(2, 2)
    column.finish()
    expected = [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert np.load(tmp_path / "a.npy").tolist() == expected


def test_a_column_in_memory_may_grow() -> None:
    column = GrowingColumn((2,), np.int32)
    for i in range(100):
        column[3 * i : 3 * i + 3] = np.full((3, 2), i)
    assert column.done().tolist() == [[i, i] for i in range(100) for _ in range(3)]
    with pytest.raises(AssertionError, match="in order"):
        column[0:1] = np.zeros((1, 2))


def test_selected_episodes_take_their_images_along() -> None:
    episodes = [plain(3, 0, H, W), plain(2, 1, H, W)]
    log = Transitions(**columns(5, 0), frames=(built(episodes),))
    second = log.select_episodes(np.array([1]))
    np.testing.assert_array_equal(second.observed(np.arange(2)), episodes[1][:2].reshape(2, -1))
