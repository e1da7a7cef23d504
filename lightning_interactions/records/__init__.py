"""What flows through the package: frozen records, each field with its shape, unit and meaning.

``values → Interactions → Verdict → OrderStrength → SplitMeasurement → Measurement → History → Phase``.
"""

from lightning_interactions.records.history import History, Measurement, Phase, SplitMeasurement, Summary
from lightning_interactions.records.interactions import (
    EFFECT_TYPES,
    SIGNS,
    Interactions,
    OrderStrength,
    Probes,
    SampledInteractions,
    Verdict,
)

__all__ = [
    "EFFECT_TYPES",
    "SIGNS",
    "History",
    "Interactions",
    "Measurement",
    "OrderStrength",
    "Phase",
    "Probes",
    "SampledInteractions",
    "SplitMeasurement",
    "Summary",
    "Verdict",
]
