"""Which reference model is trained on which part of the data."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_interactions.references.loaders import as_indices, draw_part

__all__ = ["Plan", "make_plans"]

STOPPING_FRACTION = 5
"""One in so many inputs is kept from the training, to find out when to stop."""

FEWEST_STOPPING_INPUTS = 10
"""A loss on fewer inputs says too little."""


@dataclass(frozen=True)
class Plan:
    """How one reference model is trained.

    Attributes:
        seed: Seed of its initialisation and training.
        training: Dataset indices that it trains on; ``None`` for all of a loader that cannot be indexed.
        stopping: Dataset indices on which its loss says when to stop; empty without early stopping.
    """

    seed: int
    training: Sequence[int] | None
    stopping: Sequence[int]


def make_plans(
    pool: Sequence[int] | None, num_models: int, folds: int | None, *, stops: bool, knows_loss: bool, seed: int
) -> list[Plan]:
    """Decide what each model trains and stops on.

    Args:
        pool: Dataset indices of all the data; ``None`` if it has none.
        num_models: Number of models, for each fold.
        folds: Number of parts for cross-fitting, or ``None``.
        stops: Whether a part is to be kept for early stopping; a warning says where that is not possible.
        knows_loss: Whether there is a loss that decides when to stop.
        seed: Seed of the folds and of the first model.

    Raises:
        MisconfigurationException: If there are fewer inputs than folds.
    """
    shares = _shares(None if pool is None else as_indices(pool), folds, seed)
    stops = stops and _can_stop(shares, knows_loss)
    plans = []
    for position in range(len(shares) * num_models):
        share = shares[position // num_models]
        if stops and share is not None:
            stopping, training = draw_part(share, len(share) // STOPPING_FRACTION, seed + position)
            plans.append(Plan(seed + position, training, stopping))
        else:
            plans.append(Plan(seed + position, share, as_indices([])))
    return plans


def _shares(pool: Sequence[int] | None, folds: int | None, seed: int) -> Sequence[Sequence[int] | None]:
    """List the data of each fold's models: all but that fold, or all if there are no folds."""
    if pool is None or folds is None:
        return [pool]
    if len(pool) < folds:
        raise MisconfigurationException(
            f"reference models: expected at least one input for each of {folds} folds, got {len(pool)}; use fewer folds"
        )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed), device="cpu").numpy()
    shares = []
    for fold in range(folds):
        is_kept = np.ones(len(pool), dtype=bool)
        is_kept[order[fold::folds]] = False
        shares.append(as_indices(np.asarray(pool)[is_kept]))
    return shares


def _can_stop(shares: Sequence[Sequence[int] | None], knows_loss: bool) -> bool:
    """Whether trainings can be stopped early; a warning says why not."""
    smallest = min(0 if share is None else len(share) for share in shares)
    if None in shares:
        reason = "the data has no indices; use a map-style dataset"
    elif smallest // STOPPING_FRACTION < FEWEST_STOPPING_INPUTS:
        reason = f"a fifth of {smallest} inputs is fewer than {FEWEST_STOPPING_INPUTS}; use more data"
    elif not knows_loss:
        reason = "the task has no loss; give it a loss(score, targets)"
    else:
        return True
    warnings.warn(
        f"reference models: no early stopping, because {reason}, or set training=ReferenceTraining(patience=None, "
        "max_epochs=...)",
        stacklevel=4,
    )
    return False
