"""Whether a checkpoint may go on with some data."""

from typing import Any

import numpy as np

from lit_offrl.data.spec import DatasetSpec
from lit_offrl.errors import InputError


def refuse_other_data(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Compare what a checkpoint says of its data with the data that it is to go on with.

    Args:
        saved: ``OfflineDataModule.state_dict()`` of the checkpoint.
        current: The same of the data that are given to it.

    Raises:
        InputError: If the data, their split or their scaling differ.
    """
    old, new = DatasetSpec.from_dict(saved["spec"]), DatasetSpec.from_dict(current["spec"])
    if old.content_hash != new.content_hash or (old.obs_dim, old.action_dim) != (
        new.obs_dim,
        new.action_dim,
    ):
        raise InputError(
            f"The checkpoint was trained on `{old.dataset_id}` ({old.obs_dim} observation "
            f"features, {old.action_dim} actions, content {old.content_hash[:8]}), not on "
            f"`{new.dataset_id}` ({new.obs_dim}, {new.action_dim}, {new.content_hash[:8]})"
            ": give it that data set."
        )
    for name in ("split_seed", "held_out"):
        if saved[name] != current[name]:
            raise InputError(
                f"The checkpoint was trained with `{name}` {saved[name]}, not "
                f"{current[name]}: another split would mix held-out episodes into "
                f"training. Set `data.{name}` to {saved[name]}."
            )
    if not _same(saved["scaling"], current["scaling"]):
        raise InputError(
            "The checkpoint was trained with another scaling of observations or rewards: set "
            "`normalize_obs`, `top_fraction` and the `reward_...` options as they were."
        )


def _same(saved: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether two scalings agree, but for the rounding of another machine's sums."""
    if any((saved[key] is None) != (current[key] is None) for key in current):
        return False
    numbers = [key for key in current if current[key] is not None]
    return all(np.allclose(saved[key], current[key], rtol=1e-4, atol=1e-6) for key in numbers)
