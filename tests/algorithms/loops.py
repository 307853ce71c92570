"""A task that never ends, logged in pieces."""

from collections.abc import Callable

import torch

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.batch import Batch
from tests.algorithms.helpers import generator, run_updates


def values_of_a_loop(
    make: Callable[[], OfflineAlgorithm], *, terminated: bool, updates: int = 200
) -> float:
    """Mean value learned of a state that leads back to itself with reward 1.

    Every row is the last of its episode: cut by a time limit, or else ended for good.
    The values are 1 / (1 - discount) and 1.
    """
    algorithm = make().double()
    obs = torch.ones(8, 1, dtype=torch.float64)
    action = 2 * torch.rand(8, 1, generator=generator(0), dtype=torch.float64) - 1
    one, flag = obs[:, 0], torch.full((8,), float(terminated), dtype=torch.float64)
    batch = Batch(obs, action, one, obs, flag, truncated=1 - flag)
    run_updates(algorithm, [batch] * updates)
    with torch.no_grad():
        return algorithm.q_values(obs, action).mean().item()
