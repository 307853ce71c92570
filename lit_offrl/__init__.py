"""Offline reinforcement learning on Lightning."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_offrl.checkpoint import load

__version__ = version("lit_offrl")
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # on demand: it needs torch, which takes seconds to import
        from lit_offrl.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
