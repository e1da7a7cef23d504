"""From measurements to findings, as pure functions of records.

A new number is one function here: records keep what was measured, input by input, and nothing that can be computed from it.
"""

from lightning_interactions.analysis.label_issues import find_label_issues
from lightning_interactions.analysis.loss_gap import explained_growth
from lightning_interactions.analysis.near_chance import NearChance, share_near_chance
from lightning_interactions.analysis.phases import detect_phases, segment_phases
from lightning_interactions.analysis.second_phase import explain_second_phase
from lightning_interactions.analysis.strongest import (
    OneInteraction,
    StrongestInteractions,
    strongest_interactions,
    telling_inputs,
)
from lightning_interactions.analysis.summary import SplitSummary, StrengthByOrder, Summary, shape_of, summarise

__all__ = [
    "NearChance",
    "OneInteraction",
    "SplitSummary",
    "StrengthByOrder",
    "StrongestInteractions",
    "Summary",
    "detect_phases",
    "explain_second_phase",
    "explained_growth",
    "find_label_issues",
    "segment_phases",
    "shape_of",
    "share_near_chance",
    "strongest_interactions",
    "summarise",
    "telling_inputs",
]
