"""From records and findings to figures, words, tables, scalars for loggers, and forms of other packages; needs no Lightning."""

from lightning_interactions.reporting.figures import (
    heat_map_figure,
    input_figure,
    phase_figure,
    shape_figure,
    strength_figure,
    theory_figure,
    timeline_figure,
)
from lightning_interactions.reporting.layout import phase_layout
from lightning_interactions.reporting.plots import plot
from lightning_interactions.reporting.scalars import scalars, tag_prefix
from lightning_interactions.reporting.shapiq import from_shapiq, to_shapiq
from lightning_interactions.reporting.table import history_table
from lightning_interactions.reporting.words import phase_text, settings_text

__all__ = [
    "from_shapiq",
    "heat_map_figure",
    "history_table",
    "input_figure",
    "phase_figure",
    "phase_layout",
    "phase_text",
    "plot",
    "scalars",
    "settings_text",
    "shape_figure",
    "strength_figure",
    "tag_prefix",
    "theory_figure",
    "timeline_figure",
    "to_shapiq",
]
