"""How long a Trainer's fit will be, as far as its limits and its loader tell."""

import math
from collections.abc import Sized
from typing import Any

from lightning.pytorch import Trainer

from lightning_interactions.measuring.schedule import FitLength
from lightning_interactions.references.internals import training_loaders

__all__ = ["fit_length"]


def fit_length(trainer: Trainer) -> FitLength:
    """Find out what is known of the length of a fit that has begun; the same on every process, and after a resume.

    Batches of accumulated gradients are one optimizer step, as are the steps of several optimizers in one batch: where each is
    counted by Lightning, there will be more steps than said here.

    Args:
        trainer: A Trainer whose loaders are set up.
    """
    batches = trainer.num_training_batches
    bounded = not math.isinf(batches)
    return FitLength.of_limits(
        epochs=_limit(trainer.max_epochs),
        steps=_limit(trainer.max_steps),
        steps_per_epoch=math.ceil(batches / trainer.accumulate_grad_batches) if bounded else None,
        samples_per_epoch=_samples(trainer, int(batches)) if bounded else None,
    )


def _limit(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


def _samples(trainer: Trainer, batches: int) -> int | None:
    """Count the samples of an epoch by the loader with the most batches of known size; ``None`` if there is none."""
    loaders = training_loaders(trainer)
    counts = [_samples_of(loader, batches * trainer.world_size) for loader in (() if loaders is None else loaders.flattened)]
    return max((count for count in counts if count is not None), default=None)


def _samples_of(loader: Any, batches: int) -> int | None:
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(size, int):
        return None
    sampler = getattr(loader, "sampler", None)
    # A last batch may be smaller than the others.
    most = len(sampler) if isinstance(sampler, Sized) else batches * size
    return min(batches * size, most)
