"""Features of a table, or groups of them, as players."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_interactions.game.players.base import mask_by_assignment

__all__ = ["FeatureGroups"]

DEFAULT_GROUPS = 10


@dataclass(frozen=True)
class FeatureGroups:
    """Groups of features as players.

    Without groups each feature is a player; from 11 features on, neighbouring columns are put together into 10 groups
    whose sizes differ by one at most.

    Attributes:
        groups: Column indices of each group, one group a player; every column belongs to exactly one.

    Raises:
        ValueError: If the groups are not a partition of the columns ``0 … max``.
    """

    groups: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        """Refuse groups that overlap, leave out a column or are empty."""
        if self.groups is None:
            return
        columns = sorted(column for group in self.groups for column in group)
        if columns != list(range(len(columns))) or not columns or not all(len(group) for group in self.groups):
            raise ValueError(
                "players: expected non-empty groups that name every column from 0 up exactly once, got "
                f"{[list(group) for group in self.groups]}; put columns that belong to no player of interest into a group of "
                "their own"
            )

    def num_players(self, inputs: Float[Tensor, "inputs features"]) -> int:
        """Count the groups.

        Raises:
            ValueError: If the inputs are no table, or have other columns than the groups name.
        """
        return int(self._assignment(inputs).max()) + 1

    def mask(
        self, inputs: Float[Tensor, "inputs features"], coalitions: Bool[Tensor, "inputs players"], baseline: Tensor
    ) -> Float[Tensor, "inputs features"]:
        """Replace the features of groups that are not in the coalition; see :class:`Players`."""
        return mask_by_assignment(inputs, coalitions, baseline, self._assignment(inputs))

    def _assignment(self, inputs: Tensor) -> Int[Tensor, " features"]:
        if inputs.ndim != 2 or inputs.shape[1] == 0:
            raise ValueError(f"players: feature groups need inputs [inputs, features], got shape {tuple(inputs.shape)}")
        num_features = inputs.shape[1]
        if self.groups is None:
            num_groups = min(num_features, DEFAULT_GROUPS)
            return torch.arange(num_features) * num_groups // num_features
        if sum(len(group) for group in self.groups) != num_features:
            raise ValueError(
                f"players: the groups name {sum(len(group) for group in self.groups)} columns, got inputs with {num_features}"
            )
        assignment = torch.empty(num_features, dtype=torch.long)
        for player, group in enumerate(self.groups):
            assignment[list(group)] = player
        return assignment
