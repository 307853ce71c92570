"""The command line, ``lit-offrl VERB ...``: the outermost layer, which alone knows the plug-ins."""

import importlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from lit_offrl import __version__
from lit_offrl.errors import InputError, RunInterrupted

VERBS = ("inspect", "fit", "finetune", "evaluate", "monitor", "collect", "export")
USAGE = """\
usage: lit-offrl VERB [options]

  inspect   say what a data set holds, what is wrong with it, and what to try on it:
            lit-offrl inspect pendulum/mixed
  fit       train an algorithm on a data set:
            lit-offrl fit -c configs/iql/mujoco.yaml --data.dataset_id mujoco/hopper/medium-v0
  finetune  go on with a trained policy in its environment, and measure the dip:
            lit-offrl finetune runs/pendulum-mixed/iql/seed-0/checkpoints/best.ckpt
  evaluate  say from the log alone what trained policies would return, and whether to trust that:
            lit-offrl evaluate runs/pendulum-mixed/iql/seed-0/checkpoints/best.ckpt
  monitor   say whether deployed episodes still match the log and the prediction, or what changed:
            lit-offrl monitor runs/pendulum-mixed/iql/seed-0/checkpoints/best.ckpt DEPLOYED_SET
  collect   record policies in an environment as a Minari set:
            lit-offrl collect --env Pendulum-v1 --steps 10000 --dataset_id my/random-v0
  export    write a policy that runs without this library, with its model card:
            lit-offrl export runs/pendulum-mixed/iql/seed-0/checkpoints/best.ckpt

`lit-offrl VERB --help` lists the options of a verb, `lit-offrl --version` the version."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb; exit with 2 and one line on wrong input, with 128 + n on signal n."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    if arguments[0] == "--version":
        print(f"lit-offrl {__version__}")
        return
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            raise InputError(f"There is no verb `{verb}`: choose from {', '.join(VERBS)}.")
        # imported on demand: torch and Lightning take seconds
        module = importlib.import_module(f"lit_offrl.cli.{verb}")
        _quiet()
        module.main(rest)
    except InputError as error:
        _exit(f"lit-offrl: {error}", 2)
    except RunInterrupted as stop:
        folder = stop.checkpoint.parent.parent
        command = ["lit-offrl", verb, *_without(rest, "--ckpt_path", "--run_dir")]
        command += ["--run_dir", str(folder), "--ckpt_path", "last"]
        _exit(
            f"Interrupted after update {stop.update}. Resume with:\n  {shlex.join(command)}",
            128 + stop.signum,
        )
    except KeyboardInterrupt as stop:
        said = str(stop) or "interrupted; nothing was saved since the last checkpoint."
        _exit(f"lit-offrl: {said}", 130)
    except OSError as error:
        _exit(f"lit-offrl: {error}. Checkpoints written before are whole.", 1)


def _exit(message: str, code: int) -> None:
    """Say it once per machine, where several processes have come to the same end."""
    local_rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    if local_rank == "0" or code == 1:
        print(message, file=sys.stderr)
    sys.exit(code)


def _quiet() -> None:
    """Silence what Lightning says about hardware it has not and workers we do not want."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.basicConfig(format="lit-offrl: %(message)s")
    logging.getLogger("lit_offrl.compiled").setLevel(logging.INFO)  # it keeps people waiting
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def _without(args: Sequence[str], *options: str) -> list[str]:
    """Drop options and their values from a command."""
    kept: list[str] = []
    skip = False
    for arg in args:
        if skip or arg in options:
            skip = not skip
        elif not arg.startswith(tuple(f"{option}=" for option in options)):
            kept.append(arg)
    return kept
