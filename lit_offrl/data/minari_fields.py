"""Fields of a Minari set's episodes, checked and flattened, or refused with where and why."""

from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from lit_offrl.data.minari_metadata import MinariMetadata
from lit_offrl.data.minari_storage import EpisodeReader
from lit_offrl.data.soundness import (
    UNREADABLE,
    first_unsound,
    one_line,
    refuse_non_numbers,
    refuse_other_flags,
)
from lit_offrl.data.spaces import flatten_actions, leaves, split_observations
from lit_offrl.errors import InputError

LOG_PROB = "infos/behavior_log_prob"
MAX_STEPS = 1 << 40


class EpisodeFields:
    """Fields of single episodes.

    Args:
        reader: The set's opened files.
        metadata: What the set says of itself.
    """

    def __init__(self, reader: EpisodeReader, metadata: MinariMetadata) -> None:
        self._reader, self._metadata = reader, metadata
        self.name = metadata.name
        """What messages call the set."""
        self._spaces: dict[str, Space[Any]] = {
            "observations": metadata.obs_space,
            "actions": metadata.action_space,
        }

    def steps(self, episode: int) -> int:
        """Return the number of steps T of an episode, which must have some."""
        try:
            if not self._reader.has(episode):
                raise InputError(
                    f"{self.name}: episode {episode} is missing, but the metadata count "
                    f"{self._metadata.episodes} episodes: get or make the set again."
                )
            steps = self._reader.n_steps(episode)
            if steps > MAX_STEPS:
                raise ValueError(f"{steps:,} steps cannot be")
        except InputError:
            raise
        except KeyError as error:
            raise self.missing(episode, error.args[0]) from None
        except UNREADABLE as error:
            raise self._unreadable(episode, "rewards", error) from None
        if steps < 1:
            raise InputError(f"{self.name}, episode {episode} is empty: store the set without it.")
        return steps

    def has_log_prob(self, episode: int) -> bool:
        """Tell whether an episode stores the log-probability of its actions."""
        try:
            self._reader.read(episode, LOG_PROB)
        except KeyError:
            return False
        except UNREADABLE as error:
            raise self._unreadable(episode, LOG_PROB, error) from None
        return True

    def read(self, episode: int, field: str, n: int) -> list[NDArray[Any]]:
        """Read, check and flatten one field: n + 1 rows of observations, n of all others.

        Images of observations follow their numbers.

        Raises:
            InputError: If the field is missing or unreadable, or its values do not fit.
        """
        try:
            values = self._reader.read(episode, field, self._spaces.get(field))
        except KeyError as error:
            raise self.missing(episode, field, str(error.args[0])) from None
        except UNREADABLE as error:
            raise self._unreadable(episode, field, error) from None
        where = f"{self.name}, episode {episode}, field `{field}`"
        is_obs = field == "observations"
        lengths = {len(leaf) for leaf in leaves(values)}
        wanted = n + 1 if is_obs else n + self._reader.padding
        # infos may come with or without a last row, which belongs to no action
        if lengths != {wanted} and not (field == LOG_PROB and lengths == {n + 1}):
            raise InputError(
                f"{where}: {' or '.join(map(str, sorted(lengths)))} rows, but {n} steps need "
                f"{wanted}: leave out the episode, or record it anew."
            )
        try:
            flat, *images = self._flat(field, values, n)
        except UNREADABLE as error:
            raise InputError(
                f"{where}: {one_line(error)}: correct or leave out the episode."
            ) from None
        if (found := first_unsound(flat)) is not None:
            step, what = found
            raise InputError(f"{where}: {what} at step {step}: correct or leave out the episode.")
        return [flat, *images]

    def _flat(self, field: str, values: Any, n: int) -> list[NDArray[Any]]:
        """Flatten what was read for ``n`` steps; ValueError with the reason if it does not fit."""
        if field == "observations":
            numbers, images = split_observations(self._metadata.obs_space, values)
            return [numbers, *images]
        if field == "actions":
            return [flatten_actions(self._metadata.action_space, values[:n])]
        refuse_non_numbers(values)
        if values[:n].size != n:
            raise ValueError(f"shape {values.shape}, where each step has one number")
        column: NDArray[np.float64] = values[:n].astype(np.float64).reshape(n)
        if field in ("terminations", "truncations"):
            refuse_other_flags(column)
        with np.errstate(over="ignore"):  # what overflows is found as inf
            return [column.astype(np.float32)]

    def missing(self, episode: int, field: str, part: str | None = None) -> InputError:
        """Say that a field, or a part of it, is missing."""
        inner = f" (`{part}`)" if part not in (None, *field.split("/")) else ""
        needed = "observations, actions, rewards, terminations and truncations of each episode"
        advice = f"offline RL needs {needed}"
        if field == LOG_PROB:
            advice = "others have it, so store it in each episode, or in none"
        return InputError(
            f"{self.name}, episode {episode}: field `{field}`{inner} is missing: {advice}."
        )

    def _unreadable(self, episode: int, field: str, error: Exception) -> InputError:
        return InputError(
            f"{self.name}, episode {episode}: field `{field}` cannot be read "
            f"({one_line(error)}): the files in {self._metadata.path} are damaged; get or make "
            "them again."
        )
