"""``lit-offrl fit``: train an algorithm on a data set."""

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import lit_offrl.algorithms
from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.cli.summary import print_summary
from lit_offrl.data import OfflineDataModule
from lit_offrl.errors import InputError
from lit_offrl_callbacks.best_and_last import BestAndLast
from lit_offrl_callbacks.interruption import Interruption
from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from lit_offrl_callbacks.progress import UpdateProgress

RUN_DIR = "LIT_OFFRL_RUN_DIR"


class OneLineParser(LightningArgumentParser):
    """Parser that says in one line what is wrong with the arguments, and exits with 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the innermost reason of jsonargparse's nested message."""
        raise InputError(_innermost(message))


class RunFolderConfig(SaveConfigCallback):
    """Saves the whole configuration as ``config.yaml`` in the run's folder."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        super().__init__(parser, config, overwrite=True, save_to_log_dir=False, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file."""
        path = Path(self.config.run_dir) / "config.yaml"
        self.parser.save(self.config, path, overwrite=True)


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
            parser_kwargs={"prog": "lit-offrl fit", "allow_abbrev": False},
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
            help="Checkpoint to resume from; `last` takes the run folder's latest.",
        )
        parser.add_lightning_class_args(OnlineEvaluation, "evaluation")
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        for name in ("obs_dim", "action_dim"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse this verb's arguments."""
        self.config = parser.parse_args(self._arguments)

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder and put everything that is written into it."""
        folder = _run_folder(self.config)
        self.config.run_dir = str(folder)
        if self.config.ckpt_path == "last":
            self.config.ckpt_path = str(folder / "checkpoints" / "last.ckpt")
        if self.config.ckpt_path is not None and not Path(self.config.ckpt_path).is_file():
            raise InputError(f"There is no checkpoint {self.config.ckpt_path} to resume from.")
        self.config.trainer.default_root_dir = str(folder)
        self.config.checkpoint.dirpath = str(folder / "checkpoints")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, progress and the handling of signals."""
        folder = Path(self.config.run_dir)
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        if config["logger"] is True:
            config["logger"] = [
                TensorBoardLogger(folder, name="tensorboard", version=""),
                CSVLogger(folder, name="csv", version=""),
            ]
        callbacks = [self._get(self.config_init, key) for key in self.parser.callback_keys]
        callbacks.append(Interruption(str(folder / "checkpoints")))
        if config["enable_progress_bar"] is not False:
            callbacks.append(UpdateProgress())
        return self._instantiate_trainer(config, callbacks)


def main(args: Sequence[str]) -> Path:
    """Train, print what came out, and return the run's folder."""
    cli = FitCLI(args)
    folder = Path(cli.config.run_dir)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    _make_writable(folder)
    try:
        cli.trainer.fit(
            cli.model, cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True
        )
    except BaseException:
        if missing and not any(folder.glob("checkpoints/*")):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others may have written there
                for parent in missing[1:]:
                    parent.rmdir()
        raise
    finally:
        os.environ.pop(RUN_DIR, None)
    if cli.trainer.is_global_zero:
        evaluation: OnlineEvaluation = cli.config_init.evaluation
        print_summary(type(cli.model).__name__, cli.datamodule, evaluation.summary(), folder)
    return folder


def _run_folder(config: Namespace) -> Path:
    """Folder of this run: the one asked for, else the next free one under ``runs``."""
    if named := config.run_dir or os.environ.get(RUN_DIR):
        return Path(named)
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ:
        raise InputError("With several processes, name their common folder with `--run_dir`.")
    dataset = str(config.data.dataset_id).removesuffix(".hdf5").strip("/.").replace("/", "-")
    algorithm = str(config.model.class_path).rpartition(".")[2].lower()
    base = Path("runs") / dataset / algorithm / f"seed-{config.seed_everything}"
    taken = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
    free = next(i for i, folder in enumerate(taken) if not folder.exists())
    folder = taken[max(free - 1, 0) if config.ckpt_path == "last" else free]
    os.environ[RUN_DIR] = str(folder)  # for the processes that Lightning starts
    return folder


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / ".writable").touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"Cannot write to the run folder {folder} ({error.strerror}): give another with "
            "`--run_dir`."
        ) from error


def _packaged_config(args: Sequence[str], i: int) -> str:
    """Resolve ``-c iql/mujoco.yaml`` to the config that comes with the package."""
    if i == 0 or args[i - 1] not in ("-c", "--config") or Path(args[i]).exists():
        return args[i]
    here = Path(__file__).parents[1]
    for root in (here / "configs", here.parent / "configs"):
        if (path := root / args[i].removeprefix("configs/")).is_file():
            return str(path)
    raise InputError(f"There is no config file {args[i]}.")


def _innermost(message: str) -> str:
    """One line out of jsonargparse's tree of reasons: the option and what is wrong with it."""
    text = " ".join(message.replace("<class '", "").replace("'>", "").split())
    if unknown := re.search(r"(?:Option|Key) '([^']+)' is not accepted", text):
        return f"There is no option `{unknown[1]}`: `--help` and `--model.help NAME` list them."
    if unknown := re.search(r"Expected a dot import path string: (\S+)", text):
        names = ", ".join(n for n in lit_offrl.algorithms.__all__ if n != "OfflineAlgorithm")
        return f"There is no algorithm `{unknown[1]}`: choose from {names}."
    # a message of this function, wrapped in the reasons of the options around it
    if nested := re.findall(
        r"(?:There is no|Option `[\w.]+`:) .*?(?= - |$| Expected a None)", text
    ):
        return str(nested[-1]).removesuffix(" -")
    key, _, reason = text.rpartition('Parser key "')[2].partition('": ')
    return f"Option `{key}`: {reason.split(' Given value')[0]}" if reason else text
