import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.learning import LOCOMOTION, open_data, unfinished
from benchmarks.weighting import (
    ALGORITHMS,
    DATASETS,
    SAMPLINGS,
    Cell,
    cells,
    drawn,
    plot,
    table,
    train,
)
from lit_offrl.data import OfflineDataModule

ONE_SEED = len(DATASETS) * len(ALGORITHMS) * len(SAMPLINGS)


def small(sampling: str) -> Cell:
    return Cell("pendulum/mixed", "BC", "lit_offrl", 0, 8, 1, sampling)


def opened(sampling: str) -> OfflineDataModule:
    return open_data(small(sampling), **SAMPLINGS[sampling])


def record(cell: Cell, *evaluations: float) -> dict[str, Any]:
    curve = [{"update": i, "returns": [value] * 2} for i, value in enumerate(evaluations)]
    known = {"data_return": 900.0, "drawn_return": 1200.0, "effective_share": 0.25}
    return {**dataclasses.asdict(cell), **known, "curve": curve, "train_cpu_s": 1.0}


def test_a_run_that_stops_early_has_whole_seeds() -> None:
    planned = list(cells(seeds=2))
    assert len(set(planned)) == len(planned) == 2 * ONE_SEED
    assert {cell.seed for cell in planned[:ONE_SEED]} == {0}
    assert all(cell.updates == LOCOMOTION.updates[cell.algorithm] for cell in planned)


def test_a_second_run_trains_what_the_first_did_not(tmp_path: Path) -> None:
    planned, results = list(cells(seeds=1)), tmp_path / "results.jsonl"
    assert unfinished(planned, results) == planned
    results.write_text("".join(json.dumps(record(c, 0.0)) + "\n" for c in planned[:3]))
    assert unfinished(planned, results) == planned[3:]
    other_length = dataclasses.replace(planned[0], updates=planned[0].updates + 1)
    assert unfinished([other_length], results) == [other_length]


def test_uniform_rows_have_the_whole_share_and_the_mean_return_of_rows() -> None:
    data = opened("uniform")
    returns = data.logged.returns()
    found = drawn(data)
    assert found["effective_share"] == pytest.approx(1)
    assert found["data_return"] == pytest.approx(returns.mean())
    assert found["drawn_return"] == pytest.approx(returns[data.logged.episode].mean())


def test_the_share_of_the_best_episodes_counts_the_dropped_rows() -> None:
    data = opened("top 10 %")
    found = drawn(data)
    assert found["effective_share"] == pytest.approx(len(data.train) / len(data.logged))
    assert found["data_return"] == pytest.approx(data.logged.returns().mean())
    assert found["drawn_return"] > np.quantile(data.logged.returns(), 0.9) - 1e-6


def test_weighting_by_return_draws_better_rows_and_fewer_of_them() -> None:
    uniform, weighted = drawn(opened("uniform")), drawn(opened("return"))
    assert weighted["drawn_return"] > uniform["drawn_return"]
    assert 0 < weighted["effective_share"] < 1


def test_the_table_takes_the_last_two_evaluations_and_spreads_over_seeds() -> None:
    planned = [c for c in cells(seeds=2) if (c.algorithm, c.sampling) == ("IQL", "return")]
    first, second = (c for c in planned if c.dataset == DATASETS[0])
    records = [record(first, 9999.0, 100.0, 300.0), record(second, 9999.0, 400.0, 400.0)]
    lines = table(records, DATASETS[0]).splitlines()
    assert "Mean return of the data: 900." in lines
    assert lines[-1] == "| return | 0.25 | 1200 | – | 300 ± 141 (2) | – |"
    assert table(records[1:], DATASETS[0]).endswith("| – | 400 (1) | – |")  # one seed has no spread
    assert len({line.count("|") for line in lines[-3:]}) == 1  # a renderer needs equal widths


def test_a_plot_is_drawn_while_cells_are_missing(tmp_path: Path) -> None:
    plot([record(next(cells(seeds=1)), 0.0, 1.0)], tmp_path / "images" / "weighting.png")
    assert (tmp_path / "images" / "weighting.png").stat().st_size > 0


@pytest.mark.slow
def test_a_cell_is_trained_on_the_rows_of_its_sampling() -> None:
    trained = train(small("top 10 %"))
    assert [point["update"] for point in trained["curve"]] == [2, 4, 6, 8]
    assert trained["effective_share"] < 0.5
    assert json.loads(json.dumps(trained))["sampling"] == "top 10 %"
