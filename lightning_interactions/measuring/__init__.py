"""One measurement: a model on fixed probes becomes a record; needs no Lightning."""

from lightning_interactions.measuring.extraction import Extraction
from lightning_interactions.measuring.meter import InteractionMeter
from lightning_interactions.measuring.probes import ProbeSampling

__all__ = ["Extraction", "InteractionMeter", "ProbeSampling"]
