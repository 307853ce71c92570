"""Batches of transitions, and the packed matrix they are views of."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lit_offrl.errors import InputError


class Batch(NamedTuple):
    """Transitions, stacked on the last-but-one axis; a leading axis K holds several batches.

    Args:
        obs: Observations, normalized, (B, O).
        action: Box actions scaled to [-1, 1], (B, A), or indices of discrete ones, (B,).
        reward: Rewards after the reward transform, (B,).
        next_obs: Next observations, normalized; after a truncation the true final one, (B, O).
        terminated: 1 where the episode ended for good, never for a time limit, (B,).
        truncated: 1 where a time limit ended the episode, (B,).
        mc_return: Discounted return-to-go in transformed reward, (B,); after a time limit with the
            least that the log's rewards allow, so that it bounds what the policy earned from below.
        next_action: Action that was taken at ``next_obs``, as ``action``; anything where there was
            none.
        has_next_action: 1 where there was one, (B,).
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    truncated: Tensor | None = None
    mc_return: Tensor | None = None
    next_action: Tensor | None = None
    has_next_action: Tensor | None = None

    def at(self, k: int) -> "Batch":
        """Take batch ``k`` of a stack of batches."""
        return self.with_fields([field[k] for field in self.fields()])

    def fields(self) -> list[Tensor]:
        """The fields that are there, in order."""
        return [field for field in self if field is not None]

    def needed(self, name: str) -> Tensor:
        """Return an optional field.

        Raises:
            InputError: If batches lack it.
        """
        field: Tensor | None = getattr(self, name)
        if field is None:
            raise InputError(f"Batches have no `{name}`: add it to the data's `extras`.")
        return field

    def with_fields(self, fields: Iterable[Tensor]) -> "Batch":
        """Put other tensors in the place of :meth:`fields`."""
        given = iter(fields)
        return Batch._make(None if field is None else next(given) for field in self)


class Layout(NamedTuple):
    """Which columns of a packed (..., W) matrix hold which field of a :class:`Batch`.

    Args:
        obs_dim: O.
        action_dim: A, or the number of actions if ``discrete``.
        discrete: Whether an action is one index instead of A numbers.
        extras: Optional fields of :class:`Batch` that are packed too, in this order.
    """

    obs_dim: int
    action_dim: int
    discrete: bool
    extras: tuple[str, ...] = ()

    @property
    def sections(self) -> list[int]:
        """Widths of obs, action, reward, next_obs, terminated and the extras."""
        action_width = 1 if self.discrete else self.action_dim
        widths = [action_width if name == "next_action" else 1 for name in self.extras]
        return [self.obs_dim, action_width, 1, self.obs_dim, 1, *widths]

    def columns(self, extra: str) -> slice:
        """Columns of an extra field."""
        which = len(self.sections) - len(self.extras) + self.extras.index(extra)
        start = sum(self.sections[:which])
        return slice(start, start + self.sections[which])

    @property
    def width(self) -> int:
        """Number of columns W."""
        return sum(self.sections)

    def pack(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        terminated: Tensor,
        **extras: Tensor,
    ) -> Tensor:
        """Write the fields side by side into one float32 matrix, (N, W).

        One gather from one matrix is what makes sampling cheap. Action indices are exact in
        float32 up to 2^24.
        """
        fields = [obs, action, reward, next_obs, terminated, *(extras[k] for k in self.extras)]
        packed = torch.empty(len(obs), self.width, dtype=torch.float32)  # (N, W)
        for columns, field in zip(torch.split(packed, self.sections, dim=-1), fields, strict=True):
            columns.copy_(field if field.ndim == 2 else field.unsqueeze(-1))
        return packed

    def unpack(self, packed: Tensor) -> Batch:
        """Split a packed matrix (..., W) into a :class:`Batch` of views of it."""
        obs, action, reward, next_obs, terminated, *extras = torch.split(
            packed, self.sections, dim=-1
        )
        return Batch(
            obs,
            self._as_action(action),
            reward.squeeze(-1),
            next_obs,
            terminated.squeeze(-1),
            **{
                name: self._as_action(field) if name == "next_action" else field.squeeze(-1)
                for name, field in zip(self.extras, extras, strict=True)
            },
        )

    def _as_action(self, columns: Tensor) -> Tensor:
        """Indices (...,) of discrete actions, Box actions (..., A) as they are."""
        return columns.squeeze(-1).long() if self.discrete else columns
