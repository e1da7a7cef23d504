"""The memory layout of images: with channels last, convolutional networks take half to all of the time on CPUs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_interactions.game.axes import axis_of_channels
from lightning_interactions.records import Rows

__all__ = ["TRIED_ROWS", "as_it_is", "channels_last", "gains_from_channels_last", "same_with_channels_last"]

TRIED_ROWS = 8
"""Rows that are scored in both layouts."""

FEWEST_ROWS = 16 * TRIED_ROWS
"""With fewer rows to score, trying takes longer than is won."""

ROUNDING = 64.0
"""Largest difference between both layouts in units of the relative rounding error of the largest score."""


def as_it_is(rows: Rows) -> Rows:
    """Leave the layout as it is."""
    return rows


def _has_channels_first(leaf: Tensor) -> bool:
    return leaf.ndim == 4 and leaf.is_floating_point() and axis_of_channels(leaf) == 1


def channels_last(rows: Rows) -> Rows:
    """Copy images to memory in which the channels of a pixel are neighbours; shapes and numbers stay the same."""
    return rows.map(
        # A clone has the strides of this layout even where one channel makes both the same memory.
        lambda leaf: leaf.clone(memory_format=torch.channels_last) if _has_channels_first(leaf) else leaf
    )


def gains_from_channels_last(model: nn.Module, inputs: Rows, num_rows: int) -> bool:
    """Say whether the layout is worth a trial: a network with convolutions, on a CPU, and enough rows of images."""
    return (
        inputs.device.type == "cpu"
        and num_rows >= FEWEST_ROWS
        and any(map(_has_channels_first, inputs.leaves.values()))
        and any(isinstance(module, nn.Conv2d) for module in model.modules())
    )


def same_with_channels_last(scores: Callable[[Callable[[Rows], Rows]], Tensor]) -> bool:
    """Find out by trial whether a model scores some rows alike in both layouts, up to rounding.

    Args:
        scores: Scores the rows after it has applied what it gets to them.
    """
    try:
        found = scores(channels_last)
    except Exception:  # Such as a view that only contiguous images have; any other error comes again without the layout.
        return False
    expected = scores(as_it_is)
    largest = expected.abs().max() if expected.numel() else expected.new_ones(())
    return bool(((found - expected).abs() <= ROUNDING * torch.finfo(expected.dtype).eps * largest).all())
