"""D4RL's HDF5 files as flat transitions, read by h5py alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from lit_offrl.data.cache import hash_files
from lit_offrl.data.columns import NewColumn
from lit_offrl.data.soundness import (
    UNREADABLE,
    first_unsound,
    one_line,
    refuse_non_numbers,
    refuse_other_flags,
    stored_array,
)
from lit_offrl.data.spaces import MAX_FLAT_ACTIONS
from lit_offrl.data.spec import DatasetSpec, make_spec
from lit_offrl.data.transitions import Transitions
from lit_offrl.errors import InputError


class D4RLSource:
    """One D4RL file: rows of all episodes one after the other.

    Where the file has no ``next_observations``, they are the next row's observations of the same
    episode. Then the last row of an episode that timed out has none and is left out, so that the
    episode's last transition is the one before it; a terminal row is kept with its own observation
    in their place, which no target looks at. D4RL's own reader takes the next episode's first
    observation there.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.dataset_id = path
        self._name = f"Data set `{path}`"
        try:
            self._path = Path(path).expanduser()
            found = self._path.is_file()
        except (OSError, RuntimeError) as error:  # a folder that is closed, a user nobody knows
            raise InputError(f"{self._name} cannot be read: {error}.") from None
        if not found:
            raise InputError(f"{self._name}: there is no such file; check the path.")

    def content_hash(self) -> str:
        """Hash the file's bytes."""
        try:
            # The name takes no part: the same file has the same hash under any.
            return hash_files([self._path], self._path, "d4rl")
        except OSError as error:
            raise InputError(f"{self._name} cannot be read: {error}.") from None

    def spec(self, content_hash: str, transitions: Transitions) -> DatasetSpec:
        """Describe the file, which knows neither its spaces nor its environment.

        D4RL's own tasks all have actions in [-1, 1]; other bounds come from the data.
        """
        obs_dim = transitions.obs.shape[1]
        action = transitions.action
        action_space: Space[Any]
        if action.ndim == 1:
            action_space = spaces.Discrete(int(action.max()) + 1)
        else:
            bound = 1.0 if np.abs(action).max() <= 1 else np.inf
            action_space = spaces.Box(-bound, bound, action.shape[1:])
        obs_space = spaces.Box(-np.inf, np.inf, (obs_dim,))
        return make_spec(self.dataset_id, content_hash, obs_space, action_space, transitions)

    def read(self) -> Transitions:
        """Read the file."""
        try:
            with h5py.File(self._path, "r") as file:
                return self._read(file)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"{self._name} is damaged ({one_line(error)}): get the file again."
            ) from None

    def read_into(self, new: NewColumn) -> None:
        """Read the file, all of it at once, into columns that ``new`` makes."""
        for name, column in self.read().columns().items():
            new(name, column.shape, column.dtype)[:] = column

    def _read(self, file: Any) -> Transitions:
        reward = self._column(file, "rewards").astype(np.float32)
        n = len(reward)
        if n == 0:
            raise InputError(f"{self._name} has no transitions: get the file again.")
        terminated = self._flags(file, "terminals", n)
        obs = self._matrix(file, "observations", n)
        has_next = "next_observations" in file
        ends = self._ends(file, terminated, obs, has_next)
        if has_next:
            next_obs = self._matrix(file, "next_observations", n, obs.shape[1])
            keep = np.ones(n, dtype=np.bool_)
        else:
            next_obs = np.concatenate([obs[1:], obs[-1:]])
            next_obs[ends] = obs[ends]
            keep = terminated | ~ends
        if not keep.any():
            raise InputError(f"{self._name}: no row has a known next observation.")
        episode = np.cumsum(np.append(0, ends[:-1]))[keep]
        # also the row before one that was left out
        truncated = np.append(episode[1:] != episode[:-1], True) & ~terminated[keep]
        if "timeouts" in file:
            truncated |= self._flags(file, "timeouts", n)[keep]
        log_prob = None
        if "infos/behavior_log_prob" in file:
            log_prob = self._column(file, "infos/behavior_log_prob", n).astype(np.float32)[keep]
        return Transitions(
            obs=_pick(obs, keep),
            action=_pick(self._action(file, n), keep),
            reward=reward[keep],
            next_obs=_pick(next_obs, keep),
            terminated=terminated[keep],
            truncated=truncated,
            # an episode of a single row that timed out is gone: number anew
            episode=np.unique(episode, return_inverse=True)[1].astype(np.int64),
            behavior_log_prob=log_prob,
        )

    def _ends(
        self, file: Any, terminated: NDArray[np.bool_], obs: NDArray[np.float32], has_next: bool
    ) -> NDArray[np.bool_]:
        """Tell which rows are the last of their episode, (N,)."""
        if "timeouts" in file:
            ends = terminated.copy()
            ends |= self._flags(file, "timeouts", len(obs))
        elif has_next:  # where an episode goes on, the next row starts from what was observed
            next_obs = self._matrix(file, "next_observations", *obs.shape)
            ends = terminated.copy()
            ends[:-1] |= (next_obs[:-1] != obs[1:]).any(1)
        else:
            raise InputError(
                f"{self._name} has neither `timeouts` nor `next_observations`, so nobody can tell "
                "where episodes end: add `timeouts` to it."
            )
        ends[-1] = True
        return ends

    def _action(self, file: Any, n: int) -> NDArray[Any]:
        """Read actions: integers are discrete, anything else is a Box."""
        if self._dataset(file, "actions").dtype.kind not in "iu":
            return self._matrix(file, "actions", n)
        action: NDArray[np.int64] = self._stored(file, "actions").astype(np.int64)
        if action.size != n or action.min() < 0 or action.max() >= MAX_FLAT_ACTIONS:
            raise InputError(
                f"{self._name}, field `actions`: integers must be one index per row, counting from "
                f"0 and less than {MAX_FLAT_ACTIONS}; convert the file."
            )
        return action.reshape(n)

    def _dataset(self, file: Any, field: str) -> Any:
        if field not in file:
            raise InputError(
                f"{self._name}: field `{field}` is missing: offline RL needs observations, actions,"
                " rewards and terminals."
            )
        with self._naming(field):
            dataset = stored_array(file[field])
            refuse_non_numbers(dataset)
        return dataset

    @contextmanager
    def _naming(self, field: str) -> Iterator[None]:
        """Say which field could not be read."""
        try:
            yield
        except UNREADABLE as error:
            raise InputError(
                f"{self._name}, field `{field}` cannot be read ({one_line(error)}): correct the "
                "file, or get it again."
            ) from None

    def _stored(self, file: Any, field: str, dtype: Any = None) -> NDArray[Any]:
        """Read a field as it is stored, or as another type without a copy in the first."""
        dataset = self._dataset(file, field)
        with self._naming(field), np.errstate(over="ignore"):  # what overflows is found as inf
            values: NDArray[Any] = (dataset if dtype is None else dataset.astype(dtype))[()]
        return values

    def _column(self, file: Any, field: str, n: int | None = None) -> NDArray[np.float64]:
        """Read one number per row, (N,)."""
        values = self._stored(file, field).astype(np.float64)
        return self._checked(field, _flat(values), n, width=1)[:, 0]

    def _flags(self, file: Any, field: str, n: int) -> NDArray[np.bool_]:
        """Read a column of zeros and ones, (N,)."""
        values = self._column(file, field, n)
        with self._naming(field):
            refuse_other_flags(values)
        return values.astype(np.bool_)

    def _matrix(
        self, file: Any, field: str, n: int, width: int | None = None
    ) -> NDArray[np.float32]:
        """Read a vector per row, (N, D)."""
        return self._checked(field, _flat(self._stored(file, field, np.float32)), n, width)

    def _checked(
        self, field: str, values: NDArray[Any], n: int | None, width: int | None = None
    ) -> NDArray[Any]:
        wanted = (len(values) if n is None else n, width or values.shape[1] or "at least one")
        if values.shape != wanted:
            raise InputError(
                f"{self._name}, field `{field}` has shape {values.shape} in place of ({wanted[0]}, "
                f"{wanted[1]}), which the rewards and other fields need: get the file again."
            )
        if (found := first_unsound(values)) is not None:
            row, what = found
            raise InputError(
                f"{self._name}, field `{field}`: {what} in row {row}: correct or leave out its "
                "episode."
            )
        return values


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Make all but the first axis one."""
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def _pick(values: NDArray[Any], keep: NDArray[np.bool_]) -> NDArray[Any]:
    """Take rows, without a copy where all are kept."""
    return values if keep.all() else values[keep]
