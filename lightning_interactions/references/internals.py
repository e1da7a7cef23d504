"""What Lightning and torch keep under private names, or in two packages, and we need: all is here, each with a test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch.distributed
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader

from lightning_interactions.measuring.memory import data_as_found

__all__ = [
    "PACKAGES",
    "batch_hook_owner",
    "classes",
    "data_module_class",
    "deaf_logger",
    "default_store",
    "in_hook",
    "is_sequential",
    "share_hyperparameters",
    "steps_logged",
    "trainer_class",
    "training_loaders",
    "trains_elsewhere",
    "validation_set_up",
]

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Lightning is released under two names, with classes of its own under each."""


def classes(name: str, part: str = "") -> tuple[type[Any], ...]:
    """Return a class of Lightning of each of its packages that is loaded, for ``isinstance``.

    Args:
        name: Name of the class, such as ``"LightningModule"``.
        part: Where in the package it is, such as ``"strategies"``; at its top if left out.
    """
    loaded = [package for package in PACKAGES if package in sys.modules]
    return tuple(getattr(import_module(f"{package}.{part}" if part else package), name) for package in loaded)


def trainer_class(module: object) -> type[Trainer]:
    """Return the Trainer of the package of Lightning that a module is made of, which takes no other modules."""
    own: type[Trainer] = _package_of(module, "LightningModule").Trainer
    return own


def data_module_class(trainer: object) -> type[LightningDataModule]:
    """Return the data module of the package of Lightning that a Trainer belongs to."""
    own: type[LightningDataModule] = _package_of(trainer, "Trainer").LightningDataModule
    return own


def deaf_logger(module: object) -> Any:
    """Return a logger that takes everything and keeps nothing, for modules that log to ``self.logger`` themselves."""
    package = _package_of(module, "LightningModule")
    return import_module(f"{package.__name__}.loggers.logger").DummyLogger()


def _package_of(thing: object, kind: str) -> Any:
    """Find the package whose kind of object this is; the first one if it is of none."""
    loaded = [import_module(package) for package in PACKAGES if package in sys.modules]
    return next((package for package in loaded if isinstance(thing, getattr(package, kind))), loaded[0])


def batch_hook_owner(trainer: Trainer, hook: str) -> object:
    """Return the module or data module of which the Trainer calls a batch-transfer hook."""
    selector = trainer._data_connector._datahook_selector
    assert selector is not None  # It is there as soon as the Trainer has a module.
    return selector.get_instance(hook)


@contextmanager
def in_hook(module: LightningModule, hook: str) -> Iterator[None]:
    """Let a module know which of its hooks runs, as the Trainer does."""
    before = module._current_fx_name
    try:
        module._current_fx_name = hook
        yield
    finally:
        module._current_fx_name = before


def training_loaders(trainer: Trainer) -> CombinedLoader | None:
    """Return the loaders of training, with the number of batches of each that are used as limits."""
    return trainer.fit_loop._combined_loader


@contextmanager
def validation_set_up(trainer: Trainer) -> Iterator[CombinedLoader | None]:
    """Have the loaders of validation while the body runs, also where Lightning sets them up later.

    What is set up here early is forgotten again: where loaders are made at random, they are made when the run would.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    if loop._combined_loader is not None:
        yield loop._combined_loader
        return
    before = dict(vars(loop))
    try:
        with data_as_found(trainer.datamodule, trainer.lightning_module):
            trainer.validating = True
            try:
                loop.setup_data()
            finally:
                trainer.training = True
        yield loop._combined_loader
    finally:
        vars(loop).clear()
        vars(loop).update(before)


def is_sequential(loaders: CombinedLoader) -> bool:
    """Whether the batches of several loaders come one after the other, not together."""
    return loaders._mode == "sequential"


def steps_logged(trainer: Trainer) -> int:
    """Return the step at which the Trainer logs: optimizer steps that are taken together count once."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def trains_elsewhere(trainer: Trainer) -> bool:
    """Whether the Trainer's processes are made for a training and end with it, as with ``ddp_spawn``."""
    return isinstance(trainer.strategy.launcher, classes("_MultiProcessingLauncher", "strategies.launchers.multiprocessing"))


def default_store() -> Any:
    """Return the ``Store`` of a run's processes; looking into it does not time out as an operation of the group does."""
    return torch.distributed.distributed_c10d._get_default_store()


def share_hyperparameters(data_module: LightningDataModule, other: LightningDataModule) -> None:
    """Let loggers write a data module's hyperparameters if those of another one are to be written."""
    data_module._log_hyperparams = other._log_hyperparams
