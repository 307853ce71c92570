"""What the verbs share: a parser that complains in one line, and checks of some options."""

import re
from pathlib import Path
from typing import NoReturn

import torch
from lightning.pytorch.cli import LightningArgumentParser

import lit_offrl.algorithms
from lit_offrl.errors import InputError
from lit_offrl.ranges import within


class OneLineParser(LightningArgumentParser):
    """Parser that says in one line what is wrong with the arguments, and exits with 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the innermost reason of jsonargparse's nested message."""
        raise InputError(_innermost(message))


def make_writable(folder: Path, option: str) -> None:
    """Make a folder if it is missing, and see that files can be written there.

    Args:
        folder: The folder.
        option: Option that names another.

    Raises:
        InputError: If it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / ".writable").touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"Cannot write to the folder {folder} ({error.strerror}): give another with `{option}`."
        ) from error


def use_threads(threads: int | None) -> None:
    """Let PyTorch use so many CPU threads; None leaves it as it is.

    Raises:
        InputError: If there are fewer than 1.
    """
    if threads is not None:
        within("[1, inf)", **{"--threads": threads})
        torch.set_num_threads(threads)


def check_seed(option: str, seed: int, count: int = 1) -> None:
    """Refuse a seed that no generator takes, or whose ``count - 1`` next ones none takes."""
    within(f"[0, {2**32 - count}]", **{option: seed})


def unknown_algorithm(name: str) -> str:
    """What to say of an algorithm that there is not."""
    names = ", ".join(n for n in lit_offrl.algorithms.__all__ if n != "OfflineAlgorithm")
    return f"There is no algorithm `{name}`: choose from {names}."


def _innermost(message: str) -> str:
    """One line out of jsonargparse's tree of reasons: the option and what is wrong with it."""
    text = " ".join(message.replace("<class '", "").replace("'>", "").split())
    if unknown := re.search(r"(?:Option|Key) '([^']+)' is not accepted", text):
        return f"There is no option `{unknown[1]}`: `--help` and `--model.help NAME` list them."
    if unknown := re.search(r'Parser key "([^"]+)": .*dot import path string: (\S+)', text):
        key, name = unknown.groups()
        if key == "model":
            return unknown_algorithm(name)
        return f"Option `{key}`: there is no class `{name}`; give its import path, as `a.b.C`."
    # a message of this function, wrapped in the reasons of the options around it
    if nested := re.findall(
        r"(?:There is no|Option `[\w.]+`:) .*?(?= - |$| Expected a None)", text
    ):
        return str(nested[-1]).removesuffix(" -")
    key, _, reason = text.rpartition('Parser key "')[2].partition('": ')
    return f"Option `{key}`: {reason.split(' Given value')[0]}" if reason else text
