"""Kinds of players: what the input variables of a model are, and how to mask them."""

from lightning_interactions.game.players.base import AssignedPlayers, LeafPlayers, Masking, OneLeaf, Players
from lightning_interactions.game.players.choice import AtRandom, ByAttribution, Choice, Evenly, Some
from lightning_interactions.game.players.custom import CustomPlayers
from lightning_interactions.game.players.default import default_players
from lightning_interactions.game.players.feature_groups import FeatureGroups
from lightning_interactions.game.players.feature_map_patches import FeatureMapPatches
from lightning_interactions.game.players.image_patches import ImagePatches
from lightning_interactions.game.players.point_groups import PointGroups
from lightning_interactions.game.players.time_segments import TimeSegments
from lightning_interactions.game.players.tokens import Tokens, Words

__all__ = [
    "AssignedPlayers",
    "AtRandom",
    "ByAttribution",
    "Choice",
    "CustomPlayers",
    "Evenly",
    "FeatureGroups",
    "FeatureMapPatches",
    "ImagePatches",
    "LeafPlayers",
    "Masking",
    "OneLeaf",
    "Players",
    "PointGroups",
    "Some",
    "TimeSegments",
    "Tokens",
    "Words",
    "default_players",
]
