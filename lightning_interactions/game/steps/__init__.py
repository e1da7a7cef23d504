"""The module's own step as the game: interception of its loss, and a stage on which it may run."""

from lightning_interactions.game.steps.own_step import FirstBatchError, IgnoredError, OwnStep, disagreement
from lightning_interactions.game.steps.reading import is_about_dtypes
from lightning_interactions.game.steps.stage import on_stage

__all__ = ["FirstBatchError", "IgnoredError", "OwnStep", "disagreement", "is_about_dtypes", "on_stage"]
