"""The table and the sentence that end a run."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lit_offrl.data import OfflineDataModule
from lit_offrl.evaluation import normalized_score


def print_summary(
    algorithm: str, data: OfflineDataModule, evaluation: Mapping[str, float], folder: Path
) -> None:
    """Print what the data and the policy return, and where the files lie.

    Args:
        algorithm: Name of the algorithm.
        data: What it was trained on.
        evaluation: ``OnlineEvaluation.summary()``; empty if there was no evaluation.
        folder: The run's folder.
    """
    spec = data.spec
    returns = data.train.returns()  # (E,)
    rows = [(f"episodes of the training data ({len(returns)})", float(returns.mean()))]
    if evaluation:
        rows += [
            (f"{algorithm}, last", evaluation["last"]),
            (f"{algorithm}, best (update {evaluation['best_update']:.0f})", evaluation["best"]),
            (f"{algorithm}, mean of the last evaluations", evaluation["mean_of_last_k"]),
        ]
    scored = normalized_score(spec, 0.0) is not None
    table = Table("", "mean return", *(["Minari-normalized score"] if scored else []))
    for name, value in rows:
        score = normalized_score(spec, value)
        table.add_row(name, f"{value:.1f}", *([] if score is None else [f"{score:.1f}"]))
    console = Console(highlight=False)
    console.print(table)
    console.print(_sentence(algorithm, evaluation, float(returns.mean())), soft_wrap=True)
    console.print(
        f"Checkpoints: {folder / 'checkpoints'}   curves: tensorboard --logdir {folder}",
        soft_wrap=True,
    )


def _sentence(algorithm: str, evaluation: Mapping[str, float], data_return: float) -> str:
    if not evaluation:
        return (
            f"{algorithm} is trained but was not run in an environment: nothing is known of its "
            "return."
        )
    better = "more" if evaluation["mean_of_last_k"] > data_return else "less"
    return (
        f"On average over its last evaluations, {algorithm} returns {better} than the data. "
        f"Online episodes spent on evaluation: {evaluation['episodes_spent']:.0f}."
    )
