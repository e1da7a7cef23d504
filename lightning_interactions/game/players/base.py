"""What every kind of players can do."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["Players", "mask_by_assignment"]


@runtime_checkable
class Players(Protocol):
    """The input variables of a model, and how to mask some of them."""

    def num_players(self, inputs: Tensor) -> int:
        """Count the players of a batch of inputs.

        Raises:
            ValueError: If inputs of this shape do not have such players.
        """
        ...

    def mask(self, inputs: Tensor, coalitions: Bool[Tensor, "inputs players"], baseline: Tensor) -> Tensor:
        """Keep the players of one coalition for each input and replace the others with the baseline value.

        Every entry of an input belongs to one player: what replaces it does not depend on the other players. So a player
        whose masking changes nothing when all others are there never changes anything.

        Args:
            inputs: A batch of inputs.
            coalitions: True for the players that stay, one row for each input.
            baseline: Baseline value that broadcasts to one input.

        Returns:
            Masked inputs of the shape of ``inputs``.
        """
        ...


def mask_by_assignment(inputs: Tensor, coalitions: Tensor, baseline: Tensor, assignment: Tensor) -> Tensor:
    """Mask inputs where a fixed map says which player each entry belongs to.

    Args:
        inputs: ``[inputs, ...]``.
        coalitions: ``[inputs, players]``, true for the players that stay.
        baseline: Baseline value that broadcasts to one input.
        assignment: Player of each entry; broadcasts to one input from the right.

    Returns:
        Masked inputs of the shape of ``inputs``.
    """
    keep = coalitions[:, assignment.to(coalitions.device)]
    keep = keep.reshape(len(inputs), *[1] * (inputs.ndim - 1 - assignment.ndim), *assignment.shape)
    return torch.where(keep, inputs, baseline)
