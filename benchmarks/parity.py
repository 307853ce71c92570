"""Whether lit_offrl's BCQ and d3rlpy's are one algorithm.

    python benchmarks/parity.py --d3rlpy-python PATH

lit_offrl trains in float64 on random batches of HalfCheetah's shape and notes down weights, batches
and noise; d3rlpy starts from the same weights, with the tanh that its decoder lacks, and gets the
same batches and noise. Prints the largest difference of any weight after some updates.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.settings import ALGORITHMS, BATCH_SIZE
from benchmarks.racing import Worker
from lit_offrl.algorithms import BCQ
from lit_offrl.batch import Batch

OBS_DIM, ACTION_DIM = 17, 6
COMPARED = (1, 2, 10, 50, 200)


class Noted(BCQ):
    """A BCQ that keeps what it draws."""

    drawn: list[torch.Tensor]

    def randn(self, *shape: int) -> torch.Tensor:
        """Draw, and keep it."""
        self.drawn.append(super().randn(*shape))
        return self.drawn[-1]


def record(path: Path, updates: int) -> None:
    """Train, and write down everything that decided what came out."""
    torch.manual_seed(0)
    bcq = Noted(obs_dim=OBS_DIM, action_dim=ACTION_DIM, **ALGORITHMS["BCQ"].model).double()
    with torch.no_grad():  # targets that differ from their networks show which one is asked
        for name, parameter in bcq.named_parameters():
            if name.startswith("target_"):
                parameter.add_(0.01 * torch.randn_like(parameter))
    arrays = {f"0/{name}": value.numpy().copy() for name, value in bcq.state_dict().items()}
    rows: dict[str, list[np.ndarray]] = {}
    bcq.start(0, updates)
    for update in range(1, updates + 1):
        batch = _batch()
        bcq.drawn = []
        bcq.train_update(batch)
        fields = batch._asdict() | dict(
            zip(("posterior", "target", "proposals"), bcq.drawn, strict=True)
        )
        for name, value in fields.items():
            if value is not None:
                rows.setdefault(name, []).append(value.numpy())
        if update in COMPARED:
            state = bcq.state_dict()
            arrays |= {f"{update}/{name}": value.numpy().copy() for name, value in state.items()}
    arrays |= {name: np.stack(values) for name, values in rows.items()}
    np.savez(path, allow_pickle=False, **arrays)


def _batch() -> Batch:
    obs, next_obs = torch.randn(2, BATCH_SIZE, OBS_DIM, dtype=torch.float64)
    action = torch.randn(BATCH_SIZE, ACTION_DIM, dtype=torch.float64).clamp(-1, 1)
    reward = torch.randn(BATCH_SIZE, dtype=torch.float64)
    terminated = (torch.rand(BATCH_SIZE) < 0.1).double()
    return Batch(obs, action, reward, next_obs, terminated)


def main() -> None:
    """Train both, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--d3rlpy-python", required=True, help="Python that has d3rlpy 2.8.1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recorded.npz"
        record(path, max(COMPARED))
        worker = Worker("benchmarks.peers.d3rlpy_bcq", options.d3rlpy_python)
        asked = {"path": str(path), "updates": max(COMPARED), "compared": COMPARED}
        found = worker.ask(**asked)["differences"]
        worker.close()
    networks = list(found[str(COMPARED[0])])
    print(f"| after updates | {' | '.join(networks)} |")
    print("|---" * (len(networks) + 1) + "|")
    for update in COMPARED:
        print(f"| {update} | {' | '.join(f'{found[str(update)][n]:.0e}' for n in networks)} |")


if __name__ == "__main__":
    main()
