"""Tasks by their public name; see :mod:`lightning_interactions.game.tasks` and :mod:`lightning_interactions.game.steps`."""

from lightning_interactions.game.steps import OwnStep
from lightning_interactions.game.tasks import (
    BinaryClassification,
    Classification,
    MultiLabel,
    Regression,
    SoftClassification,
    Task,
    TokenClassification,
)

__all__ = [
    "BinaryClassification",
    "Classification",
    "MultiLabel",
    "OwnStep",
    "Regression",
    "SoftClassification",
    "Task",
    "TokenClassification",
]
