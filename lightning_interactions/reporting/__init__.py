"""From records and findings to figures, tables, scalars for loggers, and the forms of other packages; needs no Lightning."""

from lightning_interactions.reporting.export import export_tables, write_tables
from lightning_interactions.reporting.figures import (
    compare_figure,
    phase_figure,
    shape_figure,
    strength_figure,
    theory_figure,
)
from lightning_interactions.reporting.html import html_report, write_html
from lightning_interactions.reporting.run_record import RunRecord
from lightning_interactions.reporting.scalars import scalars, tag_prefix
from lightning_interactions.reporting.shapiq import from_shapiq, to_shapiq
from lightning_interactions.reporting.table import history_table
from lightning_interactions.reporting.words import explain_phase

__all__ = [
    "RunRecord",
    "compare_figure",
    "explain_phase",
    "export_tables",
    "from_shapiq",
    "history_table",
    "html_report",
    "phase_figure",
    "scalars",
    "shape_figure",
    "strength_figure",
    "tag_prefix",
    "theory_figure",
    "to_shapiq",
    "write_html",
    "write_tables",
]
