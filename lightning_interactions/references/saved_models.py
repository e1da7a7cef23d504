"""A file of finished reference models, from which a fit that was ended goes on."""

import copy
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_only

from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.records.files import UnreadableError, load_safely

__all__ = ["FittedModel", "SavedModels"]

FORMAT_VERSION = 3


@dataclass(frozen=True)
class FittedModel:
    """A reference model that was trained.

    Attributes:
        model: The model.
        seen: Fingerprints of all inputs that it was trained or stopped on; none where their content does not tell.
        losses: Its mean loss on inputs kept from the training, after each epoch; empty without early stopping.
        loss_before: The same before the training; NaN without early stopping.
    """

    model: LightningModule
    seen: frozenset[str]
    losses: list[float]
    loss_before: float


class SavedModels:
    """Keeps every finished reference model of a fit in one file, which is rewritten whole or not at all.

    Args:
        path: The file; it need not be there yet.
        settings: What decides on the models, in primitives, by the name under which the user knows it.

    Raises:
        MisconfigurationException: If the file cannot be used, or was written with other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings = dict(settings)
        self._finished: dict[int, dict[str, Any]] = self._read() if self.path.exists() else {}

    def __len__(self) -> int:
        return len(self._finished)

    def take(self, seed: int, fresh: LightningModule) -> FittedModel | None:
        """Return the finished model of a seed; ``None`` if there is none.

        Args:
            seed: The seed of the model's plan.
            fresh: A freshly initialised module of its architecture; it stays as it is.

        Raises:
            MisconfigurationException: If the weights do not fit the module.
        """
        saved = self._finished.get(seed)
        if saved is None:
            return None
        try:
            with preserve_random_state(torch.device("cpu"), seed=0):
                model = _with_weights(fresh, saved["weights"])
            return FittedModel(model, frozenset(saved["seen"]), list(saved["losses"]), saved["loss_before"])
        except RuntimeError as error:
            raise self._refusal(f"its weights do not fit {type(fresh).__name__}: {error}") from error

    def add(self, seed: int, fitted: FittedModel) -> None:
        """Keep a finished model; a file that cannot be written costs a warning, not the model."""
        self._finished[seed] = {
            "weights": dict(fitted.model.state_dict()),
            "seen": sorted(fitted.seen),
            "losses": fitted.losses,
            "loss_before": fitted.loss_before,
        }
        self._write()

    @rank_zero_only
    def _write(self) -> None:
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.unfinished")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save({"version": FORMAT_VERSION, "settings": self.settings, "models": self._finished}, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch's writer makes a RuntimeError of a full disk.
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            warnings.warn(f"reference models: {self.path} cannot be written, training goes on: {reason}", stacklevel=2)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def _read(self) -> dict[int, dict[str, Any]]:
        try:
            state = load_safely(self.path, whole=True)  # It is written anew while they are kept.
        except (UnreadableError, OSError) as error:
            raise self._refusal("it is damaged, or no file of finished reference models") from error
        if not isinstance(state, dict) or not {"version", "settings", "models"} <= state.keys():
            raise self._refusal("it is no file of finished reference models")
        if state["version"] != FORMAT_VERSION:
            raise self._refusal(f"expected version {FORMAT_VERSION} of its format, got {state['version']}")
        for name, value in self.settings.items():
            made_with = state["settings"].get(name)
            if made_with != value:
                raise self._refusal(f"it was made with {name}={made_with}, and {name}={value} is asked for now")
        models: dict[int, dict[str, Any]] = state["models"]
        return models

    def _refusal(self, reason: str) -> MisconfigurationException:
        return MisconfigurationException(
            f"reference models: cannot go on from resume_from={self.path}: {reason}; delete the file, or name another one"
        )


def _with_weights(fresh: LightningModule, weights: dict[str, Any]) -> LightningModule:
    model = copy.deepcopy(fresh)
    if model.state_dict().keys() != weights.keys():
        # Layers may be made late; if these hooks want a Trainer, the weights do not fit.
        with suppress(Exception):
            model.configure_model()
            model.setup("fit")
    model.load_state_dict(weights)
    return model
