"""Inputs whose score rests on interactions that do not generalize."""

from lightning_interactions.records import LabelIssues, SplitMeasurement

__all__ = ["find_label_issues"]


def find_label_issues(split: SplitMeasurement) -> LabelIssues:
    """Find out how far each input's label rests on what does not generalize.

    A network that has memorised a wrong label has a small loss on it. What generalizes still speaks against the label, so that
    the loss is large without the interactions that do not. The share of strength that does not generalize says little of
    the label: what speaks against a wrong one generalizes, too.

    Args:
        split: One measurement of training inputs.

    Returns:
        Share and losses of each input, and their ranking.
    """
    salient = split.generalizable + split.non_generalizable
    return LabelIssues(share=split.non_generalizable / salient, loss=split.loss, explained_loss=split.explained_loss)
