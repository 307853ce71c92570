"""Cal-QL on discrete actions: Nakamoto et al. (2023), https://arxiv.org/abs/2303.05479."""

from torch import Tensor

from lit_offrl.algorithms.discrete_cql import DiscreteCQL
from lit_offrl.batch import Batch
from lit_offrl.losses import at_least_return


class DiscreteCalQL(DiscreteCQL):
    """DiscreteCQL whose penalty pushes no action below the return that the data earned.

    The sum over actions is exact here, so that every term is one that the policy can take, and each
    ``Q_j(s, a)`` in it is ``max(Q_j(s, a), G(s))`` (eq. 5.1), with G the return-to-go of the log.
    With G = -∞ it is DiscreteCQL.

    Batches need ``mc_return``. The arguments are those of :class:`DiscreteCQL`.
    """

    hint = "CalQL"
    extras = ("mc_return",)

    def penalized(self, q: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Bound the values of all actions, (n, B, A)."""
        return at_least_return(q, batch.needed("mc_return").unsqueeze(-1))
