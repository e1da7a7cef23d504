"""See a training run from the inside: which of the interactions it learns will hold on new data."""

from lightning_interactions import evidence, functional
from lightning_interactions.callbacks import InteractionMonitor, PhaseEarlyStopping, fit_reference_models
from lightning_interactions.evidence import ParameterNoise, ReferenceModels
from lightning_interactions.game import baselines, players, scores
from lightning_interactions.game.players import FeatureGroups, ImagePatches
from lightning_interactions.metrics import InteractionStrength
from lightning_interactions.records import History, Interactions

__all__ = [
    "FeatureGroups",
    "History",
    "ImagePatches",
    "InteractionMonitor",
    "InteractionStrength",
    "Interactions",
    "ParameterNoise",
    "PhaseEarlyStopping",
    "ReferenceModels",
    "baselines",
    "evidence",
    "fit_reference_models",
    "functional",
    "players",
    "scores",
]
