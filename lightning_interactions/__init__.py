"""See a training run from the inside: which of the interactions it learns will hold on new data."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_interactions import analysis, baselines, evidence, functional, players, reporting, schedules, tasks
    from lightning_interactions.callbacks import InteractionMonitor, Logging, PhaseEarlyStopping
    from lightning_interactions.measuring import Extraction, InteractionMeter, ProbeSampling
    from lightning_interactions.metrics import InteractionStrength
    from lightning_interactions.players import FeatureGroups, ImagePatches
    from lightning_interactions.records import History, Interactions
    from lightning_interactions.references import HeldOutReferences, Twins, fit_reference_models

__all__ = [
    "Extraction",
    "FeatureGroups",
    "HeldOutReferences",
    "History",
    "ImagePatches",
    "InteractionMeter",
    "InteractionMonitor",
    "InteractionStrength",
    "Interactions",
    "Logging",
    "PhaseEarlyStopping",
    "ProbeSampling",
    "Twins",
    "analysis",
    "baselines",
    "evidence",
    "fit_reference_models",
    "functional",
    "players",
    "reporting",
    "schedules",
    "tasks",
]

_HOMES = {
    "callbacks": ("InteractionMonitor", "Logging", "PhaseEarlyStopping"),
    "measuring": ("Extraction", "InteractionMeter", "ProbeSampling"),
    "metrics": ("InteractionStrength",),
    "players": ("FeatureGroups", "ImagePatches"),
    "records": ("History", "Interactions"),
    "references": ("HeldOutReferences", "Twins", "fit_reference_models"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that the mathematics can be used without Lightning being loaded."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is not None:
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
