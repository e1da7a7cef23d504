"""History to figures, and interactions to the forms of other packages."""

from lightning_interactions.reporting.figures.phases import phase_figure, strength_figure
from lightning_interactions.reporting.figures.shapes import shape_figure, theory_figure
from lightning_interactions.reporting.shapiq import from_shapiq, to_shapiq

__all__ = ["from_shapiq", "phase_figure", "shape_figure", "strength_figure", "theory_figure", "to_shapiq"]
