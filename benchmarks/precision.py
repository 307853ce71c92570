"""What bf16 does to Q-values.

    python benchmarks/precision.py

trains IQL and TD3+BC on pendulum/mixed in float32 and in ``bf16-mixed`` from the same seeds, and
compares the critics on held-out transitions: with each other, with another seed's, and each with
itself evaluated in bf16.
"""

import logging
import warnings

import torch
from lightning import Trainer, seed_everything
from torch import Tensor

from lit_offrl.algorithms import IQL, TD3BC, OfflineAlgorithm
from lit_offrl.data import OfflineDataModule

UPDATES = 4_000
PRECISIONS = ("32-true", "bf16-mixed")


def trained(kind: type[IQL | TD3BC], precision: str, seed: int) -> tuple[Tensor, Tensor, float]:
    """Train; return held-out Q-values, the same in bf16, both (N,), and the TD error's root."""
    seed_everything(seed, verbose=False)
    data = OfflineDataModule("pendulum/mixed")
    algorithm: OfflineAlgorithm = kind(data.obs_dim, data.action_dim, hidden=(64, 64))
    Trainer(
        max_steps=UPDATES,
        accelerator="cpu",
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(algorithm, data)
    batch = data.layout.unpack(data.held_out_matrix)
    with torch.no_grad():
        q = algorithm.q_values(batch.obs, batch.action).amin(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = algorithm.q_values(batch.obs, batch.action).amin(0).float()
        td_error = algorithm.held_out_scores(batch)["val/td_error"].sqrt().item()
    return q, rounded, td_error


def rms(difference: Tensor) -> float:
    """Root of the mean square."""
    return difference.square().mean().sqrt().item()


def main() -> None:
    """Train and print a table."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(
        "| | mean Q | root of the held-out TD error, float32 and bf16 | bf16 against float32 "
        "training, rms | another seed, rms | rounding of one critic in bf16, rms |\n"
        "|---|---|---|---|---|---|"
    )
    for kind in (IQL, TD3BC):
        exact, rounded = (trained(kind, precision, 0) for precision in PRECISIONS)
        other = trained(kind, PRECISIONS[0], 1)
        print(
            f"| {kind.__name__} | {exact[0].mean():.1f} | {exact[2]:.2f}, {rounded[2]:.2f} | "
            f"{rms(exact[0] - rounded[0]):.2f} | {rms(exact[0] - other[0]):.2f} | "
            f"{rms(exact[0] - exact[1]):.2f} |"
        )


if __name__ == "__main__":
    main()
