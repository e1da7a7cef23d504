"""What is refused before a run is measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch.nn.parameter import UninitializedParameter

from lightning_interactions.game.steps import FirstBatchError
from lightning_interactions.records import History
from lightning_interactions.references.internals import classes

__all__ = ["check_kinds", "check_names", "check_number_of_batches", "check_same_settings", "check_shapes", "check_strategy"]

SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
"""Strategies under which no process has the whole model."""


def check_kinds(**settings: tuple[object, type]) -> None:
    """Refuse what is plugged in where something else belongs.

    Args:
        settings: By its name what was given, and what it has to be if it is not left out.

    Raises:
        TypeError: If one is something else.
    """
    for name, (given, kind) in settings.items():
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"InteractionMonitor: expected {name} to be a {kind.__name__}, or left out, got {given!r}")


def check_names(names: Sequence[str | None]) -> None:
    """Refuse monitors of one Trainer whose names are not told apart.

    Raises:
        MisconfigurationException: If two have the same.
    """
    if len(names) != len(set(names)):
        raise MisconfigurationException(
            f"InteractionMonitor: several monitors need different names, got {names}; pass name= to each"
        )


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies under which no process has the whole model.

    Raises:
        MisconfigurationException: If the Trainer's is such a one.
    """
    sharding = tuple(kind for name in SHARDING for kind in classes(name, "strategies"))
    if isinstance(trainer.strategy, sharding):
        raise MisconfigurationException(
            f"InteractionMonitor: {type(trainer.strategy).__name__} shards the model, which is not supported; "
            "measure on one device or with DDP"
        )


def check_number_of_batches(trainer: Trainer) -> None:
    """Refuse processes that would not meet at the end of an epoch, where they would wait for each other for ever.

    Raises:
        MisconfigurationException: If they have different numbers of batches.
    """
    if trainer.world_size == 1:
        return
    numbers: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(numbers, trainer.num_training_batches)
    if len(set(numbers)) > 1:
        raise MisconfigurationException(
            f"InteractionMonitor: expected as many training batches in every process, got {numbers}; use a "
            "DistributedSampler, or Trainer(limit_train_batches=) with the smallest of these numbers"
        )


def check_same_settings(history: History, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose measurements were made in another way.

    Args:
        history: The measurements so far.
        settings: How the next ones will be made, as far as that is known.

    Raises:
        MisconfigurationException: If they cannot be compared.
    """
    different = history.different_settings({**history.settings, **settings}) if history else []
    if different:
        raise MisconfigurationException(
            "InteractionMonitor: expected the settings of the run that is gone on with, got others, whose measurements "
            f"cannot be compared: {'; '.join(different)}; go on with the old settings, or begin a new run"
        )


def check_shapes(model: LightningModule) -> None:
    """Refuse to measure a lazy module before its first step.

    Raises:
        FirstBatchError: If a parameter has no shape yet.
    """
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise FirstBatchError(f"{type(model).__name__} has parameters without a shape, which its first batch tells")
