"""Training one reference model after the other, without a trace in the run that is to be monitored."""

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.measuring.loading import batch_size_of, cut, load_batches
from lightning_interactions.measuring.memory import data_as_found
from lightning_interactions.measuring.shadow import shadow_of
from lightning_interactions.references.folds import Plan
from lightning_interactions.references.fresh_copies import fresh_copy
from lightning_interactions.references.hold_out import GivenLoaders
from lightning_interactions.references.internals import PACKAGES, classes, deaf_logger, trainer_class
from lightning_interactions.references.loaders import loader_of_part
from lightning_interactions.references.saved_models import FittedModel, SavedModels
from lightning_interactions.references.settings import ReferenceTraining
from lightning_interactions.references.sharing import Sharing
from lightning_interactions.references.watching import (
    EpochProgress,
    Introduction,
    KeepBestWeights,
    SeenInputs,
    SetUpAlone,
)

__all__ = ["ReferenceTrainer", "accelerator", "introduce", "progress", "quiet"]

SAID_FOR_NOTHING = (
    "You defined a `validation_step` but have no `val_dataloader`",
    "The number of training batches",
    r"Seems like `optimizer\.step\(\)` has been overridden",
)
"""Beginnings of warnings in trainings of reference models, as regular expressions."""

SHOWN_AFTER = 3.0
"""Seconds after which progress is shown."""

INTRODUCED = 5
"""So many samples tell a task what a module's step does."""


@dataclass(frozen=True)
class ReferenceTrainer:
    """Trains freshly initialised copies of a model, each by its plan.

    Attributes:
        model: The model whose training will be monitored.
        task: Finds inputs and targets in a batch, and has the loss for early stopping.
        loader: The loader of all the data.
        datamodule: The data module whose hooks move batches, if there is one.
        training: How each model is trained.
        arguments: Arguments of the Trainers.
        in_folds: Whether each trains on a part of the data, so that it matters who has seen what.
        looks_at_content: Whether the content of inputs is taken down to tell who has seen them.
        saved: Where finished models are kept, if anywhere.
        run: The Trainer of the run that is monitored, if it has begun.
        called: What the models are called to the user.
    """

    model: LightningModule
    task: Task
    loader: Any
    datamodule: LightningDataModule | None
    training: ReferenceTraining
    arguments: dict[str, Any]
    in_folds: bool
    looks_at_content: bool
    saved: SavedModels | None
    run: Trainer | None
    called: str = "reference models"

    def fit(self, plans: Sequence[Plan]) -> list[FittedModel]:
        """Train one model by each plan, or take it from where finished models are kept.

        Processes of a run share the trainings out, each on one device, and have all models afterwards.

        Raises:
            MisconfigurationException: If the factory gives a module twice, or a parameter cannot be re-initialised.
        """
        made, fresh_ones = [self.model], list[LightningModule]()
        trained: dict[int, FittedModel] = {}
        sharing = Sharing(self.run)
        begins = self.run is not None and self.run.global_step == 0
        most, what = len(plans) * (self.arguments["max_epochs"] or 1), f"Training {self.called}"
        with sharing.together(), progress(most, self.run, what) as bar:
            for number, plan in enumerate(plans):
                with self._undisturbed(plan.seed):
                    fresh = fresh_copy(self.model, self.training.factory, begins=begins)
                    if any(fresh is other for other in made):
                        raise MisconfigurationException(
                            "reference models: expected a new module from every call of factory, got the same one again; make "
                            "it in the factory: lambda: YourModule(...)"
                        )
                    made.append(fresh)
                    fresh_ones.append(fresh)
                    if sharing.is_own(number):
                        trained[number] = self._saved(plan, fresh) or self._trained(plan, fresh, bar)
                # Most stop early.
                bar.update((number + 1) * bar.total // len(plans) - bar.n)
        owns = [trained.get(number) for number in range(len(plans))]
        handed = [None if own is None else (own.model.state_dict(), own.seen, own.losses, own.loss_before) for own in owns]
        found = [sharing.hand_round(number, own) for number, own in enumerate(handed)]
        with sharing.together():
            for number, plan in enumerate(plans):
                if number not in trained:
                    weights, *rest = found[number]
                    with self._undisturbed(plan.seed):
                        trained[number] = self._of_another_process(plan, fresh_ones[number], weights, rest)
        return [trained[number] for number in range(len(plans))]

    def run_once(self, model: LightningModule, watcher: Callback) -> None:
        """Set a model up as for a training, for a watcher that stops the Trainer before the first step."""
        # A least number of steps would keep it from stopping.
        trainer = self._trainer(model, callbacks=[watcher], min_epochs=None, min_steps=None)
        self._run(trainer, model, self.loader, None)
        model.cpu()

    def _of_another_process(self, plan: Plan, model: LightningModule, weights: dict[str, Any], rest: Any) -> FittedModel:
        """Set a model up as it was where it was trained, and give it the weights that it has there."""
        self.run_once(model, SetUpAlone())
        model.load_state_dict(weights)
        fitted = FittedModel(model, *rest)
        if self.saved is not None:
            self.saved.add(plan.seed, fitted)
        return replace(fitted, model=shadow_of(model).module)

    def _saved(self, plan: Plan, fresh: LightningModule) -> FittedModel | None:
        return None if self.saved is None else self.saved.take(plan.seed, fresh)

    def _trained(self, plan: Plan, model: LightningModule, bar: tqdm) -> FittedModel:
        most = len(plan.training) if self.in_folds and plan.training is not None else None
        batch_size = batch_size_of(self.loader) if isinstance(self.loader, DataLoader) else None
        sees = SeenInputs(self.task, batch_size, most, refuses=self.run is None)
        keeps = self._keeps_best(plan)
        watchers: list[Callback | None] = [sees if self.looks_at_content else None, keeps, EpochProgress(bar)]
        own = self.arguments.get("callbacks") or []
        own = copy.deepcopy(own if isinstance(own, list) else [own])
        trainer = self._trainer(model, callbacks=[*own, *(one for one in watchers if one is not None)])
        loader = self.loader if plan.training is None else loader_of_part(self.loader, plan.training)
        with without_callbacks_of_its_own(model):
            self._run(trainer, model, loader, self.training.val_dataloaders)
        model.cpu()
        seen = frozenset(sees.fingerprints)
        if keeps is not None:
            seen |= keeps.fingerprints if sees.fingerprints else frozenset()
            if keeps.best_weights is None:
                warnings.warn(
                    f"{self.called}: the loss of a model was never finite, so its last weights are kept; lower the learning "
                    "rate, or look at the data",
                    stacklevel=4,
                )
            else:
                model.load_state_dict(keeps.best_weights)
        told = ([], math.nan) if keeps is None else (keeps.losses, keeps.loss_before)
        fitted = FittedModel(model, seen, *told)
        if self.saved is not None:
            self.saved.add(plan.seed, fitted)
        # Without the losses and hidden states of its training, with which it could not be copied.
        return replace(fitted, model=shadow_of(model).module)

    def _trainer(self, model: LightningModule, **more: Any) -> Trainer:
        return trainer_class(model)(**{"logger": deaf_logger(model), **self.arguments, **more})

    def _keeps_best(self, plan: Plan) -> KeepBestWeights | None:
        if not plan.stopping or self.training.patience is None:
            return None
        return KeepBestWeights(loader_of_part(self.loader, plan.stopping, in_order=True), self.task, self.training.patience)

    def _run(self, trainer: Trainer, model: LightningModule, loader: Any, val_dataloaders: Any) -> None:
        """Train on a loader, and move its batches as the data module does, if there is one."""
        loader, val_dataloaders = with_workers_of_its_own(loader), with_workers_of_its_own(val_dataloaders)
        if self.datamodule is None:
            trainer.fit(model, loader, val_dataloaders)
            return
        attached = self.datamodule.trainer
        try:
            trainer.fit(model, datamodule=GivenLoaders(loader, val_dataloaders, inner=self.datamodule))
        finally:
            self.datamodule.trainer = attached

    @contextmanager
    def _undisturbed(self, seed: int) -> Iterator[None]:
        """Run the body with random states of its own, and without Lightning's notes."""
        with (
            preserve_random_state(accelerator(), seed),
            data_as_found(self.loader, self.training.val_dataloaders, self.datamodule),
            torch.enable_grad(),
            quiet(),
        ):
            yield


def with_workers_of_its_own(loaders: Any) -> Any:
    """Copy a loader, or those in a list or dict: a Trainer ends a loader's workers, and those of the run have to go on."""
    if isinstance(loaders, DataLoader):
        own = copy.copy(loaders)
        vars(own)["_iterator"] = None
        return own
    if isinstance(loaders, dict):
        return {name: with_workers_of_its_own(one) for name, one in loaders.items()}
    return [with_workers_of_its_own(one) for one in loaders] if type(loaders) in (list, tuple) else loaders


def progress(total: int | None, run: Trainer | None, what: str = "Training reference models", unit: str = "epoch") -> tqdm:
    """Make a progress bar that is shown when something takes more than some seconds, on a terminal or in a notebook.

    Args:
        total: How many units there are, at most; ``None`` if that is not known.
        run: The Trainer of the run that is monitored, if it has begun: where it shows no bar, there is none.
        what: What takes so long.
        unit: What is counted.
    """
    hidden = True if run is not None and (run.progress_bar_callback is None or not run.is_global_zero) else None
    return tqdm(total=total, desc=what, unit=unit, delay=SHOWN_AFTER, disable=hidden, leave=False)


@contextmanager
def without_callbacks_of_its_own(model: LightningModule) -> Iterator[None]:
    """Keep a module from bringing callbacks that stop its training or write files: here others decide when to stop."""
    make, refused = model.configure_callbacks, (*classes("EarlyStopping", "callbacks"), *classes("Checkpoint", "callbacks"))

    def others() -> list[Callback]:
        made = make()
        return [one for one in (made if isinstance(made, Sequence) else [made]) if not isinstance(one, refused)]

    vars(model)["configure_callbacks"] = others
    try:
        yield
    finally:
        del vars(model)["configure_callbacks"]


def introduce(
    task: Task,
    model: LightningModule,
    loader: Any,
    datamodule: LightningDataModule | None,
    pool: Sequence[int],
    training: ReferenceTraining,
) -> None:
    """Let a task that runs the module's own step see a few samples, before it is asked what it explains.

    It is the monitored model's step that is explained, also where a factory makes others.
    """
    arguments = training.trainer_arguments(stops=False)
    trainer = ReferenceTrainer(model, task, loader, datamodule, training, arguments, False, False, saved=None, run=None)
    # Far from each other: in sorted data neighbours have the same targets.
    some = pool[:: max(1, len(pool) // INTRODUCED)][:INTRODUCED]
    with trainer._undisturbed(training.seed):
        batches = cut(some, batch_size_of(loader) or 1)
        watcher = Introduction(task, load_batches(loader, batches), [len(batch) for batch in batches])
        trainer.run_once(shadow_of(model).module, watcher)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's notes on hardware and epochs for the run that the user looks at; warnings still come through.

    All but three: that there is a validation step and no validation loader is as it should be, nobody reads the logger, and
    schedulers that were copied with their optimizers, as those of Lightning's command line, miss a mark of the original.
    """
    levels = {logger: logger.level for logger in map(logging.getLogger, PACKAGES)}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in SAID_FOR_NOTHING:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def accelerator() -> torch.device:
    """Return the device type that a Trainer would choose."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
