"""Interactions of more players than all ``2^n`` coalitions can be evaluated of, from the values of drawn coalitions."""

from lightning_interactions.functional.sampled.draw import draw_coalitions
from lightning_interactions.functional.sampled.fit import fit_interactions, predict_values

__all__ = ["draw_coalitions", "fit_interactions", "predict_values"]
