"""Tasks: where a batch has its inputs and targets, how the model runs on them, what is explained and what is minimised."""

from lightning_interactions.game.tasks import BinaryClassification, Classification, MultiLabel, Regression, Task

__all__ = ["BinaryClassification", "Classification", "MultiLabel", "Regression", "Task"]
