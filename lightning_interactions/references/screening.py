"""Finding labels that models which have not seen them dispute."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_interactions.game.tasks import Task, widened
from lightning_interactions.references.folds import Plan
from lightning_interactions.references.trainer import ReferenceTrainer

__all__ = ["SEED_OFFSET", "undisputed"]

SEED_OFFSET = 1_000_003
"""Keeps these models' seeds apart from those of the raters."""

LEAST_MARGIN = -1.0
"""Mean margin under which a label is disputed: some other class is more likely by odds of e to 1."""


def undisputed(trainer: ReferenceTrainer, task: Task, pool: Sequence[int], plans: Sequence[Plan]) -> list[int]:
    """Return the samples whose labels are not disputed by models that have not seen them.

    Models that have learned nothing are not sure enough to dispute a label.

    Args:
        trainer: Trains the models.
        task: Has classes, and the margin of a label.
        pool: Dataset indices of all the data.
        plans: Plans of the models that score the samples; as many for each sample.

    Source:
        Northcutt et al. 2021, Confident learning. The threshold on the mean margin is our own.
    """

    def margin(model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        return task.margin(widened(task.forward(model, inputs)), targets)

    models = [fitted.model for fitted in trainer.fit(plans)]
    margins: dict[int, list[float]] = {index: [] for index in pool}
    for model, plan in zip(models, plans, strict=True):
        unseen = sorted(margins.keys() - set(plan.training or ()) - set(plan.stopping))
        for index, own in zip(unseen, trainer.scores(model, unseen, margin).tolist(), strict=True):
            margins[index].append(own)
    return [index for index, own in margins.items() if not sum(own) / len(own) < LEAST_MARGIN]
