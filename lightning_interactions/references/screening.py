"""Finding labels that models which have not seen them contradict."""

from collections.abc import Sequence

from lightning_interactions.game.margin import label_margin
from lightning_interactions.references.folds import make_plans
from lightning_interactions.references.trainer import Fitter

__all__ = ["screened"]

LEAST_MARGIN = -1.0
"""Mean margin under which a label is contradicted: some other class is more likely by odds of e to 1."""

SEED_OFFSET = 1_000_003
"""Keeps these models' seeds apart from those of the models that judge."""


def screened(fitter: Fitter, pool: Sequence[int], num_models: int, folds: int, early_stopping: bool, seed: int) -> list[int]:
    """Return the samples whose labels are not contradicted.

    Models that have learned nothing are not sure enough to contradict a label.

    Args:
        fitter: Trains the models.
        pool: Dataset indices of all the data.
        num_models: How many models score each sample, none of which was trained on it.
        folds: Number of parts.
        early_stopping: Whether the models are stopped early.
        seed: Seed of the models that judge.

    Source:
        Northcutt et al. 2021, Confident learning. The threshold on the mean margin is our own.
    """
    plans = make_plans(list(pool), num_models, folds, early_stopping, seed + SEED_OFFSET, fitter.loss)
    models, _ = fitter.fit(plans)
    total = dict.fromkeys(pool, 0.0)
    for model, plan in zip(models, plans, strict=True):
        unseen = sorted(total.keys() - set(plan.training or ()) - set(plan.stopping))
        for index, margin in zip(unseen, fitter.scores(model, unseen, label_margin).tolist(), strict=True):
            total[index] += margin / num_models
    return [index for index, margin in total.items() if not margin < LEAST_MARGIN]
