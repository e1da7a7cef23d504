"""Matplotlib figures, made without pyplot so that no global state or display is touched."""

from lightning_interactions.reporting.figures.compare import MOST_COMPARED, compare_figure
from lightning_interactions.reporting.figures.phases import phase_figure, strength_figure
from lightning_interactions.reporting.figures.shapes import shape_figure, theory_figure

__all__ = ["MOST_COMPARED", "compare_figure", "phase_figure", "shape_figure", "strength_figure", "theory_figure"]
