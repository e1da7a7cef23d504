"""Baseline values: what a masked player is replaced with."""

from lightning_interactions.game.baselines import (
    Baseline,
    Blur,
    Centroid,
    Constant,
    MeanEmbedding,
    MostFrequent,
    Token,
    TrainingMean,
    TrainingSample,
    Typical,
    Zeros,
)

__all__ = [
    "Baseline",
    "Blur",
    "Centroid",
    "Constant",
    "MeanEmbedding",
    "MostFrequent",
    "Token",
    "TrainingMean",
    "TrainingSample",
    "Typical",
    "Zeros",
]
