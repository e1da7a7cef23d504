"""One place that decides in which arithmetic a computation runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch

__all__ = ["full_precision"]

OPERATIONS = attrgetter("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
"""The operations whose float32 arithmetic torch can reduce."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run the body in the dtype of its tensors: no autocast, no TF32 or bfloat16 inside a matrix product.

    Interactions are alternating sums over all coalitions, so a rounding of the outputs grows with the order: reduced
    precision shows up as high-order interactions that are not there.

    Args:
        device: The device that the computation runs on.
    """
    operations = OPERATIONS(torch.backends)
    settings = [operation.fp32_precision for operation in operations]
    try:
        matmul_precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        # Set by operation, which leaves the older setting at its default and unreadable.
        matmul_precision = "highest"
    try:
        convolutions_in_tf32 = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        convolutions_in_tf32 = True
    # The older settings go first in both directions: they also change the newer ones.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul_precision)
        torch.backends.cudnn.allow_tf32 = convolutions_in_tf32
        for operation, setting in zip(operations, settings, strict=True):
            operation.fp32_precision = setting
