"""Interaction strength as a torchmetrics metric."""

from lightning_interactions.metrics.interaction_strength import InteractionStrength

__all__ = ["InteractionStrength"]
