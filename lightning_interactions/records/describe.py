"""Objects in words that are the same in every process: for ``repr`` and for comparing settings."""

import hashlib
from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["describe"]


def describe(value: Any) -> str:
    """Say a setting by its type and its public attributes; tensors by shape and digest, functions by name.

    Args:
        value: Anything; attributes that begin with an underscore do not count.
    """
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"tensor({value.item()})"
        content = value.detach().cpu().contiguous().double().numpy().tobytes()
        return f"tensor({tuple(value.shape)}, {hashlib.sha256(content).hexdigest()[:12]})"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{describe(key)}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(describe, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"[{', '.join(sorted(map(describe, value)))}]"
    if isinstance(value, partial):
        return f"partial({describe(value.func)}, {describe(value.args)}, {describe(value.keywords)})"
    if hasattr(value, "__qualname__"):
        return str(getattr(value, "__qualname__", value))
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, np.ndarray):
        return describe(torch.as_tensor(value))
    if not hasattr(value, "__dict__"):  # Devices, dtypes, ranges, paths.
        said = repr(value)
        return type(value).__name__ if " at 0x" in said else said
    attributes = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return f"{type(value).__name__}({', '.join(f'{name}={describe(item)}' for name, item in attributes.items())})"
