"""From a history to the phases of training: online with a bound on false onsets, and offline."""

from lightning_interactions.analysis.phases.detect import detect_phases
from lightning_interactions.analysis.phases.segment import segment_phases

__all__ = ["detect_phases", "segment_phases"]
