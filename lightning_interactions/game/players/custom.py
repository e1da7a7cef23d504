"""Players that a function of one's own assigns."""

from collections.abc import Callable

from jaxtyping import Int
from torch import Tensor

from lightning_interactions.game.players.base import OneLeaf
from lightning_interactions.records import Rows

__all__ = ["CustomPlayers"]


class CustomPlayers(OneLeaf):
    """Players by a function that says which one each entry of a tensor belongs to: superpixels, bands of a spectrum, joints.

    Args:
        function: Takes the tensor ``[inputs, ...]`` and returns integers that broadcast to it: the player ``0 … number - 1``
            of each entry, or -1 for entries that belong to nobody and stay. It must give a row the same players whichever
            rows are beside it.
        number: How many players there are, the same for all inputs. A row need not have all.
        leaf: Name of the tensor among the inputs; the only tensor if left out.

    Raises:
        ValueError: If ``number`` is smaller than 1.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], number: int, leaf: str | None = None) -> None:
        if number < 1:
            raise ValueError(f"players: expected at least one player, got number={number}")
        super().__init__(leaf)
        self.function = function
        self.number = number

    @property
    def expects(self) -> str:
        """What a tensor must be, in words."""
        return "a tensor [inputs, ...] with an axis besides that of the inputs"

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor has entries to assign."""
        return tensor.ndim > 1

    def num_players(self, inputs: Rows) -> int:
        """Return the given number; see :class:`~lightning_interactions.players.Players`."""
        self.leaves(inputs)
        return self.number

    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Ask the function; see :class:`~lightning_interactions.players.AssignedPlayers`.

        Raises:
            ValueError: If it does not return integers from -1 to ``number - 1`` that broadcast to the tensor.
        """
        (name,) = self.leaves(inputs)
        tensor = inputs.leaves[name]
        own = self.function(tensor)
        if not isinstance(own, Tensor) or own.is_floating_point() or own.is_complex() or not _broadcasts(own, tensor):
            got = f"{own.dtype} {tuple(own.shape)}" if isinstance(own, Tensor) else type(own).__name__
            raise ValueError(
                f"players: expected a function that returns integers which broadcast to {tuple(tensor.shape)}, got {got}"
            )
        if own.numel() and not -1 <= int(own.min()) <= int(own.max()) < self.number:
            raise ValueError(
                f"players: expected a function that returns players from 0 to {self.number - 1}, and -1 for nobody, got "
                f"{int(own.min())} to {int(own.max())}; pass number= as many as there are"
            )
        return {name: own.long().reshape([1] * (tensor.ndim - own.ndim) + list(own.shape))}


def _broadcasts(own: Tensor, tensor: Tensor) -> bool:
    sizes = zip(own.shape[::-1], tensor.shape[::-1], strict=False)
    return own.ndim <= tensor.ndim and all(one in (1, size) for one, size in sizes)
