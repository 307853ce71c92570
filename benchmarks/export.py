"""Hands the training split of lit_offrl to another library, as it is after all scaling."""

from pathlib import Path

import numpy as np
import torch

from lit_offrl.data import OfflineDataModule


def export_transitions(data: OfflineDataModule, path: Path) -> None:
    """Write scaled transitions as ``.npz``, one row more per episode that does not terminate.

    That row holds the episode's final observation, which a time limit leaves unacted on; its
    action and reward are never used. What maps raw observations and actions to these lies
    beside them.
    """
    train, scaling = data.train, data.scaling
    last = np.append(train.episode[1:] != train.episode[:-1], True)
    cut = np.flatnonzero(last & ~train.terminated)
    batch = data.layout.unpack(data.train_matrix)

    def widened(field: torch.Tensor, extra: torch.Tensor) -> np.ndarray:
        return np.insert(field.numpy(), cut + 1, extra.numpy(), axis=0)

    rows = torch.from_numpy(cut)
    none = torch.zeros_like
    low, high = scaling.action_low, scaling.action_high
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        obs=widened(batch.obs, batch.next_obs[rows]),
        action=widened(batch.action, none(batch.action[rows])),
        reward=widened(batch.reward, none(batch.reward[rows])),
        terminal=widened(batch.terminated, none(batch.terminated[rows])),
        timeout=widened(torch.zeros(len(train)), torch.ones(len(cut))),
        obs_mean=scaling.obs_mean.numpy(),
        obs_std=scaling.obs_std.numpy(),
        action_low=np.empty(0) if low is None else low.numpy(),
        action_high=np.empty(0) if high is None else high.numpy(),
    )
    temporary.replace(path)
