"""Schedules: when to measure, and when to draw figures."""

from lightning_interactions.measuring.schedule import DenserEarly, EveryNEpochs, EveryNSteps, FitLength, Planned, Schedule

__all__ = ["DenserEarly", "EveryNEpochs", "EveryNSteps", "FitLength", "Planned", "Schedule"]
