"""One place that decides in which arithmetic a computation runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch

__all__ = ["Arithmetic", "full_precision"]

OPERATIONS = attrgetter("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
"""The operations whose float32 arithmetic torch can reduce."""


class Arithmetic:
    """In which float32 arithmetic torch computes at one moment, to be gone back to."""

    def __init__(self) -> None:
        self._operations = [(operation, operation.fp32_precision) for operation in OPERATIONS(torch.backends)]
        try:
            self._matmul_precision = torch.get_float32_matmul_precision()
        except RuntimeError:
            # Set by operation, which leaves the older setting at its default and unreadable.
            self._matmul_precision = "highest"
        try:
            self._convolutions_in_tf32 = torch.backends.cudnn.allow_tf32
        except RuntimeError:
            self._convolutions_in_tf32 = True

    @property
    def is_full(self) -> bool:
        """Whether nothing is reduced."""
        is_ieee = all(setting == "ieee" for _, setting in self._operations)
        return is_ieee and self._matmul_precision == "highest" and not self._convolutions_in_tf32

    def restore(self) -> None:
        """Set all back; may be called again."""
        # The older settings go first in both directions: they also change the newer ones.
        torch.set_float32_matmul_precision(self._matmul_precision)
        torch.backends.cudnn.allow_tf32 = self._convolutions_in_tf32
        for operation, setting in self._operations:
            operation.fp32_precision = setting


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run the body in the dtype of its tensors: no autocast, no TF32 or bfloat16 inside a matrix product.

    Interactions are alternating sums over all coalitions, so a rounding of the outputs grows with the order: reduced
    precision shows up as high-order interactions that are not there.

    Args:
        device: The device that the computation runs on.
    """
    before = Arithmetic()
    if before.is_full:
        # Nothing to restore: an interrupt may end this after what it runs in.
        with torch.autocast(device.type, enabled=False):
            yield
        return
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for operation in OPERATIONS(torch.backends):
            operation.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        before.restore()
