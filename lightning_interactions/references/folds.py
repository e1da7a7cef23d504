"""Which reference model is trained on which part of the data."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule

from lightning_interactions.evidence.reference_models import votes_needed
from lightning_interactions.game.losses import Loss
from lightning_interactions.references.loaders import draw_part

__all__ = ["Plan", "check_settings", "find_loader", "make_plans"]

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
    training: list[int] | None
    stopping: list[int]


def check_settings(num_models: int, max_epochs: int | None, vote: str | int, folds: int | None, patience: int) -> None:
    """Refuse impossible numbers before any training.

    Raises:
        MisconfigurationException: If there are any.
    """
    if num_models < 1 or (max_epochs is not None and max_epochs < 1) or patience < 1:
        raise MisconfigurationException(
            "fit_reference_models: expected num_models, max_epochs and patience of at least 1, got "
            f"{num_models}, {max_epochs} and {patience}"
        )
    if folds is not None and folds < 2:
        raise MisconfigurationException(f"fit_reference_models: expected folds of at least 2, or none, got {folds}")
    try:
        votes_needed(vote, num_models)
    except ValueError as error:
        raise MisconfigurationException(f"fit_reference_models: {error}") from error


def find_loader(data: Any, folds: int | None) -> Any:
    """Find the loader of the references' data, and set its data module up.

    Raises:
        MisconfigurationException: If a data module has no such loader.
    """
    if not isinstance(data, LightningDataModule):
        return data
    make = getattr(data, "reference_dataloader" if folds is None else "train_dataloader", None)
    if make is None:
        name = type(data).__name__
        raise MisconfigurationException(
            f"fit_reference_models: expected a loader, or a data module with a reference_dataloader(), got {name} without one; "
            f"hold a part of its training data out with HoldOutReferences({name}(...)) from lightning_interactions.callbacks, "
            "or pass folds=2 for cross-fitting on all of it"
        )
    data.prepare_data()
    data.setup("fit")
    return make()


def make_plans(
    pool: list[int] | None, num_models: int, folds: int | None, early_stopping: bool, seed: int, loss: Loss | None
) -> list[Plan]:
    """Decide what each model trains and stops on.

    Args:
        pool: Dataset indices of all the data; ``None`` if it has none.
        num_models: Number of models, for each fold.
        folds: Number of parts for cross-fitting, or ``None``.
        early_stopping: Whether a part is to be kept for early stopping; a warning says where that is not possible.
        seed: Seed of the folds and of the first model.
        loss: What decides when to stop; ``None`` if it is not known.

    Raises:
        MisconfigurationException: If there are fewer inputs than folds.
    """
    if pool is None:
        shares: list[list[int] | None] = [None]
    elif folds is None:
        shares = [pool]
    else:
        left_out = _folds(pool, folds, seed)
        shares = [[index for index in pool if index not in part] for part in left_out]
    smallest = min(0 if share is None else len(share) for share in shares)
    num_stopping = smallest // STOPPING_FRACTION
    reason = ""
    if pool is None:
        reason = "the data has no indices; use a map-style dataset"
    elif num_stopping < FEWEST_STOPPING_INPUTS:
        reason = f"a fifth of {smallest} inputs is fewer than {FEWEST_STOPPING_INPUTS}; use more data"
    elif loss is None:
        reason = "no loss is known for this score; pass loss=, a function of scores and targets"
    if early_stopping and reason:
        warnings.warn(
            f"fit_reference_models: no early stopping, because {reason}, or pass early_stopping=False and max_epochs",
            stacklevel=3,
        )
        early_stopping = False
    plans = []
    for position in range(len(shares) * num_models):
        share = shares[position // num_models]
        if early_stopping and share is not None:
            stopping, training = draw_part(share, len(share) // STOPPING_FRACTION, seed + position)
            plans.append(Plan(seed + position, training, stopping))
        else:
            plans.append(Plan(seed + position, share, []))
    return plans


def _folds(pool: Sequence[int], folds: int, seed: int) -> list[frozenset[int]]:
    if len(pool) < folds:
        raise MisconfigurationException(
            f"fit_reference_models: expected at least one input for each of {folds} folds, got {len(pool)}; use fewer folds"
        )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed), device="cpu").tolist()
    return [frozenset(pool[position] for position in order[fold::folds]) for fold in range(folds)]
