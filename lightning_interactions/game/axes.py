"""Which axis of a tensor holds channels, time or points, where its shape says so."""

from typing import Literal

from torch import Tensor

__all__ = ["Channels", "axis_of_channels", "longer_axis"]

Channels = Literal["first", "last", "none"]
"""Where the channels of images are; ``"none"`` for images without such an axis."""

COLOURS = (1, 3, 4)
"""Channels of grey, coloured and transparent images."""

CLEARLY_LONGER = 2


def axis_of_channels(images: Tensor, channels: Channels | None = None) -> int | None:
    """Return the axis of the channels of images ``[inputs, ...]``.

    Channels are last where the last axis is 1, 3 or 4 long, the second is not, and height and width are not equal to it; they
    are first otherwise.

    Args:
        images: A batch.
        channels: Where the channels are, if it is known.

    Returns:
        1, or the last axis, or ``None`` for ``"none"``.
    """
    if channels is not None:
        return {"first": 1, "last": images.ndim - 1, "none": None}[channels]
    *_, width, last = images.shape
    return images.ndim - 1 if last in COLOURS and images.shape[1] not in COLOURS and width != last else 1


def longer_axis(tensor: Tensor) -> int | None:
    """Return which of the two axes of rows ``[inputs, a, b]`` is at least twice as long as the other; ``None`` if none is."""
    one, other = tensor.shape[1:]
    if one >= CLEARLY_LONGER * other:
        return 1
    return 2 if other >= CLEARLY_LONGER * one else None
