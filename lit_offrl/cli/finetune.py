"""``lit-offrl finetune``: go on with an offline policy in its environment."""

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from jsonargparse import Namespace
from lightning import Callback, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.checkpoint import LoadedPolicy, load, read_checkpoint, updates_behind
from lit_offrl.cli.logs import KeepLogs
from lit_offrl.cli.parsing import OneLineParser, check_seed
from lit_offrl.cli.run_folder import RUN_DIR, latest, refuse_used, run_folder, run_of
from lit_offrl.cli.running import loggers_of, refusals_in_one_line, run, with_whole_checkpoints
from lit_offrl.cpu_threads import largest_product
from lit_offrl.errors import EnvironmentFailed, InputError
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.files import write_whole
from lit_offrl.online.datamodule import Collecting, FineTuneDataModule
from lit_offrl.online.exploration import Exploration
from lit_offrl.online.findings import mean_of
from lit_offrl.online.measures import Outcome
from lit_offrl.online.mixing import Mixing
from lit_offrl.online.modes import DEFAULTS, Mode, finetuned, frozen
from lit_offrl.online.weights import importance
from lit_offrl_callbacks.best_and_last import BestAndLast
from lit_offrl_callbacks.diagnostic_report import DiagnosticReport
from lit_offrl_callbacks.dip_guard import DipGuard
from lit_offrl_callbacks.fine_tuning import FineTuning
from lit_offrl_callbacks.interruption import Interruption
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from lit_offrl_callbacks.progress import UpdateProgress
from lit_offrl_callbacks.q_value_sanity import QValueSanity

SETTINGS = (Collecting, Mixing, Exploration)
Settings = TypeVar("Settings", Collecting, Mixing, Exploration)


def main(args: Sequence[str]) -> Path:
    """Fine-tune, print what came out, and return the run's folder."""
    try:
        return _finetune(_parser(args).parse_args(list(args)))
    finally:
        os.environ.pop(RUN_DIR, None)


def _finetune(config: Namespace) -> Path:
    check_seed("--seed", config.seed)
    path = Path(config.checkpoint).expanduser()
    policy = load(path)
    base = run_of(path) / f"finetune-{config.mode}" / f"seed-{config.seed}"
    folder = run_folder(config.run_dir, base, config.ckpt_path)
    resumed = config.ckpt_path
    if resumed is None:
        refuse_used(folder)
    if resumed == "last":
        resumed = latest(folder / "checkpoints")
    seed_everything(config.seed, verbose=False)
    module = finetuned(policy, config.mode, config.model)
    if config.mode in ("continue", "calql"):  # the others have networks of their own
        module.take_over(read_checkpoint(path)["optimizer_states"])
    module.compile_update = config.compile
    data = _data(config, policy, module, folder)
    callbacks = _callbacks(config, folder, resumed)
    with refusals_in_one_line(ValueError):
        trainer = _trainer(config, data.collecting.updates, folder, callbacks)
    product = largest_product(module, config.batch_size)
    try:
        run(trainer, lambda: module, data, folder, resumed, product)
    except EnvironmentFailed as error:
        kept = (
            f" What was collected is kept: mend it and go on with `--run_dir {folder} "
            "--ckpt_path last`."
            if (folder / "checkpoints" / "last.ckpt").is_file()
            else ""
        )
        raise InputError(f"{error}.{kept}") from None
    _summarize(data, callbacks, folder)
    return folder


def _data(
    config: Namespace, policy: LoadedPolicy, module: OfflineAlgorithm, folder: Path
) -> FineTuneDataModule:
    """Log, buffer and environments, with what the checkpoint fixes."""
    data = FineTuneDataModule(
        policy.spec,
        policy.scaling,
        _settings(Collecting, config),
        _settings(Mixing, config),
        _settings(Exploration, config),
        folder,
        config.env,
        dataset_id=config.dataset_id or policy.spec.dataset_id,
        batch_size=config.batch_size,
        split_seed=policy.info.split_seed,
        held_out=policy.info.held_out,
        extras=module.extras,
        discount=module.discount,
    )
    data.offline = frozen(policy.algorithm)
    if config.importance_power is not None:
        behavior = cached_behavior(data.logged, data.scaling, data.spec).policy
        data.row_weight = importance(module, behavior, data.layout, config.importance_power)
    return data


def _trainer(config: Namespace, updates: int, folder: Path, callbacks: list[Callback]) -> Trainer:
    return Trainer(
        max_steps=updates,
        accelerator=config.accelerator,
        devices=1,
        log_every_n_steps=config.log_every_n_steps,
        logger=loggers_of(folder),
        callbacks=callbacks,
        plugins=with_whole_checkpoints(None),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=config.progress,
    )


def _settings(kind: type[Settings], config: Namespace) -> Settings:
    return kind(**{field.name: config[field.name] for field in fields(kind)})


def _callbacks(config: Namespace, folder: Path, resumed: str | None) -> list[Callback]:
    checkpoints = folder / "checkpoints"
    update = updates_behind(Path(resumed)) if resumed else -1
    evaluation = OnlineEvaluation(
        config.eval_episodes,
        seed=config.eval_seed,
        env_id=config.env,
        step_timeout=config.step_timeout,
    )
    callbacks: list[Callback] = [evaluation, FineTuning(config.before_episodes)]
    if config.diagnostics:
        callbacks.append(QValueSanity())
    if config.floor is not None:
        callbacks.append(
            DipGuard(config.floor, config.floor_action, config.floor_window, str(checkpoints))
        )
    callbacks += [BestAndLast(str(checkpoints)), KeepLogs(update), DiagnosticReport()]
    callbacks += [_SaveOptions(folder, config), Interruption(str(checkpoints))]
    if config.progress:
        callbacks.append(UpdateProgress())
    return callbacks


class _SaveOptions(Callback):
    """Writes the run's options as ``config.yaml`` once everything was accepted."""

    def __init__(self, folder: Path, config: Namespace) -> None:
        self._folder, self._config = folder, config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        options = {k: v for k, v in vars(self._config).items() if k not in ("run_dir", "ckpt_path")}
        text = yaml.safe_dump(options, sort_keys=False)
        write_whole(self._folder / "config.yaml", text.encode())


def _parser(args: Sequence[str]) -> OneLineParser:
    parser = OneLineParser(
        prog="lit-offrl finetune",
        description="Train a policy of `lit-offrl fit` further in its environment.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("checkpoint", type=str, help="Checkpoint of `lit-offrl fit`.")
    add("--env", type=str | None, default=None, help="Environment; the recorded one if null.")
    add("--mode", type=Mode, default="continue", help="How to go on, see docs/finetuning.md.")
    add(
        "--model",
        type=dict[str, Any] | None,
        default=None,
        help="Arguments of the algorithm that differ from the checkpoint's: --model.lr 1e-4.",
    )
    add("--dataset_id", type=str | None, default=None, help="The log, where it has moved.")
    add(
        "--run_dir",
        type=str | None,
        default=None,
        help="Folder of the run; by default `finetune-MODE/seed-N` in the checkpoint's run folder.",
    )
    add(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="Checkpoint to resume from; `last` takes the run folder's latest, if any.",
    )
    add("--seed", type=int, default=0, help="Seed of everything that is drawn.")
    add("--batch_size", type=int, default=256, help="Transitions per update.")
    add("--compile", type=Literal["auto"] | bool, default="auto", help="As `lit-offrl fit` has it.")
    add("--accelerator", type=str, default="auto", help="As Lightning's Trainer has it.")
    add("--log_every_n_steps", type=int, default=500, help="Updates between logged losses.")
    add("--progress", type=bool, default=True, help="Whether to show progress.")
    add("--diagnostics", type=bool, default=True, help="Whether QValueSanity watches the run.")
    add("--eval_episodes", type=int, default=10, help="Greedy episodes per evaluation.")
    add("--eval_seed", type=int, default=0, help="Seed of the first of them.")
    add("--before_episodes", type=int, default=50, help="Episodes of the offline policy.")
    add("--floor", type=float | None, default=None, help="Least mean return, see DipGuard.")
    add("--floor_action", type=Literal["stop", "rollback"], default="rollback", help="See there.")
    add("--floor_window", type=int, default=10, help="Episodes that the mean is taken of.")
    add(
        "--importance_power",
        type=float | None,
        default=None,
        help="κ of the weight min(1, (π/β̂)^κ) of logged rows; null weights all the same.",
    )
    for kind in SETTINGS:
        parser.add_class_arguments(kind)
    parser.set_defaults(dict(DEFAULTS[_mode(args)]))
    return parser


def _mode(args: Sequence[str]) -> Mode:
    """The mode asked for, whose defaults the options take."""
    text = " ".join(args).replace("--mode=", "--mode ")
    named = text.partition("--mode ")[2].split()[:1]
    return next((mode for mode in get_args(Mode) if [mode] == named), "continue")


def _summarize(data: FineTuneDataModule, callbacks: Sequence[Callback], folder: Path) -> None:
    """Print before, dip and after, and where the files lie."""
    measured = next(c for c in callbacks if isinstance(c, FineTuning))
    console = Console(highlight=False, markup=False)
    if (result := measured.outcome()) is not None:
        table = Table("", "mean return")
        table.add_row("random actions", f"{measured.before['random']:.1f}")
        table.add_row("offline policy", f"{result.before:.1f}")
        table.add_row(f"lowest {mean_of(result)}", f"{result.lowest:.1f}")
        table.add_row("worst evaluation", f"{result.worst:.1f}")
        table.add_row(f"at the end, {mean_of(result)}", f"{result.after:.1f}")
        console.print(table)
        console.print(_sentence(result, data, measured), soft_wrap=True)
    report = next(c for c in callbacks if isinstance(c, DiagnosticReport))
    if report.path is not None:
        console.print(f"Report: {report.path}", soft_wrap=True)
    console.print(f"Checkpoints: {folder / 'checkpoints'}", soft_wrap=True)


def _sentence(result: Outcome, data: FineTuneDataModule, measured: FineTuning) -> str:
    difference = result.after - result.before
    better = "more than" if difference > 0 else "less than" if difference < 0 else "as much as"
    dip = (
        f"after a dip of {result.dip:.0%} of what the offline policy had over random actions"
        if result.dip
        else "without a dip below the offline policy"
    )
    return (
        f"After {data.env_steps:,} environment steps ({len(data.episodes.finished)} episodes) the "
        f"policy returns {better} before, {dip}. Episodes spent on measuring: "
        f"{measured.episodes_spent + measured.evaluation.episodes_spent}."
    )
