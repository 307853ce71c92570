"""The two errors that the library raises on purpose."""


class InputError(ValueError):
    """Wrong input by the user.

    The message is one line: what is wrong, where, and what to do. The command line prints it
    and exits with code 2.
    """


class NotApplicableError(RuntimeError):
    """A question the object cannot answer, such as the density of a deterministic policy."""
