"""Kinds of players: what the input variables of a model are, and how to mask them."""

from torch import Tensor

from lightning_interactions.game.players.base import LeafPlayers, Players
from lightning_interactions.game.players.feature_groups import FeatureGroups
from lightning_interactions.game.players.feature_map_patches import FeatureMapPatches
from lightning_interactions.game.players.image_patches import ImagePatches
from lightning_interactions.records import Rows
from lightning_interactions.records.trees import describe_tree

__all__ = ["FeatureGroups", "FeatureMapPatches", "ImagePatches", "LeafPlayers", "Players", "default_players"]


def default_players(inputs: Rows) -> Players:
    """Choose players by the shape of the inputs: 3x3 patches of images, features (or 10 groups of them) of tables.

    Raises:
        ValueError: If not exactly one tensor of the inputs is a floating-point image or a floating-point table.
    """
    only = len(inputs.leaves) == 1
    candidates: list[tuple[LeafPlayers, Tensor]] = []
    for name, leaf in inputs.leaves.items():
        own = None if only else name
        candidates += [(ImagePatches(3, 3, leaf=own), leaf), (FeatureGroups(leaf=own), leaf)]
    fitting = [players for players, leaf in candidates if leaf.is_floating_point() and players.fits(leaf)]
    if len(fitting) == 1:
        return fitting[0]
    raise ValueError(
        "players: only a single floating-point image [inputs, channels, height, width] or table [inputs, features] has default "
        f"players, got {describe_tree(inputs.tree)}; pass players=, such as players.FeatureGroups(leaf='...'), and where the "
        "inputs are elsewhere in a batch, a task whose unpack(batch) finds them"
    )
