"""One file a run, so that an interrupted command goes on where it stopped."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["read", "write"]


def write(path: Path, key: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a file that is whole or not there, and loads with ``weights_only=True``.

    Args:
        path: Its folder is made if there is none.
        key: What the run is of, in primitives.
        state: What is kept of it, in primitives and tensors.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({"key": dict(key), "state": dict(state)}, unfinished)
    unfinished.replace(path)


def read(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the state; ``None`` if there is no file, or one of another key."""
    if not path.exists():
        return None
    saved = torch.load(path, weights_only=True)
    return saved["state"] if saved.get("key") == dict(key) else None
