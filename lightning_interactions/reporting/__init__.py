"""From records and findings to figures, words, tables, reports, scalars for loggers, and forms of other packages."""

from lightning_interactions.reporting.export import export_tables, write_tables
from lightning_interactions.reporting.figures import (
    compare_figure,
    heat_map_figure,
    input_figure,
    phase_figure,
    shape_figure,
    strength_figure,
    theory_figure,
    timeline_figure,
)
from lightning_interactions.reporting.html import html_report, write_html
from lightning_interactions.reporting.layout import phase_layout
from lightning_interactions.reporting.markdown import phase_text, settings_text
from lightning_interactions.reporting.plots import plot
from lightning_interactions.reporting.run_record import RunRecord
from lightning_interactions.reporting.scalars import scalars, tag_prefix
from lightning_interactions.reporting.shapiq import from_shapiq, to_shapiq
from lightning_interactions.reporting.table import history_table
from lightning_interactions.reporting.words import PhaseInWords, explain_detections, explain_phase

__all__ = [
    "PhaseInWords",
    "RunRecord",
    "compare_figure",
    "explain_detections",
    "explain_phase",
    "export_tables",
    "from_shapiq",
    "heat_map_figure",
    "history_table",
    "html_report",
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
    "write_html",
    "write_tables",
]
