"""What flows through the package: frozen records, each field with its shape, unit and meaning.

``values → Interactions → Verdict → OrderStrength → SplitMeasurement → Measurement → History → Phase``. Nothing here
computes more than a table of its own contents.
"""

from lightning_interactions.records.dynamics import SecondPhase
from lightning_interactions.records.history import Boundary, Claim, History, Phase
from lightning_interactions.records.interactions import (
    EFFECT_TYPES,
    SIGNS,
    Certificate,
    Interactions,
    Probes,
    SampledInteractions,
    Verdict,
)
from lightning_interactions.records.measurement import (
    NATS,
    ExplainedGrowth,
    Interval,
    Measurement,
    OrderStrength,
    SplitIntervals,
    SplitMeasurement,
    Summary,
)
from lightning_interactions.records.shapes import DecaySpindle
from lightning_interactions.records.label_issues import Suspects

__all__ = [
    "EFFECT_TYPES",
    "NATS",
    "SIGNS",
    "Boundary",
    "Certificate",
    "Claim",
    "DecaySpindle",
    "ExplainedGrowth",
    "History",
    "Interactions",
    "Interval",
    "Measurement",
    "OrderStrength",
    "Phase",
    "Probes",
    "SampledInteractions",
    "SecondPhase",
    "SplitIntervals",
    "SplitMeasurement",
    "Summary",
    "Suspects",
    "Verdict",
]
