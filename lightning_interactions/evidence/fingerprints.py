"""Fingerprints of inputs, to find out whether reference models have seen a probe."""

import hashlib

from torch import Tensor

__all__ = ["fingerprints"]


def fingerprints(inputs: Tensor) -> list[str]:
    """Hash every input of a batch by its content.

    Args:
        inputs: ``[inputs, ...]``, on any device.

    Returns:
        One hexadecimal digest for each input; equal inputs of equal dtype and shape have equal digests.
    """
    rows = inputs.detach().cpu().contiguous()
    kind = f"{rows.dtype}{tuple(rows.shape[1:])}".encode()
    return [hashlib.sha256(kind + row.numpy().tobytes()).hexdigest() for row in rows]
