"""Gymnasium spaces to flat columns and back, for many steps at once."""

import math
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.spaces.utils import flatdim
from numpy.typing import NDArray

from lit_offrl.data.soundness import refuse_non_numbers
from lit_offrl.encoders import Image, sides

MAX_FLAT_ACTIONS = 1 << 24
"""Largest number of actions: a packed batch holds their indices as float32."""


def refuse_unreadable(obs_space: Space[Any], action_space: Space[Any]) -> None:
    """Refuse spaces that no data set can be read with.

    Raises:
        ValueError: With the reason and what would do.
    """
    flat = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not all(isinstance(part, flat) for part in part_spaces(obs_space)):
        raise ValueError(
            f"observations of space {obs_space} cannot be flattened: only Box, Discrete, "
            "MultiDiscrete, MultiBinary, and Dict and Tuple of them can"
        )
    if not isinstance(action_space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
        raise ValueError(
            f"actions of space {action_space} are not supported: only Box, Discrete and "
            "MultiDiscrete are"
        )
    if isinstance(action_space, spaces.Box):
        equal = (action_space.low >= action_space.high).ravel()
        if equal.any():
            raise ValueError(
                f"dimension {equal.argmax()} of the action space has equal bounds, so there is "
                "nothing to choose: leave it out"
            )
    elif number_of_actions(action_space) > MAX_FLAT_ACTIONS:
        raise ValueError(f"{action_space} has more than {MAX_FLAT_ACTIONS} actions")


def part_spaces(space: Space[Any]) -> list[Space[Any]]:
    """Spaces within Dict and Tuple."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [space]
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
    return [leaf for part in parts for leaf in part_spaces(part)]


def flatten_observations(space: Space[Any], values: Any) -> NDArray[np.float32]:
    """Flatten stacked observations as ``gymnasium.spaces.flatten`` flattens one.

    Args:
        space: Space of one observation.
        values: Observations stacked on axis 0; dicts and tuples of such for nested spaces.

    Returns:
        One row per observation, (n, O). Discrete parts are one-hot.

    Raises:
        ValueError: If the values do not fit the space, or it cannot be flattened.
    """
    try:
        width = flatdim(space)
    except (NotImplementedError, ValueError):
        raise ValueError(f"observations of space {space} cannot be flattened") from None
    flat = np.zeros((len(leaves(values)[0]), width), dtype=np.float32)  # (n, O)
    _write(space, values, flat)
    return flat


def image_parts(space: Space[Any]) -> tuple[Image, ...]:
    """Where images lie in a flattened observation: boxes of bytes of at least 32 by 32 pixels.

    >>> image_parts(spaces.Box(0, 255, (4, 84, 84), np.uint8))
    ((0, 4, 84, 84),)
    """
    return tuple((start, *_shape(part)) for _, part, start in _parts(space) if _is_image(part))


def split_observations(
    space: Space[Any], values: Any
) -> tuple[NDArray[np.float32], list[NDArray[np.uint8]]]:
    """Flatten stacked observations but for their images.

    Args:
        space: Space of one observation.
        values: As for :func:`flatten_observations`.

    Returns:
        The numbers, (n, V), and each image, (n, ...), in the order of :func:`image_parts`.

    Raises:
        ValueError: If the values do not fit the space, or it cannot be flattened.
    """
    images, numbers = [], []
    for path, part, _ in _parts(space):
        value = values
        for key in path:
            value = value[key]
        if not _is_image(part):
            numbers.append(flatten_observations(part, value))
        elif value.dtype != np.uint8 or value[:1].size != math.prod(_shape(part)):
            raise ValueError(f"{value.dtype} images of shape {value.shape[1:]}, but {part}")
        else:
            images.append(value.reshape(-1, *_shape(part)))
    empty = np.empty((len(leaves(values)[0]), 0), np.float32)
    return np.concatenate([empty, *numbers], 1), images


def _parts(space: Space[Any]) -> list[tuple[tuple[Any, ...], Space[Any], int]]:
    """Leaves of a space: the keys that lead there, the space, and its first flat column."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [((), space, 0)]
    keyed = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    found, start = [], 0
    for key, part in keyed:
        found += [((key, *path), leaf, start + at) for path, leaf, at in _parts(part)]
        start += flatdim(part)
    return found


def _shape(space: Space[Any]) -> tuple[int, ...]:
    return space.shape or ()


def _is_image(space: Space[Any]) -> bool:
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and sides(_shape(space)) is not None
    )


def leaves(values: Any) -> list[Any]:
    """List the arrays in nested dicts and tuples."""
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, tuple):
        return [leaf for value in values for leaf in leaves(value)]
    return [values]


def _write(space: Space[Any], values: Any, out: NDArray[np.float32]) -> None:
    """Flatten ``values`` into zeroed columns ``out`` (in place)."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        keyed = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        start = 0
        for key, part in keyed:
            stop = start + flatdim(part)
            _write(part, values[key], out[:, start:stop])
            start = stop
    elif isinstance(space, spaces.Discrete):
        codes = _codes(np.asarray(values).reshape(len(out), 1), space.start, space.n)
        np.put_along_axis(out, codes, 1, axis=1)
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.ravel()
        codes = _codes(np.asarray(values).reshape(len(out), -1), space.start.ravel(), sizes)
        np.put_along_axis(out, codes + np.cumsum(sizes) - sizes, 1, axis=1)
    elif isinstance(space, spaces.Box | spaces.MultiBinary):
        rows = np.asarray(values).reshape(len(out), -1)
        refuse_non_numbers(rows)
        if rows.shape[1] != out.shape[1]:
            raise ValueError(f"{rows.shape[1]} numbers per step, but {space} has {out.shape[1]}")
        with np.errstate(over="ignore"):  # what overflows float32 is found as inf by the caller
            out[:] = rows
    else:
        raise ValueError(f"observations of space {space} cannot be flattened")


def _codes(values: NDArray[Any], start: Any, sizes: Any) -> NDArray[np.int64]:
    """Shift integers (n, D) so that they count from 0, and check them against their sizes."""
    if values.shape[1] != np.size(sizes):
        raise ValueError(f"{values.shape[1]} numbers per step instead of {np.size(sizes)}")
    refuse_non_numbers(values)
    with np.errstate(invalid="ignore"):  # NaN and what overflows differ from their codes
        codes = values.astype(np.int64)
    wrong = (codes != values) | (codes < start) | (codes >= start + sizes)
    if wrong.any():
        raise ValueError(_outside(values, wrong))
    shifted: NDArray[np.int64] = codes - start
    return shifted


def _outside(values: NDArray[Any], wrong: NDArray[np.bool_]) -> str:
    """Name the first of the wrong values (n, D)."""
    step, dim = np.argwhere(wrong)[0]
    where = f" in dimension {dim}" if values.shape[1] > 1 else ""
    return f"{values[step, dim]:g}{where} at step {step} lies outside the space"


def flatten_actions(space: Space[Any], values: Any) -> NDArray[Any]:
    """Flatten stacked actions: Box to (n, A) float32, Discrete and MultiDiscrete to (n,) indices.

    Indices count from 0. Box actions may pass their bounds by 1e-5 of the range (rounding) and are
    clipped then.

    Raises:
        ValueError: If an action lies outside the space, or the kind of space is not supported.
    """
    actions = np.asarray(values)
    if isinstance(space, spaces.Box):
        return _clipped(space, actions.reshape(len(actions), -1))
    if isinstance(space, spaces.Discrete):
        return _codes(actions.reshape(len(actions), 1), space.start, space.n)[:, 0]
    if isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.ravel()
        codes = _codes(actions.reshape(len(actions), -1), space.start.ravel(), sizes)
        flat: NDArray[np.int64] = np.asarray(np.ravel_multi_index(tuple(codes.T), tuple(sizes)))
        return flat
    raise ValueError(f"actions of space {space} are not supported: only Box and (Multi)Discrete")


def _clipped(space: spaces.Box, actions: NDArray[Any]) -> NDArray[np.float32]:
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    if actions.shape[1] != low.size:
        raise ValueError(f"{actions.shape[1]} numbers per step, but {space} has {low.size}")
    with np.errstate(invalid="ignore"):
        slack = 1e-5 * np.where(np.isfinite(high - low), high - low, 1.0)
    refuse_non_numbers(actions)
    wrong = (actions < low - slack) | (actions > high + slack)
    if wrong.any():
        raise ValueError(_outside(actions, wrong))
    clipped: NDArray[np.float32] = np.clip(actions, low, high).astype(np.float32)
    return clipped


def unflatten_actions(space: Space[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """Undo :func:`flatten_actions`: raw actions as the environment takes them, stacked on axis 0.

    >>> space = spaces.MultiDiscrete([2, 3], start=[0, 5])
    >>> unflatten_actions(space, flatten_actions(space, [[1, 7], [0, 5]])).tolist()
    [[1, 7], [0, 5]]
    """
    if isinstance(space, spaces.Box):
        return actions.reshape(-1, *space.shape).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return np.asarray(actions + space.start)
    if isinstance(space, spaces.MultiDiscrete):
        codes = np.stack(np.unravel_index(actions, tuple(space.nvec.ravel())), axis=-1)
        raw: NDArray[np.int64] = codes.reshape(-1, *space.nvec.shape) + space.start
        return raw
    raise ValueError(f"actions of space {space} are not supported: only Box and (Multi)Discrete")


def number_of_actions(space: spaces.Discrete | spaces.MultiDiscrete) -> int:
    """Number of discrete actions after flattening."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(np.prod(space.nvec.astype(np.float64)))
