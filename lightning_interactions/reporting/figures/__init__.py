"""Matplotlib figures, made without pyplot so that no global state or display is touched."""

from lightning_interactions.reporting.figures.compare import MOST_COMPARED, compare_figure
from lightning_interactions.reporting.figures.on_inputs import input_figure
from lightning_interactions.reporting.figures.phases import heat_map_figure, phase_figure, strength_figure, timeline_figure
from lightning_interactions.reporting.figures.shapes import shape_figure, theory_figure

__all__ = [
    "MOST_COMPARED",
    "compare_figure",
    "heat_map_figure",
    "input_figure",
    "phase_figure",
    "shape_figure",
    "strength_figure",
    "theory_figure",
    "timeline_figure",
]
