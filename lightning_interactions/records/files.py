"""Reading files that anybody may have written: tensors and primitives alone, and one error for all that is wrong."""

from pathlib import Path
from typing import Any

import torch

__all__ = ["UnreadableError", "load_safely"]

ZIP = b"PK\x03\x04"
"""How a file begins of which parts can be read; torch wrote others long ago."""

LONGEST_REASON = 300


class UnreadableError(ValueError):
    """A file is broken, or holds more than tensors and primitives."""


def load_safely(path: str | Path, *, whole: bool = False) -> Any:
    """Load what ``torch.save`` wrote, onto the CPU, without running code that is in it.

    Args:
        path: The file.
        whole: Read it whole. Else its tensors are read when they are looked at, and must not be kept: whoever writes into the
            file afterwards changes them, or ends the process.

    Returns:
        What was saved. What became of its numbers in a broken file is not known; who reads it checks them.

    Raises:
        UnreadableError: If it is broken, or holds more than tensors and primitives.
        OSError: If it cannot be opened.
    """
    with Path(path).open("rb") as file:
        beginning = file.read(len(ZIP))
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=beginning == ZIP and not whole)
    except Exception as error:  # Unpickling makes anything of bytes that it does not expect.
        reason = str(error).strip().splitlines()
        raise UnreadableError(
            f"expected a file with tensors and primitives alone at {path}, got one that cannot be read safely "
            f"({(reason[0] if reason else type(error).__name__)[:LONGEST_REASON]})"
        ) from error
