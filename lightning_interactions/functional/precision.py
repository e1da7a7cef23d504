"""One place that decides in which arithmetic a computation runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run the body in the dtype of its tensors: no autocast, no TF32 or bfloat16 inside a matrix product.

    Interactions are alternating sums over all coalitions, so a rounding of the outputs grows with the order: reduced
    precision shows up as high-order interactions that are not there.

    Args:
        device: The device that the computation runs on.
    """
    matmul_precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul_precision)
