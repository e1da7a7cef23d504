"""Features of one table or several, or groups of them, as players."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_interactions.game.baselines import Baseline, Typical, Zeros
from lightning_interactions.game.players.base import AssignedPlayers, joined_names, near_equal_groups
from lightning_interactions.game.players.padding import names_padding
from lightning_interactions.records import Rows
from lightning_interactions.records.trees import describe_tree

__all__ = ["FeatureGroups"]

DEFAULT_GROUPS = 10


class FeatureGroups(AssignedPlayers):
    """Groups of features as players, of one table ``[inputs, features]`` or of several, continuous or categorical.

    Without groups each feature is a player; from 11 features on, neighbouring columns are put together into 10 groups
    whose sizes differ by one at most. Columns of several tables are numbered one table after the other.

    Masked categories become the most frequent one by default, masked numbers zero.

    Args:
        groups: Column indices of each group, one group a player; every column belongs to exactly one. A mapping gives the
            groups names.
        leaf: Name of the table among the inputs, or names of several; the only table if left out.
        one_hot: In place of groups: columns that belong together, such as those of one category; every other column is a
            feature of its own.
        features: Names of the columns, for reports.

    Raises:
        ValueError: If the groups are not a partition of the columns ``0 … max``, or columns are named twice.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]] | Mapping[str, Sequence[int]] | None = None,
        leaf: str | Sequence[str] | None = None,
        one_hot: Sequence[Sequence[int]] | None = None,
        features: Sequence[str] | None = None,
    ) -> None:
        self.leaf = leaf if leaf is None or isinstance(leaf, str) else tuple(leaf)
        self.group_names = tuple(groups) if isinstance(groups, Mapping) else None
        columns_of = groups.values() if isinstance(groups, Mapping) else groups
        self.groups = None if columns_of is None else tuple(tuple(group) for group in columns_of)
        self.one_hot = None if one_hot is None else tuple(tuple(group) for group in one_hot)
        self.features = None if features is None else tuple(features)
        if self.groups is not None and self.one_hot is not None:
            raise ValueError("players: expected groups or one_hot, got both; one_hot columns may be groups")
        if self.groups is not None:
            columns = sorted(column for group in self.groups for column in group)
            if columns != list(range(len(columns))) or not columns or not all(self.groups):
                raise ValueError(
                    "players: expected non-empty groups that name every column from 0 up exactly once, got "
                    f"{[list(group) for group in self.groups]}; put columns that belong to no player of interest into a group "
                    "of their own"
                )
        if self.one_hot is not None:
            columns = [column for group in self.one_hot for column in group]
            if len(set(columns)) < len(columns) or not all(self.one_hot) or min(columns, default=0) < 0:
                raise ValueError(
                    "players: expected non-empty groups of columns in one_hot, each column once, got "
                    f"{[list(group) for group in self.one_hot]}"
                )

    @property
    def expects(self) -> str:
        """What tensors must be, in words."""
        columns = "features" if self.groups is None else f"the {sum(map(len, self.groups))} features of the groups"
        if self.groups is None and self.features is not None:
            columns = f"{len(self.features)} named features"
        return f"a table [inputs, {columns}]" if not isinstance(self.leaf, tuple) else f"tables of {columns}"

    def fits(self, *tables: Tensor) -> bool:
        """Say whether tensors are tables that together have as many columns as are named."""
        if any(table.ndim != 2 or table.shape[1] == 0 for table in tables):
            return False
        columns = sum(table.shape[1] for table in tables)
        named = [sum(map(len, self.groups))] if self.groups is not None else []
        named += [len(self.features)] if self.features is not None else []
        enough = max((column for group in self.one_hot or () for column in group), default=0) < columns
        return enough and all(columns == number for number in named)

    def leaves(self, inputs: Rows) -> tuple[str, ...]:
        """Name the masked tables; see :class:`~lightning_interactions.players.Players`."""
        tensors = inputs.leaves
        if self.leaf is not None:
            names = (self.leaf,) if isinstance(self.leaf, str) else self.leaf
            if not names or any(name not in tensors for name in names) or not self.fits(*(tensors[name] for name in names)):
                raise ValueError(
                    f"players: {self!r} expects {self.expects}, named {self.leaf!r}, got {describe_tree(inputs.tree)}"
                )
            return names
        fitting = [name for name, tensor in tensors.items() if self.fits(tensor)]
        fitting = [name for name in fitting if not names_padding(name)] or fitting
        if len(fitting) != 1:
            raise ValueError(
                f"players: {self!r} expects {self.expects}, the only one of the inputs, got {describe_tree(inputs.tree)}"
                + (f"; say which with leaf= one of {fitting} or several" if fitting else "; pass other players")
            )
        return (fitting[0],)

    def num_players(self, inputs: Rows) -> int:
        """Count the groups; see :class:`~lightning_interactions.players.Players`."""
        return len(self._groups(self._widths(inputs)))

    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Say which group each column belongs to; see :class:`~lightning_interactions.players.AssignedPlayers`."""
        widths = self._widths(inputs)
        assignment = torch.empty(sum(widths.values()), dtype=torch.long)
        for player, group in enumerate(self._groups(widths)):
            assignment[list(group)] = player
        assignment = assignment.to(inputs.device)
        return {name: own[None] for name, own in zip(widths, assignment.split(list(widths.values())), strict=True)}

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Name the groups, or else their columns; see :class:`~lightning_interactions.players.Players`."""
        if self.group_names is not None:
            return self.group_names
        widths = self._widths(inputs)
        of_columns = self.features or [
            # The only table of a batch may have a place in a tuple for its name, which says nothing.
            f"feature {column}" if not name or (name.isdigit() and len(widths) == 1) else f"{name} {column}"
            for name, width in widths.items()
            for column in range(width)
        ]
        return tuple(joined_names([of_columns[column] for column in group]) for group in self._groups(widths))

    def labels(self, inputs: Rows) -> list[tuple[str, ...]]:
        """Name the groups, with the value of a feature that is alone; see :class:`~lightning_interactions.players.Players`."""
        table = torch.cat([inputs.leaves[name].double() for name in self.leaves(inputs)], dim=1).tolist()
        groups, names = self._groups(self._widths(inputs)), self.names(inputs)
        return [
            tuple(
                f"{name} = {row[group[0]]:.3g}" if len(group) == 1 else name for name, group in zip(names, groups, strict=True)
            )
            for row in table
        ]

    def naming_hint(self, inputs: Rows) -> str:
        """Write players with names of columns; see :class:`~lightning_interactions.players.Players`."""
        leaf = "" if self.leaf is None else f"leaf={self.leaf!r}, "
        return f"FeatureGroups({leaf}features=[...])" if self.features is None and self.group_names is None else ""

    def default_baseline(self, inputs: Rows) -> Baseline:
        """Return zeros for numbers, the most frequent category for integers."""
        numbers = all(inputs.leaves[name].is_floating_point() for name in self.leaves(inputs))
        return Zeros() if numbers else Typical()

    def _widths(self, inputs: Rows) -> dict[str, int]:
        return {name: inputs.leaves[name].shape[1] for name in self.leaves(inputs)}

    def _groups(self, widths: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
        if self.groups is not None:
            return self.groups
        columns = sum(widths.values())
        together = {column: group for group in self.one_hot or () for column in group}
        units = list(dict.fromkeys(together.get(column, (column,)) for column in range(columns)))
        sizes = near_equal_groups(len(units), min(len(units), DEFAULT_GROUPS)).bincount().tolist()
        ends = list(accumulate(sizes))
        parts = (units[end - size : end] for end, size in zip(ends, sizes, strict=True))
        return tuple(tuple(column for unit in part for column in unit) for part in parts)
