"""The table and the sentence that end a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lit_offrl.algorithms.replicas import over_seeds
from lit_offrl.data import DatasetSpec, OfflineDataModule
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
    returns = data.train_returns  # (E,)
    rows = [(f"episodes of the training data ({len(returns)})", float(returns.mean()))]
    if evaluation:
        rows += [
            (f"{algorithm}, last", evaluation["last"]),
            (f"{algorithm}, best (update {evaluation['best_update']:.0f})", evaluation["best"]),
            (f"{algorithm}, mean of the last evaluations", evaluation["mean_of_last_k"]),
        ]
    _print(rows, spec, _sentence(algorithm, evaluation, float(returns.mean())))
    Console(highlight=False, markup=False).print(
        f"Checkpoints: {folder / 'checkpoints'}   curves: tensorboard --logdir {folder}",
        soft_wrap=True,
    )


def print_seeds(
    algorithm: str,
    data: OfflineDataModule,
    evaluations: Mapping[int, Mapping[str, float]],
    folder: Path,
) -> None:
    """Print what the data and the policy of each seed return, and where the files lie.

    Args:
        algorithm: Name of the algorithm.
        data: What it was trained on.
        evaluations: ``OnlineEvaluation.summary()`` of each seed.
        folder: The run's folder.
    """
    returns = data.train_returns  # (E,)
    rows = [(f"episodes of the training data ({len(returns)})", float(returns.mean()))]
    sentence = (
        f"{algorithm} is trained with {len(evaluations)} seeds but was not run in an environment: "
        "nothing is known of its return."
    )
    if all(evaluations.values()):
        last = {seed: evaluation["mean_of_last_k"] for seed, evaluation in evaluations.items()}
        rows += [(f"{algorithm}, seed {seed}", value) for seed, value in last.items()]
        over = over_seeds("return", list(last.values()), list(last))
        rows.append((f"{algorithm}, mean of {len(last)} seeds", over["return"]))
        spent = sum(evaluation["episodes_spent"] for evaluation in evaluations.values())
        sentence = (
            f"On average over its last evaluations, {algorithm} returns {over['return']:.1f} ± "
            f"{over['return/ci95']:.1f} (95 % interval of the mean over seeds). Online episodes "
            f"spent on evaluation: {spent:.0f}."
        )
    _print(rows, data.spec, sentence)
    Console(highlight=False, markup=False).print(
        f"Checkpoints: {folder / 'seed-*' / 'checkpoints'}   "
        f"curves: tensorboard --logdir {folder}\n"
        "Diagnostics watch runs of one seed; judge each policy with "
        f"`lit-offrl evaluate {folder / 'seed-*' / 'checkpoints' / 'best.ckpt'}`.",
        soft_wrap=True,
    )


def _print(rows: Sequence[tuple[str, float]], spec: DatasetSpec, sentence: str) -> None:
    scored = normalized_score(spec, 0.0) is not None
    table = Table("", "mean return", *(["Minari-normalized score"] if scored else []))
    for name, value in rows:
        score = normalized_score(spec, value)
        table.add_row(name, f"{value:.1f}", *([] if score is None else [f"{score:.1f}"]))
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(sentence, soft_wrap=True)


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
