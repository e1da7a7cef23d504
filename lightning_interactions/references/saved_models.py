"""Trained reference models on disk, each under a key of everything that decides its weights."""

import copy
import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.references.keys import describe

__all__ = ["ReferenceCache"]

FORMAT_VERSION = 1


class ReferenceCache:
    """Keeps each finished reference model in a file of its own.

    Args:
        folder: Where the files are; made if there is none.
        settings: Describes data and settings that all the models share; part of every key.
    """

    def __init__(self, folder: str | Path, settings: str) -> None:
        self.folder = Path(folder)
        self.settings = settings

    def key(self, *own: str) -> str:
        """Make a model's key from what describes it, the shared settings included: a SHA-256 digest."""
        return hashlib.sha256("\0".join((str(FORMAT_VERSION), self.settings, *own)).encode()).hexdigest()

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / f"reference-{key[:32]}.pt"

    def load(self, key: str, fresh: LightningModule) -> tuple[LightningModule, frozenset[str]] | None:
        """Read a trained model and the fingerprints of what it has seen.

        Args:
            key: The model's key.
            fresh: A freshly initialised module of its architecture; it stays as it is.

        Returns:
            ``None`` where there is no file, or, with a warning that says why, one that cannot be used.
        """
        path = self.path(key)
        if not path.exists():
            return None
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or state.get("key") != key:
                raise ValueError("it holds no reference model of this data, model and settings")
            weights, seen = state.get("state_dict"), state.get("seen")
            if not isinstance(weights, dict) or not isinstance(seen, list) or state.get("digest") != _digest(weights, seen):
                raise ValueError("its content is damaged")
            with preserve_random_state(torch.device("cpu"), seed=0):
                return _with_weights(fresh, weights), frozenset(seen)
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            warnings.warn(
                f"fit_reference_models: the cache file {path} is refused and its model trained again: {reason}", stacklevel=4
            )
            return None

    def save(self, key: str, model: LightningModule, seen: frozenset[str]) -> tuple[LightningModule, frozenset[str]]:
        """Write a trained model and the fingerprints of what it has seen, whole or not at all, and return both.

        A file that cannot be written costs a warning, not the model.
        """
        path = self.path(key)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
        weights, prints = dict(model.state_dict()), sorted(seen)
        state = {"key": key, "state_dict": weights, "seen": prints, "digest": _digest(weights, prints)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer makes a RuntimeError of a full disk.
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            warnings.warn(f"fit_reference_models: the cache file {path} cannot be written: {reason}", stacklevel=4)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        return model, seen


def _digest(weights: Mapping[str, Any], seen: list[str]) -> str:
    # torch.load does not notice flipped bits.
    parts = [f"{name} {describe(value)}" for name, value in weights.items() if isinstance(value, Tensor)]
    return hashlib.sha256("\n".join([*parts, *seen]).encode()).hexdigest()


def _with_weights(fresh: LightningModule, weights: dict[str, Any]) -> LightningModule:
    model = copy.deepcopy(fresh)
    if model.state_dict().keys() != weights.keys():
        # Layers may be made late; if these hooks want a Trainer, the weights do not fit and the model is trained again.
        with suppress(Exception):
            model.configure_model()
            model.setup("fit")
    model.load_state_dict(weights)
    return model
