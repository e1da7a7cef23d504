"""Fingerprints of inputs, to find out whether reference models have seen a probe."""

import hashlib

from torch import Tensor

__all__ = ["fingerprints"]


def fingerprints(inputs: Tensor) -> list[str]:
    """Hash every input of a batch by its content.

    Args:
        inputs: ``[inputs, ...]``, on any device.

    Returns:
        One hexadecimal digest for each input; inputs of equal shape and equal values have equal digests, in whatever
        floating-point dtype (compared in float32).
    """
    rows = inputs.detach().cpu()
    if rows.is_floating_point():
        # Two runs may see the same input in different precision.
        rows = rows.float()
    kind = f"{rows.dtype}{tuple(rows.shape[1:])}".encode()
    return [hashlib.sha256(kind + row.numpy().tobytes()).hexdigest() for row in rows]
