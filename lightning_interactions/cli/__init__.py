"""The commands ``lightning-interactions …``."""

from lightning_interactions.cli.main import main

__all__ = ["main"]
