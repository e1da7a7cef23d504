"""What every kind of players can do, and what those share that mask one tensor of the inputs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lightning_interactions.records import Rows
from lightning_interactions.records.describe import describe
from lightning_interactions.records.trees import describe_tree

__all__ = ["LeafPlayers", "Players"]


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

        Every entry of an input belongs to one player: what replaces it does not depend on the other players. So a player
        whose masking changes nothing when all others are there never changes anything.

        Args:
            inputs: Some rows.
            coalitions: True for the players that stay, one row for each input.
            baseline: For each masked tensor a baseline value that broadcasts to one row of it.

        Returns:
            Masked inputs of the same shapes.
        """

    def playing(
        self, model: nn.Module, run: Callable[[Rows], Any], inputs: Rows, largest_batch: int | None = None
    ) -> "AbstractContextManager[Players]":
        """Prepare a model for the evaluation of some inputs, and put it back afterwards; nothing to do unless overridden.

        Args:
            model: What is evaluated.
            run: Runs it on rows.
            inputs: All inputs whose masked versions are evaluated in the body.
            largest_batch: Most rows that may be run together.

        Returns:
            A context with the players that know these inputs.
        """
        return nullcontext(self)

    def versions(
        self,
        inputs: Rows,
        rows: Int[Tensor, " versions"],
        coalitions: Bool[Tensor, "versions players"],
        baseline: Mapping[str, Tensor],
    ) -> Rows:
        """Mask some of the inputs in play; see :meth:`mask`.

        Args:
            inputs: All inputs in play.
            rows: Which of them, on the CPU, in ascending order; the same one may come many times.
            coalitions: True for the players that stay, one row for each version.
            baseline: Baseline values.
        """
        # One row is read in place; rows are copied only where there are several.
        one = len(rows) > 1 and int(rows[0]) == int(rows[-1])
        return self.mask(inputs.select(rows[:1]).expand(len(rows)) if one else inputs.select(rows), coalitions, baseline)

    def at_baseline(self, inputs: Rows, baseline: Mapping[str, Tensor]) -> Bool[Tensor, "inputs players"]:
        """Say who has the baseline value anyway, such as a patch of black background: masking changes nothing then."""
        players = torch.arange(self.num_players(inputs), device=inputs.device)

        def is_unchanged(player: Tensor) -> Bool[Tensor, " inputs"]:
            masked = self.mask(inputs, (players != player).expand(len(inputs), -1), baseline)
            same = [(masked.leaves[name] == inputs.leaves[name]).flatten(1).all(dim=1) for name in self.leaves(inputs)]
            return torch.stack(same).all(dim=0)

        return torch.stack([is_unchanged(player) for player in players], dim=1)


class LeafPlayers(Players):
    """Players of one tensor, each entry of which belongs to one player, the same in every row.

    Args:
        leaf: Name of the tensor among the inputs, such as ``"image"``; the only one that fits if left out.
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

    @abstractmethod
    def assignment(self, tensor: Tensor) -> Int[Tensor, "..."]:
        """Say which player each entry of a row belongs to; broadcasts to one row from the right."""

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
        if len(fitting) != 1:
            raise ValueError(
                f"players: {self!r} expects {self.expects}, the only one of the inputs, got {describe_tree(inputs.tree)}"
                + (f"; say which with leaf= one of {fitting}" if fitting else "; pass other players")
            )
        return (fitting[0],)

    def num_players(self, inputs: Rows) -> int:
        """Count the players; see :class:`Players`."""
        return int(self.assignment(inputs.leaves[self.leaves(inputs)[0]]).max()) + 1

    def mask(self, inputs: Rows, coalitions: Bool[Tensor, "inputs players"], baseline: Mapping[str, Tensor]) -> Rows:
        """Replace the entries of players that are not in the coalition; see :class:`Players`."""
        (name,) = self.leaves(inputs)
        tensor = inputs.leaves[name]
        assignment = self.assignment(tensor)
        keep = coalitions[:, assignment.to(coalitions.device)]
        keep = keep.reshape(len(tensor), *[1] * (tensor.ndim - 1 - assignment.ndim), *assignment.shape)
        return inputs.replace({name: torch.where(keep, tensor, baseline[name])})
