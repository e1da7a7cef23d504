"""Interactions from the values of drawn coalitions, for players whose ``2^n`` coalitions are too many to evaluate."""

from lightning_interactions.functional.sampled.draw import draw_coalitions
from lightning_interactions.functional.sampled.fit import fit_interactions, predict_values

__all__ = ["draw_coalitions", "fit_interactions", "predict_values"]
