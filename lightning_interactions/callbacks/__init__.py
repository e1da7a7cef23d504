"""The Lightning side: when to measure, where the tensors live, what is logged and what is saved."""

from lightning_interactions.callbacks.interaction_monitor import InteractionMonitor
from lightning_interactions.callbacks.phase_early_stopping import PhaseEarlyStopping, PhaseStoppingReason
from lightning_interactions.references.fit import fit_reference_models
from lightning_interactions.references.hold_out import HoldOutReferences

__all__ = ["HoldOutReferences", "InteractionMonitor", "PhaseEarlyStopping", "PhaseStoppingReason", "fit_reference_models"]
