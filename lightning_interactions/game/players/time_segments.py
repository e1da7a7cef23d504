"""Segments of a series, a signal or a recording as players."""

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_interactions.game.axes import longer_axis
from lightning_interactions.game.players.base import NOBODY, OneLeaf
from lightning_interactions.game.players.padding import check_positions, real_positions
from lightning_interactions.records import Rows

__all__ = ["TimeSegments"]


class TimeSegments(OneLeaf):
    """Near-equal segments of time, all channels together: of the valid length of each row; padding stays.

    A row that is shorter than the number of segments has empty players: masking them changes nothing.

    Args:
        number: How many segments.
        leaf: Name of the series ``[inputs, time]``, ``[inputs, channels, time]`` or ``[inputs, time, channels]``; the only one
            that fits if left out.
        axis: Axis of time, counted with the batch axis: 1 or 2. If left out, the one that is at least twice as long.
        valid: Name of the lengths ``[inputs]`` or of the mask ``[inputs, time]`` that is true where a row is real. Found by
            its usual names, such as ``lengths``, if left out.
        padded: Name of a mask that is true at padding, such as ``key_padding_mask``.

    Raises:
        ValueError: If ``number`` is smaller than 1, the axis is neither 1 nor 2, or both ``valid`` and ``padded`` are given.
    """

    def __init__(
        self,
        number: int = 10,
        leaf: str | None = None,
        axis: int | None = None,
        valid: str | None = None,
        padded: str | None = None,
    ) -> None:
        if number < 1 or axis not in (None, 1, 2):
            raise ValueError(f"players: expected at least one segment along axis 1 or 2, got number={number}, axis={axis}")
        check_positions(valid, padded)
        super().__init__(leaf)
        self.number = number
        self.axis = axis
        self.valid = valid
        self.padded = padded
        self._axis_before: int | None = None

    @property
    def expects(self) -> str:
        """What a tensor must be, in words."""
        return "a floating-point series [inputs, time], [inputs, channels, time] or [inputs, time, channels]"

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor may be a batch of series."""
        return tensor.is_floating_point() and tensor.ndim in (2, 3) and 0 not in tensor.shape[1:] and self.axis != tensor.ndim

    def num_players(self, inputs: Rows) -> int:
        """Count the segments; see :class:`~lightning_interactions.players.Players`."""
        self._time_axis(self.tensor(inputs))
        return self.number

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Number the segments from 1 on; see :class:`~lightning_interactions.players.Players`."""
        return tuple(f"segment {place}" for place in range(1, self.number + 1))

    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Say which segment each moment belongs to; see :class:`~lightning_interactions.players.AssignedPlayers`."""
        (name,) = self.leaves(inputs)
        series = inputs.leaves[name]
        axis = self._time_axis(series)
        real = real_positions(inputs, series.shape[axis], self.valid, self.padded, of=name)
        if real is None:
            real = torch.ones(1, series.shape[axis], dtype=torch.bool, device=series.device)
        place, total = real.cumsum(dim=1) - 1, real.sum(dim=1, keepdim=True).clamp(min=1)
        own = torch.where(real, place * self.number // total, NOBODY)
        shape = [1] * series.ndim
        shape[0], shape[axis] = own.shape
        return {name: own.reshape(shape)}

    def _time_axis(self, series: Tensor) -> int:
        axis = 1 if series.ndim == 2 else self.axis or longer_axis(series)
        if axis is None or self._axis_before not in (None, axis):
            raise ValueError(
                "players: expected series of which one axis is at least twice as long as the other, and always the same one, "
                f"got {tuple(series.shape)}; say which axis is time with TimeSegments(axis=1) or TimeSegments(axis=2)"
            )
        if series.ndim == 3:
            self._axis_before = axis
        return axis
