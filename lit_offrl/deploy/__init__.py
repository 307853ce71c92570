"""A policy that runs without this library: graphs, and the card that says what it is."""

from lit_offrl.deploy.exporting import export_policy

__all__ = ["export_policy"]
