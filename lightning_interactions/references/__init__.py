"""Fitting reference models, and evidence that fits itself when training starts."""

from lightning_interactions.references.evidence import FittedEvidence, HeldOutReferences, Twins
from lightning_interactions.references.fit import fit_reference_models
from lightning_interactions.references.hold_out import HoldOutDataModule
from lightning_interactions.references.settings import ReferenceTraining

__all__ = [
    "FittedEvidence",
    "HeldOutReferences",
    "HoldOutDataModule",
    "ReferenceTraining",
    "Twins",
    "fit_reference_models",
]
