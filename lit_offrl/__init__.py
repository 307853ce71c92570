"""Offline reinforcement learning on Lightning."""

from importlib.metadata import version

__version__ = version("lit_offrl")
