"""Features of a table, or groups of them, as players."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_interactions.game.players.base import LeafPlayers

__all__ = ["FeatureGroups"]

DEFAULT_GROUPS = 10


class FeatureGroups(LeafPlayers):
    """Groups of features as players.

    Without groups each feature is a player; from 11 features on, neighbouring columns are put together into 10 groups
    whose sizes differ by one at most.

    Args:
        groups: Column indices of each group, one group a player; every column belongs to exactly one.
        leaf: Name of the table ``[inputs, features]`` among the inputs; the only one that fits if left out.

    Raises:
        ValueError: If the groups are not a partition of the columns ``0 … max``.
    """

    def __init__(self, groups: Sequence[Sequence[int]] | None = None, leaf: str | None = None) -> None:
        super().__init__(leaf)
        self.groups = None if groups is None else tuple(tuple(group) for group in groups)
        if self.groups is None:
            return
        columns = sorted(column for group in self.groups for column in group)
        if columns != list(range(len(columns))) or not columns or not all(self.groups):
            raise ValueError(
                "players: expected non-empty groups that name every column from 0 up exactly once, got "
                f"{[list(group) for group in self.groups]}; put columns that belong to no player of interest into a group of "
                "their own"
            )

    @property
    def expects(self) -> str:
        """What a tensor must be, in words."""
        columns = "features" if self.groups is None else f"the {sum(map(len, self.groups))} features of the groups"
        return f"a table [inputs, {columns}]"

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor is a table of as many columns as the groups name."""
        if tensor.ndim != 2 or tensor.shape[1] == 0:
            return False
        return self.groups is None or sum(map(len, self.groups)) == tensor.shape[1]

    def assignment(self, tensor: Tensor) -> Int[Tensor, " features"]:
        """Say which group each feature belongs to."""
        num_features = tensor.shape[1]
        if self.groups is None:
            num_groups = min(num_features, DEFAULT_GROUPS)
            return torch.arange(num_features) * num_groups // num_features
        assignment = torch.empty(num_features, dtype=torch.long)
        for player, group in enumerate(self.groups):
            assignment[list(group)] = player
        return assignment
