"""Fitting one reference model after the other."""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_interactions.game.evaluation import Forward
from lightning_interactions.game.losses import Loss
from lightning_interactions.game.scores import Score
from lightning_interactions.measuring.generators import preserve_generators
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.measuring.probes import Unpack
from lightning_interactions.references.folds import Plan
from lightning_interactions.references.fresh_copies import fresh_copy
from lightning_interactions.references.hold_out import DataPart, itself
from lightning_interactions.references.keys import describe, describe_module
from lightning_interactions.references.loaders import loader_of_part
from lightning_interactions.references.saved_models import ReferenceCache
from lightning_interactions.references.watching import KeepBestWeights, ScoreInputs, SeenInputs

__all__ = ["Fitter", "accelerator"]


@dataclass(frozen=True)
class Fitter:
    """Trains fresh copies of a model, each by its plan.

    Attributes:
        model: The model whose training will be monitored.
        factory: Makes a freshly initialised module, if the user has one.
        data: The user's data: a loader or a data module.
        loader: The loader of all of it.
        val_dataloaders: Data for the module's validation step.
        settings: Arguments of the Trainer.
        callbacks: The user's callbacks.
        unpack: Finds ``(inputs, targets)`` in a batch.
        forward: Gets outputs from the module and inputs.
        score: The score of outputs.
        loss: The loss of scores, for early stopping.
        patience: Epochs without a smaller loss before a training stops.
        repeatable: Whether every sample must be the same whenever it is loaded.
        cache: Where finished models are kept, if anywhere.
    """

    model: LightningModule
    factory: Callable[[], LightningModule] | None
    data: Any
    loader: Any
    val_dataloaders: Any
    settings: dict[str, Any]
    callbacks: list[Any]
    unpack: Unpack
    forward: Forward
    score: Score
    loss: Loss | None
    patience: int
    repeatable: bool
    cache: ReferenceCache | None

    def fit(self, plans: Sequence[Plan]) -> tuple[list[LightningModule], list[frozenset[str]]]:
        """Train one model by each plan, or take it from the cache.

        Returns:
            The models, and fingerprints of all inputs that each was trained or stopped on.
        """
        models: list[LightningModule] = []
        seen_by_each: list[frozenset[str]] = []
        for plan in plans:
            with self._undisturbed(plan.seed):
                fresh = fresh_copy(self.model, self.factory)
                if any(fresh is other for other in (self.model, *models)):
                    raise MisconfigurationException(
                        "fit_reference_models: expected a new module from every call of factory, got the same one again; make "
                        "it in the factory: lambda: YourModule(...)"
                    )
                if self.cache is None:
                    reference, seen = self._train(fresh, plan)
                else:
                    key = self.cache.key(describe_module(fresh), describe([plan.seed, plan.training, plan.stopping]))
                    reference, seen = self.cache.load(key, fresh) or self.cache.save(key, *self._train(fresh, plan))
            models.append(reference)
            seen_by_each.append(seen)
        return models, seen_by_each

    def scores(self, model: LightningModule, indices: Sequence[int], score: Score) -> Tensor:
        """Score a trained model on samples of the data, in the order of their indices: ``[samples]``."""
        watcher = ScoreInputs(loader_of_part(self.loader, indices, in_order=True), self.unpack, self.forward, score)
        with self._undisturbed(seed=0):
            trainer = Trainer(**{**self.settings, "min_epochs": None, "min_steps": None}, callbacks=[watcher])
            _fit(trainer, model, self.data, self.loader, None)
        model.cpu()
        return watcher.scores

    def _train(self, fresh: LightningModule, plan: Plan) -> tuple[LightningModule, frozenset[str]]:
        most = len(plan.training) if self.repeatable and plan.training is not None else math.inf
        watchers: list[Any] = [SeenInputs(self.unpack, most)]
        if plan.stopping and self.loss is not None:
            kept = loader_of_part(self.loader, plan.stopping, in_order=True)
            watchers.append(KeepBestWeights(kept, self.unpack, self.forward, self.score, self.loss, self.patience))
        trainer = Trainer(**self.settings, callbacks=[*copy.deepcopy(self.callbacks), *watchers])
        part = self.loader if plan.training is None else loader_of_part(self.loader, plan.training)
        _fit(trainer, fresh, self.data, part, self.val_dataloaders)
        return _finish(fresh, watchers)

    @contextmanager
    def _undisturbed(self, seed: int) -> Iterator[None]:
        with (
            preserve_random_state(accelerator(), seed),
            preserve_generators(self.loader, self.val_dataloaders),
            _quiet_trainer(),
        ):
            yield


def _fit(trainer: Trainer, fresh: LightningModule, data: Any, loader: Any, val_dataloaders: Any) -> None:
    """Train on a loader, and move its batches as its data module does, if there is one."""
    if not isinstance(data, LightningDataModule):
        trainer.fit(fresh, loader, val_dataloaders)
        return
    attached, part = data.trainer, DataPart(data)
    part.train_dataloader = partial(itself, loader)  # type: ignore[method-assign]
    if val_dataloaders is not None:
        part.val_dataloader = partial(itself, val_dataloaders)  # type: ignore[method-assign]
    try:
        trainer.fit(fresh, datamodule=part)
    finally:
        data.trainer = attached


def _finish(fresh: LightningModule, watchers: Sequence[Any]) -> tuple[LightningModule, frozenset[str]]:
    """Put the best weights in, and collect what the model has seen."""
    fresh = fresh.cpu()
    for watcher in watchers:
        if isinstance(watcher, KeepBestWeights):
            if watcher.best_weights is None:
                warnings.warn(
                    "fit_reference_models: the loss of a reference model was never finite, so its last weights are kept; lower "
                    "the learning rate, or look at the data",
                    stacklevel=4,
                )
            else:
                fresh.load_state_dict(watcher.best_weights)
    return fresh, frozenset[str]().union(*(watcher.fingerprints for watcher in watchers))


@contextmanager
def _quiet_trainer() -> Iterator[None]:
    """Keep Lightning's notes on hardware and epochs for the run that the user looks at; warnings still come through.

    All but one: that there is a validation step and no validation loader is as it should be.
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
            yield
    finally:
        logger.setLevel(level)


def accelerator() -> torch.device:
    """Return the device type that a Trainer would choose."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
