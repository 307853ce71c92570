"""Data sets that are made on first use from a seeded recipe, so that nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable

import minari

from lit_offrl.data.builtin import breakout, cartpole, gridworld, icu_sepsis, pendulum
from lit_offrl.data.builtin.placing import is_made, make_whole, minari_root
from lit_offrl.errors import InputError

__all__ = ["BUILTIN", "ensure", "resolve"]

#: The recipe of each set. It writes the set below ``MINARI_DATASETS_PATH``; use `ensure` to get it.
BUILTIN: dict[str, Callable[[], minari.MinariDataset]] = {
    module.DATASET_ID: module.make
    for module in (gridworld, cartpole, pendulum, icu_sepsis, breakout)
}

NAMESPACE = "lit_offrl"
NAMESPACE_DESCRIPTION = "Made on first use by lit_offrl from seeded recipes; safe to delete."


def resolve(dataset_id: str) -> str | None:
    """Give the full id of a built-in set for it or its short form, None for any other id.

    A set of exactly that id in the user's Minari folder wins over a short form.

    >>> resolve("pendulum/mixed")
    'lit_offrl/pendulum/mixed-v0'
    >>> resolve("mujoco/hopper/medium-v0") is None
    True
    """
    if dataset_id in BUILTIN:
        return dataset_id
    if (minari_root() / dataset_id / "data").exists():
        return None
    for full in BUILTIN:
        unversioned = re.sub(r"-v\d+$", "", full)
        if dataset_id in (unversioned, unversioned.removeprefix(f"{NAMESPACE}/")):
            return full
    return None


def ensure(dataset_id: str) -> None:
    """Make a built-in set in the user's Minari folder unless it is there.

    Processes may race for it: one makes it, the others wait. It is made in a hidden folder and
    moved into place in one step, so that an interruption leaves nothing that looks like a set.

    Args:
        dataset_id: A full or short id, see `resolve`.
    """
    full = resolve(dataset_id)
    if full is None:
        raise InputError(f"{dataset_id!r} is not a built-in set: take one of {sorted(BUILTIN)}.")
    root = minari_root()
    if is_made(root, full):
        return

    def recipe() -> None:
        print(
            f"Making the built-in set {full} in {root} (once, in less than a minute) ...",
            flush=True,
        )
        BUILTIN[full]()

    try:
        make_whole(root, full, recipe, {NAMESPACE: NAMESPACE_DESCRIPTION})
    except OSError as error:
        raise InputError(
            f"Cannot write {full} into {root}: {error}. "
            "Set MINARI_DATASETS_PATH to a folder that can be written."
        ) from error
