"""Baseline values: what a masked player is replaced with."""

from lightning_interactions.game.baselines import Baseline, Constant, TrainingMean, Zeros

__all__ = ["Baseline", "Constant", "TrainingMean", "Zeros"]
