"""Which states and actions the log covers."""

import numpy as np
from numpy.typing import NDArray

from lit_offrl.data import Transitions
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding
from lit_offrl.inspection.actions import action_bins
from lit_offrl.inspection.thresholds import CELLS


def state_cells(transitions: Transitions, n_cells: int = CELLS) -> NDArray[np.int64]:
    """Cell of each state: signs of random projections of the standardized state, (N,)."""
    std = transitions.obs.std(0, dtype=np.float64)
    mean = transitions.obs.mean(0, dtype=np.float64)
    bits = int(np.log2(n_cells))
    directions = np.random.default_rng(0).normal(size=(len(std), bits))
    directions /= np.where(std > 0, std, np.inf)[:, None]  # (O, bits)
    signs = transitions.obs @ directions.astype(np.float32) > (mean @ directions)  # (N, bits)
    cells: NDArray[np.int64] = signs @ (1 << np.arange(bits))
    return cells


def effective_number(cells: NDArray[np.int64]) -> float:
    """``e^H`` of the shares of the cells: how many equally visited ones would be as varied.

    >>> round(effective_number(np.array([0, 0, 3, 3])), 6)
    2.0
    """
    share = np.bincount(cells) / len(cells)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def actions_per_cell(cells: NDArray[np.int64], bins: NDArray[np.int64]) -> float:
    """Effective number of action bins within a cell, mean over rows and action dimensions."""
    width = int(bins.max()) + 1
    means = []
    for column in bins.T:
        counts = np.bincount(cells * width + column, minlength=(cells.max() + 1) * width)
        table = counts.reshape(-1, width)  # (cells, bins)
        total = table.sum(1, keepdims=True)
        share = table / np.maximum(total, 1)
        entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
        means.append(float((np.exp(entropy) * total[:, 0]).sum() / total.sum()))
    return float(np.mean(means))


def coverage_findings(transitions: Transitions, spec: DatasetSpec) -> list[Finding]:
    """Measure the coverage of states, and of actions within similar states."""
    cells, bins = state_cells(transitions), action_bins(transitions, spec)
    states, actions = effective_number(cells), actions_per_cell(cells, bins)
    return [
        Finding(
            "state_coverage",
            "ok",
            f"States spread over {states:.0f} effective cells of {CELLS:,} (random projections; "
            "SACo needs a reference set, and there is none).",
            value=states,
        ),
        Finding(
            "actions_per_state",
            "ok",
            f"Within a cell of similar states, actions spread over {actions:.1f} effective values "
            "of each dimension.",
            value=actions,
        ),
    ]
