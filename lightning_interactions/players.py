"""Kinds of players: what the input variables of a model are, and how to mask them."""

from lightning_interactions.game.players import (
    FeatureGroups,
    FeatureMapPatches,
    ImagePatches,
    LeafPlayers,
    Players,
    default_players,
)

__all__ = ["FeatureGroups", "FeatureMapPatches", "ImagePatches", "LeafPlayers", "Players", "default_players"]
