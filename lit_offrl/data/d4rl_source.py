"""D4RL's HDF5 files as flat transitions, read by h5py alone."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from lit_offrl.data.cache import hash_files
from lit_offrl.data.columns import NewColumn
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
        self._path = Path(path).expanduser()
        self._name = f"Data set `{path}`"
        if not self._path.is_file():
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
        except OSError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self._name} is damaged ({reason}): get the file again.") from None

    def read_into(self, new: NewColumn) -> None:
        """Read the file, all of it at once, into columns that ``new`` makes."""
        for name, column in self.read().columns().items():
            new(name, column.shape, column.dtype)[:] = column

    def _read(self, file: Any) -> Transitions:
        reward = self._column(file, "rewards").astype(np.float32)
        n = len(reward)
        if n == 0:
            raise InputError(f"{self._name} has no transitions: get the file again.")
        terminated = self._column(file, "terminals", n) != 0
        obs = self._matrix(file, "observations", n)
        has_next = "next_observations" in file
        ends = self._ends(file, terminated, obs, has_next)
        if has_next:
            next_obs = self._matrix(file, "next_observations", n)
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
            truncated |= self._column(file, "timeouts", n)[keep] != 0
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
            ends |= self._column(file, "timeouts", len(obs)) != 0
        elif has_next:  # where an episode goes on, the next row starts from what was observed
            next_obs = self._matrix(file, "next_observations", len(obs))
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
        action: NDArray[np.int64] = self._dataset(file, "actions")[()].astype(np.int64)
        if action.size != n or action.min() < 0:
            raise InputError(
                f"{self._name}, field `actions`: integers must be one index per row, counting from "
                "0; convert the file."
            )
        return action.reshape(n)

    def _dataset(self, file: Any, field: str) -> Any:
        if field not in file:
            raise InputError(
                f"{self._name}: field `{field}` is missing: offline RL needs observations, actions,"
                " rewards and terminals."
            )
        return file[field]

    def _column(self, file: Any, field: str, n: int | None = None) -> NDArray[np.float64]:
        """Read one number per row, (N,)."""
        values = self._dataset(file, field)[()].astype(np.float64)
        return self._checked(field, _flat(values), n, width=1)[:, 0]

    def _matrix(self, file: Any, field: str, n: int) -> NDArray[np.float32]:
        """Read a vector per row, (N, D)."""
        dataset = self._dataset(file, field)
        with np.errstate(over="ignore"):  # what overflows is found as inf
            values = _flat(dataset.astype(np.float32)[()])
        return self._checked(field, values, n)

    def _checked(
        self, field: str, values: NDArray[Any], n: int | None, width: int | None = None
    ) -> NDArray[Any]:
        if n not in (None, len(values)) or width not in (None, values.shape[1]):
            raise InputError(
                f"{self._name}, field `{field}` has shape {values.shape}, but there are {n} "
                "rewards: get the file again."
            )
        # NaN and inf survive max and min, which need no array of flags
        if values.size and not np.isfinite([values.max(), values.min()]).all():
            row = int((~np.isfinite(values)).any(1).argmax())
            raise InputError(
                f"{self._name}, field `{field}`: NaN or inf in row {row}: correct or leave out its "
                "episode."
            )
        return values


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Make all but the first axis one."""
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def _pick(values: NDArray[Any], keep: NDArray[np.bool_]) -> NDArray[Any]:
    """Take rows, without a copy where all are kept."""
    return values if keep.all() else values[keep]
