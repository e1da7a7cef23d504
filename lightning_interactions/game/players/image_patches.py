"""Patches of an image as players."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_interactions.game.players.base import mask_by_assignment

__all__ = ["ImagePatches"]


@dataclass(frozen=True)
class ImagePatches:
    """A grid of image patches, all channels together; any image size, patches at most one pixel unequal.

    Attributes:
        rows: Number of patches from top to bottom.
        cols: Number of patches from left to right.

    Raises:
        ValueError: If ``rows`` or ``cols`` is smaller than 1.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        """Refuse an empty grid."""
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"players: expected at least one row and one column of patches, got {self.rows}x{self.cols}")

    def num_players(self, inputs: Float[Tensor, "inputs channels height width"]) -> int:
        """Count the patches: ``rows * cols``; player ``r * cols + c`` is the patch in row ``r`` and column ``c``.

        Raises:
            ValueError: If the inputs are no images, or too small for the grid.
        """
        if inputs.ndim != 4 or inputs.shape[-2] < self.rows or inputs.shape[-1] < self.cols:
            raise ValueError(
                f"players: {self.rows}x{self.cols} patches need a batch of images [inputs, channels, height, width] with at "
                f"least {self.rows}x{self.cols} pixels, got input of shape {tuple(inputs.shape)}"
            )
        return self.rows * self.cols

    def mask(
        self,
        inputs: Float[Tensor, "inputs channels height width"],
        coalitions: Bool[Tensor, "inputs players"],
        baseline: Tensor,
    ) -> Float[Tensor, "inputs channels height width"]:
        """Replace the patches that are not in the coalition; see :class:`Players`."""
        return mask_by_assignment(inputs, coalitions, baseline, self._assignment(inputs))

    def _assignment(self, inputs: Tensor) -> Int[Tensor, "height width"]:
        height, width = inputs.shape[-2:]
        row = torch.arange(height, device=inputs.device) * self.rows // height
        col = torch.arange(width, device=inputs.device) * self.cols // width
        return row[:, None] * self.cols + col
