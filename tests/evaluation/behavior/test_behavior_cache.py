"""Behavior fits on disk."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_offrl.evaluation.behavior import cache as behavior_cache
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.evaluation.behavior.fit import BehaviorFit, fit_behavior
from tests.evaluation.behavior.behavior_makers import (
    box_spec,
    discrete_log,
    discrete_spec,
    gaussian_log,
)
from tests.evaluation.fakes import identity_scaling

SPEC, DATA = discrete_spec(2, 3), discrete_log(100)
SCALING = identity_scaling(SPEC)


@pytest.fixture(autouse=True)
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[BehaviorFit]:
    """What was fitted and not read, with a cache folder of the test's own."""
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "cache"))
    made: list[BehaviorFit] = []

    def counted(*args: Any, **kwargs: Any) -> BehaviorFit:
        made.append(fit_behavior(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(behavior_cache, "fit_behavior", counted)
    return made


def get(data: Any = DATA, **options: Any) -> BehaviorFit:
    return cached_behavior(data, SCALING, SPEC, **({"updates": 10} | options))


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "behavior").iterdir())


def equal(one: BehaviorFit, two: BehaviorFit) -> None:
    weights, others = one.policy.state_dict(), two.policy.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for field in dataclasses.fields(one):
        if field.name != "policy":
            assert getattr(one, field.name) == getattr(two, field.name)


def test_the_second_call_reads_what_the_first_one_fitted(
    fits: list[BehaviorFit], tmp_path: Path
) -> None:
    equal(get(), get())
    assert len(fits) == 1
    assert [path.suffix for path in entries(tmp_path)] == [".pt"]


def test_a_box_fit_comes_back_whole(fits: list[BehaviorFit]) -> None:
    spec = box_spec(2, 2)
    args = (gaussian_log(60), identity_scaling(spec), spec)
    equal(cached_behavior(*args, updates=4), cached_behavior(*args, updates=4))
    assert len(fits) == 1


def test_another_split_scaling_set_or_option_is_fitted_anew(fits: list[BehaviorFit]) -> None:
    get()
    get(DATA.select_episodes(torch.arange(4).numpy()))
    get(DATA.select_episodes(torch.arange(1, 5).numpy()))
    get(seed=1)
    get(updates=11)
    get(held_out_fraction=0.5)
    get(kind="categorical")
    other = dataclasses.replace(SCALING, obs_std=torch.full((2,), 2.0))
    cached_behavior(DATA, other, SPEC, updates=10)
    cached_behavior(DATA, SCALING, dataclasses.replace(SPEC, content_hash="other"), updates=10)
    assert len(fits) == 9


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "not ours"])
def test_a_damaged_file_is_fitted_anew_and_replaced(
    damage: str, fits: list[BehaviorFit], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = get()
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(
        {
            "cut": path.read_bytes()[:-100],
            "flipped": bytes(content),
            "emptied": b"",
            "not ours": b"text" * 100,
        }[damage]
    )
    equal(get(), first)
    assert len(fits) == 2
    assert "damaged" in caplog.text
    equal(get(), first)
    assert len(fits) == 2


def test_a_folder_that_cannot_be_written_is_done_without(
    fits: list[BehaviorFit], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    equal(get(), get())
    assert len(fits) == 2
    assert "Cannot write the behavior cache" in caplog.text


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    get()
    assert entries(tmp_path) == []
