"""Search IQL's settings with Optuna: several seeds per setting, pruning, and an honest report.

    pip install optuna
    python examples/optuna_sweep.py --trials 20

A stopped search goes on with the same command. docs/sweeps.md says what to mind.
"""

import argparse
import logging
import statistics
from pathlib import Path
from typing import Any

import optuna  # type: ignore[import-not-found,unused-ignore]
from lightning import Callback, LightningModule, Trainer, seed_everything
from optuna.trial import TrialState  # type: ignore[import-not-found,unused-ignore]

from lit_offrl.algorithms import IQL, DiscreteIQL, OfflineAlgorithm
from lit_offrl.data import OfflineDataModule
from lit_offrl.evaluation import RawPolicy, evaluate
from lit_offrl.evaluation.off_policy import LogEvaluator
from lit_offrl.evaluation.policy_evaluation import OffPolicyOptions
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation

FRESH_SEEDS = 1_000  # of training: those of the search count from 0
FRESH_EPISODES = 1_000_000  # of the environment: those of the search count from 0


class ReportAndPrune(Callback):
    """Tells Optuna the score of each epoch, and gives up a trial that is not worth going on.

    Args:
        trial: The trial.
        evaluation: What plays the episodes; it must come before this callback.
        earlier: Scores of the seeds of this trial that are done.
        evaluations: Epochs per seed.
    """

    def __init__(
        self, trial: Any, evaluation: OnlineEvaluation, earlier: list[float], evaluations: int
    ) -> None:
        self.trial, self.evaluation = trial, evaluation
        self.earlier, self.evaluations = earlier, evaluations

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the mean over seeds so far."""
        step = len(self.earlier) * self.evaluations + trainer.current_epoch
        score = self.evaluation.history[-1][1]
        self.trial.report(statistics.fmean([*self.earlier, score]), step)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def suggest(trial: Any) -> dict[str, Any]:
    """Settings to try."""
    return {
        "expectile": trial.suggest_float("expectile", 0.5, 0.95),
        "inverse_temperature": trial.suggest_float("inverse_temperature", 0.5, 20.0, log=True),
        "lr": trial.suggest_float("lr", 1e-4, 3e-3, log=True),
    }


def train(
    settings: dict[str, Any], seed: int, plan: argparse.Namespace, *callbacks: Callback
) -> tuple[OfflineAlgorithm, OfflineDataModule]:
    """Train one setting with one seed."""
    seed_everything(seed, verbose=False)
    data = OfflineDataModule(plan.dataset, updates_per_epoch=plan.updates // plan.evaluations)
    iql = DiscreteIQL if data.discrete else IQL
    algorithm = iql(data.obs_dim, data.action_dim, **settings)
    trainer = Trainer(
        max_steps=plan.updates,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(algorithm, data)
    return algorithm, data


def score(trial: Any, plan: argparse.Namespace) -> float:
    """Mean over seeds of the return that a setting reaches, or of its estimate from the log."""
    settings, scores = suggest(trial), list[float]()
    for seed in range(plan.seeds):
        if plan.score == "online":
            evaluation = OnlineEvaluation(plan.episodes, mean_of_last=2)
            watch = ReportAndPrune(trial, evaluation, scores, plan.evaluations)
            train(settings, seed, plan, evaluation, watch)
            # not the best evaluation: the largest of noisy numbers is too large
            scores.append(evaluation.summary()["mean_of_last_k"])
        else:
            scores.append(fqe(*train(settings, seed, plan), plan))
            trial.report(statistics.fmean(scores), seed)
            if trial.should_prune():
                raise optuna.TrialPruned
    trial.set_user_attr("scores", scores)
    return statistics.fmean(scores)


def fqe(algorithm: OfflineAlgorithm, data: OfflineDataModule, plan: argparse.Namespace) -> float:
    """Discounted return of the greedy policy as fitted Q evaluation has it, in raw reward."""
    options = OffPolicyOptions(fqe_updates=plan.fqe_updates, model_updates=0)
    log = LogEvaluator(data.logged, data.spec, data.scaling, algorithm.discount, options)
    estimates = log.evaluate(algorithm.eval()).estimates
    value = next(estimate.value for estimate in estimates if estimate.name == "FQE")
    assert value is not None
    return value


def search(plan: argparse.Namespace) -> Any:
    """Run what is left of ``plan.trials`` trials, and return the study."""
    Path(plan.study).parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"iql-{plan.dataset}-{plan.score}",
        storage=f"sqlite:///{plan.study}",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    )
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    # the same seed again would repeat the first settings
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    left = max(plan.trials - len(ended), 0)
    study.optimize(lambda trial: score(trial, plan), n_trials=left)
    return study


def report(settings: dict[str, Any], plan: argparse.Namespace) -> list[float]:
    """Returns of a setting that nothing was chosen by: fresh training seeds, fresh episodes."""
    returns = []
    for seed in range(FRESH_SEEDS, FRESH_SEEDS + plan.report_seeds):
        algorithm, data = train(settings, seed, plan)
        policy = RawPolicy(algorithm, data.spec, data.scaling)
        returns.append(evaluate(policy, data.spec, plan.report_episodes, FRESH_EPISODES).mean)
    return returns


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="Search IQL's settings with Optuna.")
    parser.add_argument("--dataset", default="pendulum/mixed")
    parser.add_argument("--trials", type=int, default=20, help="In all, with earlier ones.")
    parser.add_argument("--seeds", type=int, default=3, help="Training seeds per setting.")
    parser.add_argument("--updates", type=int, default=5_000)
    parser.add_argument("--evaluations", type=int, default=5, help="Per run, by which to prune.")
    parser.add_argument("--episodes", type=int, default=10, help="Per evaluation.")
    parser.add_argument("--score", choices=("online", "fqe"), default="online")
    parser.add_argument("--fqe_updates", type=int, default=2_000)
    parser.add_argument("--study", default="runs/sweep/study.db", help="File of the study.")
    parser.add_argument("--report_seeds", type=int, default=5)
    parser.add_argument("--report_episodes", type=int, default=50)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Search, then report the best setting on what the search has not seen."""
    plan = parse(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it greets every run
    study = search(plan)
    best = study.best_trial
    pruned = len(study.get_trials(states=(TrialState.PRUNED,)))
    print(f"Best of {plan.trials} settings ({pruned} pruned), {plan.seeds} seeds each: ", end="")
    print(
        f"{best.params}\n  {best.value:.1f} in the search, which is too high: it was chosen by it"
    )
    returns = report(best.params, plan)
    mean = statistics.fmean(returns)
    error = statistics.stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else float("nan")
    print(f"  {mean:.1f} ± {error:.1f} (mean ± standard error over {len(returns)} fresh seeds)")


if __name__ == "__main__":
    main()
