"""What decides how far an interaction generalizes: one file a kind."""

from lightning_interactions.evidence.base import Evidence, ProbeGame
from lightning_interactions.evidence.input_agreement import InputAgreement
from lightning_interactions.evidence.order_shape import OrderShape
from lightning_interactions.evidence.parameter_noise import ParameterNoise
from lightning_interactions.evidence.reference_models import ReferenceModels

__all__ = ["Evidence", "InputAgreement", "OrderShape", "ParameterNoise", "ProbeGame", "ReferenceModels"]
