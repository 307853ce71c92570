"""The errors that the library raises on purpose."""

import signal
from pathlib import Path


class InputError(ValueError):
    """Wrong input by the user.

    The message is one line: what is wrong, where, and what to do. The command line prints it
    and exits with code 2.
    """


class EnvironmentFailed(InputError):  # noqa: N818 - the environment erred, not we
    """An environment raised, hung, or gave numbers that are not finite."""


class NotApplicableError(RuntimeError):
    """A question the object cannot answer, such as the density of a deterministic policy."""


class RunInterrupted(Exception):  # noqa: N818 - nothing went wrong
    """The run stopped on a signal, after writing ``checkpoint``.

    Args:
        signum: The signal.
        update: Number of updates done.
        checkpoint: Where to go on from.
    """

    def __init__(self, signum: int, update: int, checkpoint: Path) -> None:
        super().__init__(f"{signal.Signals(signum).name} after update {update}")
        self.signum, self.update, self.checkpoint = signum, update, checkpoint
