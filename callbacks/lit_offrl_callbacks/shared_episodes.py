"""The episodes of an evaluation: each rank plays some, and all know the numbers of all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from numpy.typing import NDArray

from lit_offrl.errors import InputError
from lit_offrl.evaluation.columns import Columns

Numbers = Mapping[str, NDArray[Any]]


def check_share(callback: Callback, episodes: int, trainer: Trainer) -> None:
    """See that each rank has an episode to play.

    Raises:
        InputError: If it has not.
    """
    if episodes < trainer.world_size:
        raise InputError(
            f"`episodes` of {type(callback).__name__} is {episodes}, but {trainer.world_size} "
            "devices each play a share: raise it."
        )


def play_shared(
    play: Callable[[Sequence[int]], Numbers],
    seeds: Sequence[int],
    trainer: Trainer,
    device: torch.device,
) -> dict[str, NDArray[np.float64]]:
    """Play this rank's share of the episodes, and return the numbers of each of all, (episodes,).

    They come in the order of ``seeds``, so that what is made of them, resampled intervals too,
    does not depend on how many ranks there are.

    Args:
        play: Plays one episode per seed and returns named numbers of each.
        seeds: One per episode, at least one per rank.
        trainer: Tells the rank and how many there are.
        device: Where the ranks exchange tensors.
    """
    ranks = trainer.world_size
    numbers = play(seeds[trainer.global_rank :: ranks])
    columns = Columns(*numbers).to(device)
    columns.update(**{k: torch.as_tensor(v, device=device) for k, v in numbers.items()})
    # the ranks' shares come one after the other
    order = np.argsort([i for rank in range(ranks) for i in range(rank, len(seeds), ranks)])
    gathered = columns.compute()  # a single row comes as ()
    return {name: values.cpu().numpy().reshape(-1)[order] for name, values in gathered.items()}
