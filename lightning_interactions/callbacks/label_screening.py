"""Finding labels that models which have not seen them contradict."""

from collections.abc import Sequence

from lightning_interactions.callbacks.reference_fitting import Fitter
from lightning_interactions.callbacks.reference_plans import make_plans

__all__ = ["screened"]

LEAST_SCORE = -1.0
"""Mean log-odds of the given label under which it is contradicted: another is more likely by odds of e to 1."""

SEED_OFFSET = 1_000_003
"""Keeps these models' seeds apart from those of the models that judge."""


def screened(fitter: Fitter, pool: Sequence[int], num_models: int, folds: int, early_stopping: bool, seed: int) -> list[int]:
    """Return the samples whose labels are not contradicted.

    Args:
        fitter: Trains the models.
        pool: Dataset indices of all the data.
        num_models: How many models score each sample, none of which was trained on it.
        folds: Number of parts.
        early_stopping: Whether the models are stopped early.
        seed: Seed of the models that judge.

    Source:
        Northcutt et al. 2021, Confident learning. The threshold on the mean score is our own.
    """
    plans = make_plans(list(pool), num_models, folds, early_stopping, seed + SEED_OFFSET)
    models, _ = fitter.fit(plans)
    total = dict.fromkeys(pool, 0.0)
    for model, plan in zip(models, plans, strict=True):
        unseen = sorted(total.keys() - set(plan.training or ()) - set(plan.stopping))
        for index, score in zip(unseen, fitter.scores(model, unseen).tolist(), strict=True):
            total[index] += score / num_models
    return [index for index, score in total.items() if not score < LEAST_SCORE]
