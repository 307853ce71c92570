"""Named columns of numbers, gathered over ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Columns(Metric):
    """Per-row numbers of a probe: each rank adds its rows, :meth:`compute` has those of all.

    A diagnostic is a function of whole columns (quantiles and rank correlations cannot be
    averaged over ranks), and this is how it gets them in a distributed run.

    Args:
        names: Names of the columns.
    """

    full_state_update = False

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.rows: list[Tensor]
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, **columns: Tensor) -> None:
        """Add rows; every named column is (rows,).

        Raises:
            KeyError: If a column is missing.
        """
        stacked = torch.stack([columns[name].detach().double() for name in self.names], 1)
        self.rows.append(stacked)  # (rows, columns)

    def compute(self) -> dict[str, Tensor]:
        """Return the columns of all ranks, (rows,) each, in float64."""
        rows = dim_zero_cat(self.rows)
        return dict(zip(self.names, rows.unbind(1), strict=True))
