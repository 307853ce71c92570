"""``lit-offrl fit``: train an algorithm on a data set."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lit_offrl.algorithms.base import OfflineAlgorithm, check_precision
from lit_offrl.algorithms.replicas import Replicas, replicate
from lit_offrl.checkpoint import updates_behind
from lit_offrl.cli.logs import KeepLogs
from lit_offrl.cli.parsing import OneLineParser, check_seed, unknown_algorithm
from lit_offrl.cli.run_folder import RUN_DIR, dataset_folder, latest, refuse_used, run_folder
from lit_offrl.cli.running import loggers_of, refusals_in_one_line, run, with_whole_checkpoints
from lit_offrl.cli.summary import print_seeds, print_summary
from lit_offrl.cpu_threads import largest_product
from lit_offrl.data import OfflineDataModule
from lit_offrl.errors import InputError
from lit_offrl.ranges import within
from lit_offrl_callbacks.best_and_last import BestAndLast
from lit_offrl_callbacks.diagnostic import Diagnostic
from lit_offrl_callbacks.diagnostic_report import DiagnosticReport
from lit_offrl_callbacks.interruption import Interruption
from lit_offrl_callbacks.kl_divergence import KLDivergence
from lit_offrl_callbacks.offline_online_gap import OfflineOnlineGap
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from lit_offrl_callbacks.progress import UpdateProgress
from lit_offrl_callbacks.q_value_sanity import QValueSanity
from lit_offrl_callbacks.seed_runs import SeedRuns

DIAGNOSTICS: dict[str, type[Diagnostic]] = {
    "q_values": QValueSanity,
    "kl": KLDivergence,
    "gap": OfflineOnlineGap,
}
"""What watches a run, under the names of its options."""


class RunFolderConfig(SaveConfigCallback):
    """Saves the whole configuration as ``config.yaml`` in the run's folder."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        super().__init__(parser, config, overwrite=True, save_to_log_dir=False, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the file of a run alone whose checkpoint may yet turn out not to fit."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save once everything was accepted."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, without this run's own folder: repeated, the run gets another."""
        path = Path(self.config.run_dir) / "config.yaml"
        config = self.config.clone()
        config.run_dir = config.ckpt_path = config.checkpoint.dirpath = None
        config.trainer.default_root_dir = None
        self.parser.save(config, path, overwrite=True)


class FitCLI(LightningCLI):
    """LightningCLI without subcommands, for one run in a folder of its own."""

    def __init__(self, args: Sequence[str]) -> None:
        self._arguments = [_packaged_config(args, i) for i in range(len(args))]
        super().__init__(
            OfflineAlgorithm,
            OfflineDataModule,
            subclass_mode_model=True,
            run=False,
            parser_class=OneLineParser,
            parser_kwargs={
                "prog": "lit-offrl fit",
                "description": "Train an algorithm on a data set.",
                "allow_abbrev": False,
            },
            save_config_callback=RunFolderConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "max_steps": 1_000_000,
                "log_every_n_steps": 500,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "logger": True,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to a run beside trainer, model and data."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run; by default runs/DATASET/ALGORITHM/seed-N, numbered if taken.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to resume from; `last` takes the run folder's latest, if any.",
        )
        parser.add_argument(
            "--diagnostics",
            type=bool,
            default=True,
            help="Whether `q_values`, `kl` and `gap` watch the run.",
        )
        parser.add_argument(
            "--seeds",
            type=int,
            default=1,
            help="Train this many seeds at once, from `seed_everything` on.",
        )
        parser.add_argument(
            "--compile",
            type=Literal["auto"] | bool,
            default="auto",
            help="Whether updates run as one compiled graph; `auto`: from 20,000 updates on.",
        )
        parser.add_lightning_class_args(OnlineEvaluation, "evaluation")
        for key, diagnostic in DIAGNOSTICS.items():
            parser.add_lightning_class_args(diagnostic, key)
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        for name in ("obs_dim", "action_dim"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.link_arguments("data.images", "model.init_args.images", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse this verb's arguments, and check those that Lightning uses at once."""
        self.config = parser.parse_args(self._arguments)
        within("[1, inf)", **{"--seeds": self.config.seeds})
        check_seed("--seed_everything", self.config.seed_everything, self.config.seeds)

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder and put everything that is written into it."""
        self._check()
        first, n = self.config.seed_everything, self.config.seeds
        seeds = f"seeds-{first}-{first + n - 1}" if n > 1 else f"seed-{first}"
        algorithm = str(self.config.model.class_path).rpartition(".")[2].lower()
        base = Path("runs") / dataset_folder(str(self.config.data.dataset_id)) / algorithm / seeds
        folder = run_folder(self.config.run_dir, base, self.config.ckpt_path)
        if self.config.ckpt_path is None:
            refuse_used(folder)
        self.config.run_dir = str(folder)
        if self.config.ckpt_path == "last":
            self.config.ckpt_path = latest(folder / "checkpoints")
        self.config.trainer.default_root_dir = str(folder)
        self.config.checkpoint.dirpath = str(folder / "checkpoints")
        if self.config.evaluation.episodes == 0:  # then nothing may enter an environment
            self.config.gap.episodes = 0
        self.config.gap.env_id = self.config.gap.env_id or self.config.evaluation.env_id

    def _check(self) -> None:
        """Refuse what would fail late, or be ignored."""
        if str(self.config.model.class_path).rpartition(".")[2] == OfflineAlgorithm.__name__:
            raise InputError(unknown_algorithm(OfflineAlgorithm.__name__))
        trainer, checkpoint = self.config.trainer, self.config.checkpoint
        check_precision(trainer.precision)  # on a CPU Lightning makes bf16-mixed of 16-mixed
        if (epochs := trainer.check_val_every_n_epoch) is not None:
            within("[1, inf)", **{"trainer.check_val_every_n_epoch": epochs})
        if self.config.seeds > 1 and (checkpoint.monitor or checkpoint.mode):
            raise InputError(
                "With `--seeds`, the best of each seed is chosen by its return or its held-out "
                "loss: leave out `checkpoint.monitor` and `checkpoint.mode`."
            )

    def instantiate_classes(self) -> None:
        """Make all objects; an InputError of theirs comes out bare, not as one of many reasons."""
        try:
            with refusals_in_one_line():
                super().instantiate_classes()
        except ValueError as error:
            reason: BaseException | None = error
            while reason is not None and not isinstance(reason, InputError):
                reason = reason.__cause__ or reason.__context__
            raise reason or error.__cause__ or error from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, progress and the handling of signals."""
        folder = Path(self.config.run_dir)
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        if config["logger"] is True:
            config["logger"] = loggers_of(folder)
        config["plugins"] = with_whole_checkpoints(config["plugins"])
        keys = [key for key in self.parser.callback_keys if self._is_wanted(key)]
        callbacks = [self._get(self.config_init, key) for key in keys]
        if self.config.seeds > 1:
            dirpath, evaluation = self.config.checkpoint.dirpath, self.config_init.evaluation
            callbacks = [SeedRuns(dirpath, evaluation)]
        resumed = self.config.ckpt_path
        update = updates_behind(Path(resumed)) if resumed else -1
        callbacks.append(KeepLogs(update))
        if self.config.seeds == 1:
            callbacks.append(DiagnosticReport())
        callbacks.append(Interruption(str(folder / "checkpoints")))
        if config["enable_progress_bar"] is not False:
            callbacks.append(UpdateProgress())
        with refusals_in_one_line(TypeError, ValueError):
            return self._instantiate_trainer(config, callbacks)

    def trained_module(self) -> OfflineAlgorithm | Replicas:
        """What is trained: the model, or one of its kind for each seed."""
        if "mc_return" in self.model.extras:
            self.datamodule.discount = self.model.discount
        extras = [*self.datamodule.extras, *self.model.extras]
        self.datamodule.extras = tuple(dict.fromkeys(extras))  # each once
        module: OfflineAlgorithm | Replicas = self.model
        if self.config.seeds > 1:
            first = self.config.seed_everything
            module = replicate(self.model, range(first, first + self.config.seeds))
            self.datamodule.replica_seeds = module.seeds
        module.compile_update = self.config.compile
        return module

    def _is_wanted(self, key: str) -> bool:
        return key not in DIAGNOSTICS or bool(self.config.diagnostics)


def main(args: Sequence[str]) -> Path:
    """Train, print what came out, and return the run's folder."""
    try:
        return train(FitCLI(args))
    finally:
        os.environ.pop(RUN_DIR, None)


def train(cli: FitCLI) -> Path:
    """Train what was parsed, print what came out, and return the run's folder."""
    folder = Path(cli.config.run_dir)
    product = largest_product(cli.model, cli.datamodule.batch_size)
    run(cli.trainer, cli.trained_module, cli.datamodule, folder, cli.config.ckpt_path, product)
    if cli.trainer.is_global_zero:
        _summarize(cli, folder)
    return folder


def _summarize(cli: FitCLI, folder: Path) -> None:
    """Print what came out, what the report says, and where it lies."""
    name, evaluation = type(cli.model).__name__, cli.config_init.evaluation
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SeedRuns):
            summaries = {seed: e.summary() for seed, e in callback.evaluations.items()}
            print_seeds(name, cli.datamodule, summaries, folder)
            return
    print_summary(name, cli.datamodule, evaluation.summary(), folder)
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, DiagnosticReport) and callback.path is not None:
            print(f"{callback.sentence}\nReport: {callback.path}")


def _packaged_config(args: Sequence[str], i: int) -> str:
    """Resolve ``-c iql/mujoco.yaml`` to the config that comes with the package, and check it."""
    if i == 0 or args[i - 1] not in ("-c", "--config"):
        return args[i]
    here = Path(__file__).parents[1]
    inside = [here / "configs", here.parent / "configs"]
    places = [Path(args[i]), *(root / args[i].removeprefix("configs/") for root in inside)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"There is no config file {args[i]}.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"Config file {path} is not YAML: {reason}.") from None
    if not isinstance(config, dict):
        raise InputError(f"Config file {path} must hold `key: value` lines, as `model: ...`.")
    return str(path)
