"""Figures of a history; the same ones serve TensorBoard, reports and the README."""

from lightning_interactions.reporting.figures import phase_figure, strength_figure

__all__ = ["phase_figure", "strength_figure"]
