"""Patches of an image as players."""

from functools import lru_cache
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_interactions.game.axes import Channels, axis_of_channels
from lightning_interactions.game.players.base import LeafPlayers, near_equal_groups
from lightning_interactions.records import Rows

__all__ = ["ImagePatches"]


class ImagePatches(LeafPlayers):
    """A grid of image patches, all channels together; any image size, patches at most one pixel unequal.

    Player ``r * cols + c`` is the patch in row ``r`` and column ``c``; with ``depth``, ``(d * rows + r) * cols + c``.

    Args:
        rows: Number of patches from top to bottom.
        cols: Number of patches from left to right.
        depth: Number of patches from front to back, for volumes ``[inputs, channels, depth, height, width]``.
        leaf: Name of the images ``[inputs, channels, height, width]`` among the inputs; the only one that fits if left out.
        channels: ``"first"``, ``"last"``, or ``"none"`` for images without an axis of channels. If left out, they are last
            where only the last axis can be 1, 3 or 4 channels, and first otherwise.

    Raises:
        ValueError: If a number of patches is smaller than 1.
    """

    def __init__(
        self, rows: int, cols: int, depth: int | None = None, leaf: str | None = None, channels: Channels | None = None
    ) -> None:
        if rows < 1 or cols < 1 or (depth is not None and depth < 1):
            got = f"{rows}x{cols}" if depth is None else f"{depth}x{rows}x{cols}"
            raise ValueError(f"players: expected at least one row and one column of patches, got {got}")
        super().__init__(leaf)
        self.rows = rows
        self.cols = cols
        self.depth = depth
        self.channels = channels

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of patches along each axis of the image."""
        return (self.rows, self.cols) if self.depth is None else (self.depth, self.rows, self.cols)

    @property
    def expects(self) -> str:
        """What a tensor must be, in words."""
        axes = ["height", "width"] if self.depth is None else ["depth", "height", "width"]
        if self.channels != "none":
            axes.insert(len(axes) if self.channels == "last" else 0, "channels")
        what = "pixels" if self.depth is None else "voxels"
        return f"images [inputs, {', '.join(axes)}] of at least {'x'.join(map(str, self.grid))} {what}"

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor is a batch of images that are large enough for the grid."""
        if tensor.ndim != len(self.grid) + (1 if self.channels == "none" else 2):
            return False
        return all(size >= patches for size, patches in zip(self._sizes(tensor), self.grid, strict=True))

    def assignment(self, tensor: Tensor) -> Int[Tensor, "..."]:
        """Say which patch each pixel belongs to."""
        grid = _grid(self.grid, self._sizes(tensor), tensor.device)
        return grid[..., None] if axis_of_channels(tensor, self.channels) == tensor.ndim - 1 else grid

    def num_players(self, inputs: Rows) -> int:
        """Count the patches; see :class:`~lightning_interactions.players.Players`."""
        self.leaves(inputs)
        return prod(self.grid)

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Name the patches by row and column, from 1 on; see :class:`~lightning_interactions.players.Players`."""
        places = torch.cartesian_prod(*(torch.arange(1, patches + 1) for patches in self.grid)).tolist()
        words = ("row", "column") if self.depth is None else ("layer", "row", "column")
        return tuple(", ".join(f"{word} {at}" for word, at in zip(words, place, strict=True)) for place in places)

    def _sizes(self, images: Tensor) -> tuple[int, ...]:
        channels = axis_of_channels(images, self.channels)
        return tuple(size for axis, size in enumerate(images.shape) if axis not in (0, channels))


@lru_cache(maxsize=16)
def _grid(grid: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> Int[Tensor, "..."]:
    """Number the patches; kept, because every batch asks for it."""
    numbers = torch.zeros((), dtype=torch.long, device=device)
    for patches, size in zip(grid, sizes, strict=True):
        numbers = numbers[..., None] * patches + near_equal_groups(size, patches, device)
    return numbers
