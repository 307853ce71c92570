from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from lit_offrl.data.builtin import pendulum
from tests.cli.running import Fit, Outcome, run, tiny
from tests.data.makers import ACTION, episode, make_minari


@pytest.fixture(scope="package")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Minari folder with two small random sets, and a larger one with an environment."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        for dataset_id, actions in (("tests/box-v0", ACTION), ("tests/discrete-v0", Discrete(3))):
            episodes = [
                episode(i, n, action_space=actions, observations=np.ones((n + 1, 3)) * i)
                for i, n in enumerate((6, 9, 7, 8))
            ]
            make_minari(episodes, dataset_id, action_space=actions)
        pendulum.make(scale=0.02)
    yield folder


@pytest.fixture(autouse=True)
def clean_place(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, and an environment that is restored afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data_folder / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(data_folder / "cache"))
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # which seed_everything sets
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


@pytest.fixture
def fit(capsys: pytest.CaptureFixture[str]) -> Fit:
    """Run ``lit-offrl fit`` in this process: tiny, unless options say otherwise."""

    def fit(
        *arguments: str, model: str = "IQL", only_arguments: bool = False, **options: Any
    ) -> Outcome:
        own = [] if only_arguments else tiny(model, options)
        return run(capsys, ["fit", *own, *arguments])

    return fit
