"""What decides whether an interaction generalizes: small classes behind one protocol."""

from lightning_interactions.evidence.base import Evidence, InteractionsOf, Judge
from lightning_interactions.evidence.choice import choose_evidence
from lightning_interactions.evidence.input_agreement import InputAgreement
from lightning_interactions.evidence.order_shape import OrderShape
from lightning_interactions.evidence.parameter_noise import ParameterNoise
from lightning_interactions.evidence.reference_models import ReferenceModels
from lightning_interactions.records.inputs import fingerprints

__all__ = [
    "Evidence",
    "InputAgreement",
    "InteractionsOf",
    "Judge",
    "OrderShape",
    "ParameterNoise",
    "ReferenceModels",
    "choose_evidence",
    "fingerprints",
]
