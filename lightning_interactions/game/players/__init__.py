"""Kinds of players: what the input variables of a model are, and how to mask them."""

from torch import Tensor

from lightning_interactions.game.players.base import Players
from lightning_interactions.game.players.feature_groups import FeatureGroups
from lightning_interactions.game.players.image_patches import ImagePatches

__all__ = ["FeatureGroups", "ImagePatches", "Players", "default_players"]


def default_players(inputs: object) -> Players:
    """Choose players by the shape of the inputs: 3x3 patches of images, features (or 10 groups of them) of tables.

    Raises:
        ValueError: If the inputs are neither floating-point images nor a floating-point table.
    """
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        if inputs.ndim == 4:
            return ImagePatches(3, 3)
        if inputs.ndim == 2:
            return FeatureGroups()
    got = f"{inputs.dtype} of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
    raise ValueError(
        "players: only floating-point images [inputs, channels, height, width] and tables [inputs, features] have default "
        f"players, got {got}; pass players=, or the two-line adapter that finds the inputs in a batch and the logits in an "
        "output:\n"
        "    InteractionMonitor(unpack=lambda batch: (batch['image'], batch['label']),\n"
        "                       forward=lambda model, inputs: model(inputs)['logits'])"
    )
