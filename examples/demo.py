"""Train behavior cloning and IQL on one small data set, compare them, and judge IQL by the log.

Run by `make demo`; takes no options.
"""

import csv
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no window: the plot is a file
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from lit_offrl import load
from lit_offrl.cli import main
from lit_offrl.data import load_dataset
from lit_offrl.evaluation import evaluate

DATASET = "pendulum/mixed"
FOLDER = Path("runs/demo")
EPISODES = 20
QUICK = ["--fqe_updates", "2000", "--model_updates", "2000"]  # less than half of the default
SETTINGS = {
    "BC": ["-c", "bc/classic_control.yaml"],
    "IQL": ["-c", "iql/classic_control.yaml"],
}


def train(name: str) -> Path:
    """Train one algorithm and return the run's folder."""
    folder = FOLDER / f"{name.lower()}-{time.strftime('%Y%m%d-%H%M%S')}"
    main(["fit", *SETTINGS[name], "--data.dataset_id", DATASET, "--run_dir", str(folder)])
    return folder


def plot(folders: dict[str, Path], data_return: float) -> Path:
    """Draw the return over updates of each run."""
    _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, folder in folders.items():
        with (folder / "csv" / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["eval/return_mean"]]
        updates = [int(row["step"]) for row in rows]
        axes.plot(updates, [float(row["eval/return_mean"]) for row in rows], "o-", label=name)
    axes.axhline(data_return, color="gray", linestyle="--", label="mean of the data")
    axes.set(xlabel="gradient updates", ylabel="mean return", title=f"{DATASET}, one seed")
    axes.legend()
    plt.savefig(path := FOLDER / "returns.png", dpi=120)
    return path


def demo() -> None:
    """Train, compare, and say where everything lies."""
    folders = {name: train(name) for name in SETTINGS}
    returns = load_dataset(DATASET)[0].returns()
    rows = {f"data ({len(returns)} episodes)": (returns.mean(), returns.std())}
    for name, folder in folders.items():
        policy = load(folder / "checkpoints" / "last.ckpt")
        rollouts = evaluate(policy, policy.spec, EPISODES, seed=1000)
        rows[f"{name}, last checkpoint ({EPISODES} new episodes)"] = (rollouts.mean, rollouts.std)

    table = Table("", "return, mean ± std over episodes", title=DATASET)
    for name, (mean, std) in rows.items():
        table.add_row(name, f"{mean:.0f} ± {std:.0f}")
    console = Console(highlight=False)
    console.print(table)
    best = max(rows, key=lambda name: rows[name][0]).partition(",")[0].partition(" (")[0]
    console.print(f"The highest mean return is that of {best}. Where everything lies:")
    for name, folder in folders.items():
        console.print(f"  {name} checkpoint: {folder / 'checkpoints' / 'last.ckpt'}")
    console.print(f"  plot: {plot(folders, float(returns.mean()))}")
    console.print(f"  TensorBoard: tensorboard --logdir {FOLDER}", soft_wrap=True)

    console.print("\nWithout those episodes, what does the log alone say of IQL?")
    main(["evaluate", str(folders["IQL"] / "checkpoints" / "last.ckpt"), *QUICK])


if __name__ == "__main__":
    demo()
