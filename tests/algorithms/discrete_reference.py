"""What the references of the discrete algorithms share, written row by row."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.batch import Batch
from tests.algorithms.helpers import N_ACTIONS, Params, ensemble_mlp, perturb, random_batch
from tests.algorithms.solving import losses_of_update


def heads(p: Params, name: str, obs: Tensor, n_quantiles: int = 1) -> list[Tensor]:
    """Quantiles of each critic of a DiscreteQNetwork, each (B, A, M)."""
    n = len(p[f"{name}.net.layers.0.weight"])
    outputs = [ensemble_mlp(p, f"{name}.net", obs, j) for j in range(n)]
    return [x.reshape(len(obs), N_ACTIONS, n_quantiles) for x in outputs]


def values(quantiles: Sequence[Tensor], row: int) -> list[list[float]]:
    """``values[j][a]``: Q_j(s, a) of one row."""
    return [[float(q[row, a].detach().mean()) for a in range(N_ACTIONS)] for q in quantiles]


def best_action(q: list[list[float]], allowed: Sequence[int] = range(N_ACTIONS)) -> int:
    """``argmax_a min_j Q_j(s, a)`` over the allowed actions."""
    return max(allowed, key=lambda a: min(member[a] for member in q))


def pessimistic_target(
    batch: Batch, row: int, discount: float, quantiles: Sequence[Tensor], action: int
) -> list[float]:
    """``r + γ min_j θ̄_jk(s', a')`` for each quantile k of one row, or r if it terminated."""
    m = quantiles[0].shape[-1]
    bootstrap = [min(float(q[row, action, k].detach()) for q in quantiles) for k in range(m)]
    goes_on = batch.terminated[row] == 0
    return [float(batch.reward[row]) + (discount * b if goes_on else 0.0) for b in bootstrap]


def huber(u: Tensor) -> Tensor:
    """``½ u²`` within 1, ``|u| - ½`` beyond, of one number."""
    return u * u / 2 if abs(u) <= 1 else abs(u) - 0.5


def mean_huber(
    batch: Batch, quantiles: Sequence[Tensor], targets: Sequence[Sequence[float]]
) -> Tensor:
    """``Σ_j E Huber(Q_j(s, a) - y)`` for value heads (M = 1)."""
    rows = range(len(batch.reward))
    losses = [huber(q[b, int(batch.action[b]), 0] - targets[b][0]) for q in quantiles for b in rows]
    return torch.stack(losses).sum() / len(rows)


def spread(algorithm: OfflineAlgorithm) -> None:
    """Turn to float64 and far from constant, so that masks, clips and kinks bind; in place."""
    algorithm.double()
    perturb(algorithm, scale=0.8)


def last_bias(net: nn.Module) -> Tensor:
    """The bias of the last layer, to be written in place."""
    return list(net.parameters())[-1].data


def batches(n: int) -> list[Batch]:
    """Different batches of discrete actions, one per update."""
    return [random_batch(seed, discrete=True, size=9) for seed in range(n)]


def assert_only_termination_cuts_the_bootstrap(algorithm: OfflineAlgorithm) -> None:
    """The Q-loss sees the next observation of truncated rows, and not of terminated ones."""
    batch = random_batch(3, discrete=True)
    assert batch.truncated is not None
    q = algorithm.q
    assert isinstance(q, nn.Module)
    loss = losses_of_update(algorithm, batch)[q]
    shifted = batch.next_obs + 1.0
    for rows, sees in ((batch.terminated, False), (batch.truncated, True)):
        next_obs = torch.where(rows.bool().unsqueeze(-1), shifted, batch.next_obs)
        changed = losses_of_update(algorithm, batch._replace(next_obs=next_obs))[q]
        assert (changed != loss) == sees
