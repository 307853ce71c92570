import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.algorithms import ranks_worker
from tests.data.makers import small

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "cache"))
    small((9, 8, 7, 10))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--standalone", ranks_worker.__file__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "2", str(tmp_path)], env=environment, check=True, timeout=200, cwd=tmp_path
    )

    one = ranks_worker.train(devices=1)
    two = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, weights in one.items():
        torch.manual_seed(0)
        start = ranks_worker.ALGORITHMS[name](3, 2).state_dict()
        assert any(not torch.equal(start[key], weights[key].float()) for key in weights)
        for key, value in weights.items():
            assert value.dtype == torch.float64
            assert torch.equal(two[0][name][key], two[1][name][key]), f"{name}: {key}"
            difference = (two[0][name][key] - value).abs().max()
            assert difference < 1e-8, f"{name}: {key} differs by {difference}"
