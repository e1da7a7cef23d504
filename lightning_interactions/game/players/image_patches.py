"""Patches of an image as players."""

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_interactions.game.players.base import LeafPlayers

__all__ = ["ImagePatches"]


class ImagePatches(LeafPlayers):
    """A grid of image patches, all channels together; any image size, patches at most one pixel unequal.

    Player ``r * cols + c`` is the patch in row ``r`` and column ``c``.

    Args:
        rows: Number of patches from top to bottom.
        cols: Number of patches from left to right.
        leaf: Name of the images ``[inputs, channels, height, width]`` among the inputs; the only one that fits if left out.

    Raises:
        ValueError: If ``rows`` or ``cols`` is smaller than 1.
    """

    def __init__(self, rows: int, cols: int, leaf: str | None = None) -> None:
        if rows < 1 or cols < 1:
            raise ValueError(f"players: expected at least one row and one column of patches, got {rows}x{cols}")
        super().__init__(leaf)
        self.rows = rows
        self.cols = cols

    @property
    def expects(self) -> str:
        """What a tensor must be, in words."""
        return f"images [inputs, channels, height, width] of at least {self.rows}x{self.cols} pixels"

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor is a batch of images that are large enough for the grid."""
        return tensor.ndim == 4 and tensor.shape[-2] >= self.rows and tensor.shape[-1] >= self.cols

    def assignment(self, tensor: Tensor) -> Int[Tensor, "height width"]:
        """Say which patch each pixel belongs to."""
        height, width = tensor.shape[-2:]
        return _grid(self.rows, self.cols, height, width, tensor.device)


@lru_cache(maxsize=16)
def _grid(rows: int, cols: int, height: int, width: int, device: torch.device) -> Int[Tensor, "height width"]:
    """Number the patches; kept, because every batch asks for it."""
    row = torch.arange(height, device=device) * rows // height
    col = torch.arange(width, device=device) * cols // width
    return row[:, None] * cols + col
