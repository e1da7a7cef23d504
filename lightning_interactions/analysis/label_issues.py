"""Inputs whose score rests on interactions that do not generalize."""

from lightning_interactions.functional.strength import total_strength
from lightning_interactions.records import SplitMeasurement, Suspects

__all__ = ["find_suspects"]


def find_suspects(split: SplitMeasurement) -> Suspects:
    """Find out how far each input's label rests on what does not generalize.

    A network that has memorised a wrong label has a small loss on it. What generalizes still speaks against the label, so that
    the loss is large without the interactions that do not. The share of strength that does not generalize says little of
    the label: what speaks against a wrong one generalizes, too.

    Args:
        split: One measurement of training inputs.
    """
    generalizable, other = total_strength(split.strength.generalizable), total_strength(split.strength.non_generalizable)
    return Suspects(share=other / (generalizable + other), loss=split.loss, explained_loss=split.explained_loss)
