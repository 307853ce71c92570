"""Episodes that are being collected, and what is known of their rows only later."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_offrl.batch import Layout
from lit_offrl.online.environments import Step
from lit_offrl.online.replay import ReplayBuffer
from lit_offrl.scaling import Scaling

LATE = {"mc_return", "next_action", "has_next_action"}
"""Fields of a row that are not known when it is collected."""


class Finished(NamedTuple):
    """An episode that has ended.

    Args:
        step: Environment step at its end.
        total: Undiscounted return in raw reward.
        length: Its steps.
    """

    step: int
    total: float
    length: int


class OpenEpisodes:
    """Writes steps into the buffer, and returns-to-go once an episode has ended.

    Until then a row's ``mc_return`` is minus infinity: nothing is known of it.

    Args:
        count: Number of environments E.
        layout: Columns of the buffer.
        discount: γ.
        scaling: What the networks are to see.
        buffer: Where rows go.
        after_cut: What returns-to-go count for the time after a time limit.
    """

    def __init__(
        self,
        count: int,
        layout: Layout,
        discount: float,
        scaling: Scaling,
        buffer: ReplayBuffer,
        after_cut: float = 0.0,
    ) -> None:
        self._layout, self._discount, self._after_cut = layout, discount, after_cut
        self._scaling, self._buffer = scaling, buffer
        self._rows: list[list[int]] = [[] for _ in range(count)]  # numbers in the buffer
        self._rewards: list[list[float]] = [[] for _ in range(count)]
        self.finished: list[Finished] = []
        """All episodes that ended, in that order."""

    def add(self, step: Step, action: Tensor, env_steps: int) -> None:
        """Write one step of all environments.

        Args:
            step: What it brought.
            action: Actions as the networks see them, (E, A) or (E,).
            env_steps: Environment steps done, this one included.
        """
        first = self._buffer.count
        self._buffer.add(self._pack(step, action))
        self._fill_next_action(action)
        for i, reward in enumerate(step.reward.tolist()):
            self._rows[i].append(first + i)
            self._rewards[i].append(reward)
        for i in np.flatnonzero(step.terminated | step.truncated).tolist():
            self.finished.append(
                Finished(env_steps, float(np.sum(self._rewards[i])), len(self._rewards[i]))
            )
            self._fill_returns(i, cut=not step.terminated[i])
            self._rows[i], self._rewards[i] = [], []

    def _pack(self, step: Step, action: Tensor) -> Tensor:
        """Rows as the networks see them, (E, W)."""
        n = len(step.reward)
        extras = {
            "truncated": torch.from_numpy(step.truncated),
            "mc_return": torch.full((n,), -torch.inf),
            "next_action": torch.zeros_like(action),
            "has_next_action": torch.zeros(n),
        }
        return self._layout.pack(
            self._scaling.normalize_obs(torch.from_numpy(step.obs)),
            action,
            self._scaling.transform_reward(torch.from_numpy(step.reward)),
            self._scaling.normalize_obs(torch.from_numpy(step.next_obs)),
            torch.from_numpy(step.terminated),
            **{name: extras[name] for name in self._layout.extras},
        )

    def _fill_next_action(self, action: Tensor) -> None:
        """Tell the rows before what was done next."""
        if "next_action" not in self._layout.extras:
            return
        for i, rows in enumerate(self._rows):
            if rows:
                self._buffer.write(rows[-1:], self._layout, next_action=action[i : i + 1])
                if "has_next_action" in self._layout.extras:
                    self._buffer.write(rows[-1:], self._layout, has_next_action=torch.ones(1))

    def _fill_returns(self, i: int, cut: bool) -> None:
        """Tell the rows of an episode that has ended what was earned after them."""
        if "mc_return" not in self._layout.extras:
            return
        togo, total = np.zeros(len(self._rewards[i])), self._after_cut if cut else 0.0
        for t in reversed(range(len(togo))):
            reward = self._rewards[i][t] * self._scaling.reward_scale + self._scaling.reward_shift
            togo[t] = total = reward + self._discount * total
        self._buffer.write(self._rows[i], self._layout, mc_return=torch.from_numpy(togo))

    @property
    def settled(self) -> int:
        """Rows before this number never change any more."""
        if not LATE & set(self._layout.extras):
            return self._buffer.count
        return min((rows[0] for rows in self._rows if rows), default=self._buffer.count)

    def give_up(self) -> None:
        """Leave the running episodes unfinished for good."""
        for i in range(len(self._rows)):
            self._rows[i], self._rewards[i] = [], []

    def state_dict(self) -> dict[str, Any]:
        """Return all that was counted, in plain types."""
        return {
            "rows": [list(rows) for rows in self._rows],
            "rewards": [list(rewards) for rewards in self._rewards],
            "finished": [tuple(episode) for episode in self.finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._rows = [[int(n) for n in rows] for rows in state["rows"]]
        self._rewards = [list(rewards) for rewards in state["rewards"]]
        self.finished = [Finished(*episode) for episode in state["finished"]]
