"""Quiet Trainers, and the warnings that tiny set-ups give."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

TINY_SET_UP = [
    # The data are a few rows in memory: workers would only take time.
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    # The tests run on the CPU whatever else the machine has.
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    # Lightning 2.6 with torch 2.13; Lightning hides it itself, but not within pytest.warns.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def quiet_trainer(root: Path, **options: Any) -> Trainer:
    """Make a Trainer on the CPU that writes nothing but what the test asks for."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": root,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**{**settings, **options})
