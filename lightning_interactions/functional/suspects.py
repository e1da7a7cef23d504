"""Inputs whose score rests on interactions that do not generalize."""

from lightning_interactions.functional.strength import total_strength
from lightning_interactions.records import SplitMeasurement, Suspects

__all__ = ["find_suspects"]


def find_suspects(split: SplitMeasurement) -> Suspects:
    """Compute the part of every input's salient strength that does not generalize.

    Interactions are about the score of the label that the input was trained with: where that is wrong, models that have
    not seen it do not share them.

    Args:
        split: One measurement of training inputs.
    """
    generalizable, other = total_strength(split.strength.generalizable), total_strength(split.strength.non_generalizable)
    return Suspects(share=other / (generalizable + other), loss=split.loss, explained_loss=split.explained_loss)
