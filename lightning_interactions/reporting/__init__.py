"""From records and findings to figures, tables, scalars for loggers, and the forms of other packages; needs no Lightning."""

from lightning_interactions.reporting.figures import phase_figure, shape_figure, strength_figure, theory_figure
from lightning_interactions.reporting.scalars import scalars, tag_prefix
from lightning_interactions.reporting.shapiq import from_shapiq, to_shapiq
from lightning_interactions.reporting.table import history_table

__all__ = [
    "from_shapiq",
    "history_table",
    "phase_figure",
    "scalars",
    "shape_figure",
    "strength_figure",
    "tag_prefix",
    "theory_figure",
    "to_shapiq",
]
