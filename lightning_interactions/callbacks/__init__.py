"""The Lightning side: when to measure, where the tensors live, what is logged and what is saved."""

from lightning_interactions.callbacks.interaction_monitor import InteractionMonitor
from lightning_interactions.callbacks.loggers import Logging
from lightning_interactions.callbacks.phase_early_stopping import PhaseEarlyStopping, PhaseStoppingReason
from lightning_interactions.callbacks.replay import replay

__all__ = ["InteractionMonitor", "Logging", "PhaseEarlyStopping", "PhaseStoppingReason", "replay"]
