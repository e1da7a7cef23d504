"""What flows through the package: frozen records, each field with its shape, unit and meaning.

``values → Interactions → EvidenceWeights → SplitMeasurement → Measurement → History → Phase``. Nothing here computes more than
what follows from its own contents.
"""

from lightning_interactions.records.fits import DecaySpindle, ExplainedGrowth, SecondPhase
from lightning_interactions.records.history import History, PlotKind
from lightning_interactions.records.inputs import ProbeGroup, Probes, Rows, fingerprints
from lightning_interactions.records.interactions import (
    EFFECT_TYPES,
    SIGNS,
    Certificate,
    EvidenceWeights,
    Interactions,
    SampledInteractions,
)
from lightning_interactions.records.label_issues import LabelIssues
from lightning_interactions.records.measurement import Estimate, Measurement, OrderStrength, SplitMeasurement, TimePoint
from lightning_interactions.records.phases import ChangePoint, Phase, PhaseTest

__all__ = [
    "EFFECT_TYPES",
    "SIGNS",
    "Certificate",
    "ChangePoint",
    "DecaySpindle",
    "Estimate",
    "EvidenceWeights",
    "ExplainedGrowth",
    "History",
    "Interactions",
    "LabelIssues",
    "Measurement",
    "OrderStrength",
    "Phase",
    "PhaseTest",
    "PlotKind",
    "ProbeGroup",
    "Probes",
    "Rows",
    "SampledInteractions",
    "SecondPhase",
    "SplitMeasurement",
    "TimePoint",
    "fingerprints",
]
