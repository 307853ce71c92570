"""Reports on recorded sets, where they are at hand: set MINARI_DATASETS_PATH to their folder."""

import os
from pathlib import Path

import pytest

from lit_offrl.inspection import DataReport, inspect

FOLDER = Path(os.environ.get("MINARI_DATASETS_PATH", "/nowhere"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "hopper/medium-v0").is_dir(),
        reason="MINARI_DATASETS_PATH holds no hopper/medium-v0",
    ),
]
FIRST = {
    "hopper/medium-v0": ["IQL", "TD3BC", "AWAC"],
    "hopper/medium_replay-v0": ["CQL", "ReBRAC", "IQL"],
    "hopper/medium_expert-v0": ["TD3BC", "IQL", "ReBRAC"],
    "halfcheetah/medium-v0": ["TD3BC", "ReBRAC", "IQL"],
    "halfcheetah/medium_replay-v0": ["CQL", "ReBRAC", "IQL"],
    "cartpole/mixed-v0": ["DiscreteCQL", "DiscreteIQL", "DiscreteBCQ"],
}
"""Clean sets and the first three candidates."""


def report_of(dataset_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataReport:
    if not (FOLDER / dataset_id).is_dir():
        pytest.skip(f"MINARI_DATASETS_PATH holds no {dataset_id}")
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path))
    return inspect(dataset_id, behavior_updates=100)


@pytest.mark.parametrize("dataset_id", FIRST)
def test_a_clean_set_raises_no_flag_and_gets_its_ranking(
    dataset_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of(dataset_id, tmp_path, monkeypatch)
    assert report.flags == []
    ranked = [one.algorithm for one in report.recommendation().candidates]
    assert ranked[:3] == FIRST[dataset_id]


def test_human_demonstrations_are_few_and_otherwise_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of("door/human-v0", tmp_path, monkeypatch)
    assert [one.name for one in report.flags] == ["episodes"]
    ranked = [one.algorithm for one in report.recommendation().candidates]
    assert ranked[:4] == ["BC", "IQL", "AWAC", "ReBRAC"] and "TD3BC" not in ranked
