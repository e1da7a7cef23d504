"""History to figures, and interactions to the forms of other packages."""

from lightning_interactions.reporting.figures import phase_figure, strength_figure
from lightning_interactions.reporting.interchange import from_shapiq, to_shapiq

__all__ = ["from_shapiq", "phase_figure", "strength_figure", "to_shapiq"]
