"""Calibrated Q-learning (Cal-QL): Nakamoto et al. (2023), https://arxiv.org/abs/2303.05479."""

import torch
from torch import Tensor

from lit_offrl.algorithms.cql import CQL
from lit_offrl.batch import Batch
from lit_offrl.losses import at_least_return


class CalQL(CQL):
    """CQL that pushes no action of the policy below the return that the data earned.

    In the log-sum-exp of :class:`CQL`, ``Q_j(s, a)`` of actions drawn from π(·|s) and π(·|s') is
    ``max(Q_j(s, a), G(s))`` (eq. 5.1), with G the return-to-go of the log; uniform actions are not
    bounded. The values then have the right scale when training goes on online, where CQL's first
    forget their pessimism. With G = -∞ it is CQL.

    Batches need ``mc_return``. The arguments are those of :class:`CQL`.
    """

    hint = "DiscreteCalQL"
    extras = ("mc_return",)

    def penalized(self, q: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Bound the values of the 2N actions (n, 2N, B) that come from the policy."""
        uniform, drawn = torch.tensor_split(q, [self.n_actions], 1)
        bounded, metrics = at_least_return(drawn, batch.needed("mc_return"))
        return torch.cat([uniform, bounded], 1), metrics
