"""What every test starts from."""

import pytest
import torch

torch.set_num_threads(1)  # tiny networks; several test processes may share the cores


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
