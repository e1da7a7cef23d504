"""What every kind of players can do, and what those share that say to whom each entry of an input belongs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lightning_interactions.game.baselines import Baseline, Zeros
from lightning_interactions.game.players.padding import names_padding
from lightning_interactions.records import Rows
from lightning_interactions.records.describe import describe
from lightning_interactions.records.trees import describe_tree

__all__ = ["NOBODY", "AssignedPlayers", "LeafPlayers", "Masking", "OneLeaf", "Players"]

NOBODY = -1
"""Entries that belong to no player stay as they are."""


class Players(ABC):
    """The input variables of a model, and how to mask some of them."""

    most_in_play: ClassVar[int | None] = None
    """Inputs that can be in play together; ``None`` for any number."""

    def __repr__(self) -> str:
        return describe(self)

    @abstractmethod
    def leaves(self, inputs: Rows) -> tuple[str, ...]:
        """Name the tensors of the inputs that are masked.

        Raises:
            ValueError: If inputs of these shapes do not have such players.
        """

    @abstractmethod
    def num_players(self, inputs: Rows) -> int:
        """Count the players of some rows.

        Raises:
            ValueError: If inputs of these shapes do not have such players.
        """

    @abstractmethod
    def mask(self, inputs: Rows, coalitions: Bool[Tensor, "inputs players"], baseline: Mapping[str, Tensor]) -> Rows:
        """Keep the players of one coalition for each row and replace the others with the baseline value.

        Every entry of an input belongs to one player, or to nobody: what replaces it does not depend on the other players. So
        a player whose masking changes nothing when all others are there never changes anything. What belongs to nobody stays
        as it is in every coalition.

        Args:
            inputs: Some rows.
            coalitions: True for the players that stay, one row for each input.
            baseline: For each masked tensor a baseline value that broadcasts to one row of it, or one with a value for each
                row, ``[inputs, ...]``.

        Returns:
            Masked inputs of the same shapes.
        """

    def masking(self, inputs: Rows, baseline: Mapping[str, Tensor]) -> "Masking":
        """Prepare rows to be masked many times; what does not depend on coalitions is found out once.

        Args:
            inputs: Some rows.
            baseline: As for :meth:`mask`.
        """
        return Masking(self, inputs, baseline)

    def playing(
        self,
        model: nn.Module,
        run: Callable[[Rows], Any],
        inputs: Rows,
        baseline: Mapping[str, Tensor],
        largest_batch: int | None = None,
    ) -> "AbstractContextManager[Masking]":
        """Prepare a model for the evaluation of some inputs, and put it back afterwards; nothing to do unless overridden.

        Args:
            model: What is evaluated.
            run: Runs it on rows.
            inputs: All inputs whose masked versions are evaluated in the body.
            baseline: As for :meth:`mask`.
            largest_batch: Most rows that may be run together.

        Returns:
            A context with what masks these inputs.
        """
        return nullcontext(self.masking(inputs, baseline))

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Name the players for reports, in their order."""
        return tuple(f"player {player}" for player in range(self.num_players(inputs)))

    def labels(self, inputs: Rows) -> list[tuple[str, ...]]:
        """Say what the players of each row are, for pictures of it: their names unless overridden; ``""`` for empty players."""
        return [self.names(inputs)] * len(inputs)

    @property
    def rows_differ(self) -> bool:
        """Whether players of different rows are different things, which only :meth:`labels` tell apart."""
        return False

    def naming_hint(self, inputs: Rows) -> str:
        """Write players that have the names a user knows them by; empty where these have them, or need none."""
        return ""

    def default_baseline(self, inputs: Rows) -> Baseline:
        """Return what masked players of this kind are replaced with if nobody says it."""
        return Zeros()

    def summary(self, inputs: Rows) -> str:
        """Say in one line which players some inputs have."""
        tensors = {name: inputs.leaves[name] for name in self.leaves(inputs)}
        return f"{self.num_players(inputs)} players of {describe_tree(tensors)}: {self!r}"


class Masking:
    """Rows that are masked many times.

    Args:
        players: The input variables.
        inputs: Some rows.
        baseline: For each masked tensor a baseline value that broadcasts to one row of it, or one with a value for each row.
    """

    def __init__(self, players: Players, inputs: Rows, baseline: Mapping[str, Tensor]) -> None:
        self.players = players
        self.inputs = inputs
        self.baseline = dict(baseline)

    def masked(self, rows: Int[Tensor, " masked"], coalitions: Bool[Tensor, "masked players"]) -> Rows:
        """Mask some of the rows.

        Args:
            rows: Which, by number, on the CPU; a row may be asked for many times.
            coalitions: True for the players that stay, one row for each number.
        """
        return self.players.mask(self._selected(rows), coalitions, self._own_baseline(rows))

    def at_baseline(self) -> Bool[Tensor, "inputs players"]:
        """Say who has the baseline value anyway, such as a patch of black background: masking changes nothing then."""
        rows = torch.arange(len(self.inputs))
        players = torch.arange(self.players.num_players(self.inputs), device=self.inputs.device)

        def is_unchanged(player: Tensor) -> Bool[Tensor, " inputs"]:
            masked = self.masked(rows, (players != player).expand(len(rows), -1))
            own = [(masked.leaves[name] == self.inputs.leaves[name]).flatten(1) for name in self.baseline]
            return torch.stack([same.all(dim=1) for same in own]).all(dim=0)

        return torch.stack([is_unchanged(player) for player in players], dim=1)

    def _selected(self, rows: Int[Tensor, " masked"]) -> Rows:
        """Read a single row in place; rows are copied only where there are several."""
        one = len(rows) > 1 and bool((rows == rows[0]).all())
        return self.inputs.select(rows[:1]).expand(len(rows)) if one else self.inputs.select(rows)

    def _own_baseline(self, rows: Int[Tensor, " masked"]) -> dict[str, Tensor]:
        ndims = {name: leaf.ndim for name, leaf in self.inputs.leaves.items()}
        return {
            name: value[rows.to(value.device)] if value.ndim == ndims.get(name) and len(value) == len(self.inputs) else value
            for name, value in self.baseline.items()
        }


class AssignedPlayers(Players):
    """Players to whom the entries of one tensor or several are assigned."""

    @abstractmethod
    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Say which player each entry of the masked tensors belongs to; -1 for nobody.

        Returns:
            For each masked tensor ``[inputs, ...]`` numbers with as many axes that broadcast to it: the first is 1 long if
            they are the same in every row.
        """

    def mask(self, inputs: Rows, coalitions: Bool[Tensor, "inputs players"], baseline: Mapping[str, Tensor]) -> Rows:
        """Replace the entries of players that are not in the coalition; see :class:`Players`."""
        return _masked(inputs, self.assignments(inputs), coalitions, baseline)

    def masking(self, inputs: Rows, baseline: Mapping[str, Tensor]) -> Masking:
        """Assign the entries once; see :class:`Players`."""
        return _AssignedMasking(self, inputs, baseline)


class _AssignedMasking(Masking):
    def __init__(self, players: AssignedPlayers, inputs: Rows, baseline: Mapping[str, Tensor]) -> None:
        super().__init__(players, inputs, baseline)
        self._assignments = {name: own.to(inputs.device) for name, own in players.assignments(inputs).items()}

    def masked(self, rows: Int[Tensor, " masked"], coalitions: Bool[Tensor, "masked players"]) -> Rows:
        own = {name: one if len(one) == 1 else one[rows.to(one.device)] for name, one in self._assignments.items()}
        return _masked(self._selected(rows), own, coalitions, self._own_baseline(rows))


class OneLeaf(AssignedPlayers):
    """Players of one tensor.

    Args:
        leaf: Name of the tensor among the inputs, such as ``"image"``; the only one that fits if left out. Tensors whose name
            says that they tell padding, such as ``attention_mask``, are no candidates beside others.
    """

    def __init__(self, leaf: str | None = None) -> None:
        self.leaf = leaf

    @property
    @abstractmethod
    def expects(self) -> str:
        """What a tensor must be to have such players, in words."""

    @abstractmethod
    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor ``[inputs, ...]`` has such players."""

    def leaves(self, inputs: Rows) -> tuple[str]:
        """Name the masked tensor; see :class:`Players`."""
        tensors = inputs.leaves
        if self.leaf is not None:
            if self.leaf not in tensors or not self.fits(tensors[self.leaf]):
                raise ValueError(
                    f"players: {self!r} expects {self.expects}, named {self.leaf!r}, got {describe_tree(inputs.tree)}"
                )
            return (self.leaf,)
        fitting = [name for name, tensor in tensors.items() if self.fits(tensor)]
        fitting = [name for name in fitting if not names_padding(name)] or fitting
        if len(fitting) != 1:
            raise ValueError(
                f"players: {self!r} expects {self.expects}, the only one of the inputs, got {describe_tree(inputs.tree)}"
                + (f"; say which with leaf= one of {fitting}" if fitting else "; pass other players")
            )
        return (fitting[0],)

    def tensor(self, inputs: Rows) -> Tensor:
        """Return the masked tensor."""
        return inputs.leaves[self.leaves(inputs)[0]]


class LeafPlayers(OneLeaf):
    """Players of one tensor, each entry of which belongs to one player or to nobody, the same in every row.

    Args:
        leaf: Name of the tensor among the inputs, such as ``"image"``; the only one that fits if left out.
    """

    @abstractmethod
    def assignment(self, tensor: Tensor) -> Int[Tensor, "..."]:
        """Say which player each entry of a row belongs to, -1 for nobody; broadcasts to one row from the right."""

    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Say which player each entry belongs to; see :class:`AssignedPlayers`."""
        (name,) = self.leaves(inputs)
        tensor = inputs.leaves[name]
        own = self.assignment(tensor)
        return {name: own.reshape([1] * (tensor.ndim - own.ndim) + list(own.shape))}

    def num_players(self, inputs: Rows) -> int:
        """Count the players; see :class:`Players`."""
        return int(self.assignment(self.tensor(inputs)).max()) + 1


def near_equal_groups(number: int, groups: int, device: torch.device | None = None) -> Int[Tensor, " number"]:
    """Put so many neighbours into so many groups whose sizes differ by one at most."""
    return torch.arange(number, device=device) * groups // number


def joined_names(names: Sequence[str]) -> str:
    """Name a group by its members, in short."""
    return "+".join(names) if len(names) < 4 else f"{names[0]}…{names[-1]}"


def _masked(
    inputs: Rows,
    assignments: Mapping[str, Int[Tensor, "..."]],
    coalitions: Bool[Tensor, "inputs players"],
    baseline: Mapping[str, Tensor],
) -> Rows:
    # The column behind the last player is that of nobody, who is in every coalition: it has the index -1.
    stay = torch.cat([coalitions, coalitions.new_ones(len(coalitions), 1)], dim=1)
    masked = {}
    for name, assignment in assignments.items():
        own = assignment.to(stay.device)
        alike = len(own) == 1
        keep = stay[:, own[0]] if alike else stay.gather(1, own.flatten(1) % stay.shape[1]).reshape(own.shape)
        masked[name] = torch.where(keep, inputs.leaves[name], baseline[name])
    return inputs.replace(masked)
