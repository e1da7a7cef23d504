"""What decides the weights of a trained reference model, in words that are the same in every process."""

import hashlib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions.evidence import fingerprints
from lightning_interactions.measuring.generators import preserve_generators
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.measuring.probes import Unpack, load_samples

__all__ = ["describe", "describe_data", "describe_module"]

DEPTH = 4
"""How far attributes of attributes are followed."""

CHUNK = 256
"""Samples that are loaded at a time."""

FOREIGN = ("builtins", "torch", "lightning", "pytorch_lightning", "lightning_fabric", "typing", "abc")
"""Packages whose versions, not sources, are part of a key."""


def describe(value: Any, depth: int = DEPTH) -> str:
    """Describe a setting by content: numbers, tensors, containers, source code of functions, attributes of objects.

    Args:
        value: Anything.
        depth: How far attributes and items are followed.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device, Path)):
        return repr(value)
    if isinstance(value, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        content = hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return f"{tensor.dtype}{tuple(tensor.shape)}{content}"
    if isinstance(value, type):
        return _describe_class(value)
    if isinstance(value, partial):
        return f"partial({describe([value.func, value.args, value.keywords], depth)})"
    if isinstance(value, types.MethodType):
        return f"{describe(value.__func__, depth)} of {describe(value.__self__, depth - 1)}"
    if isinstance(value, types.FunctionType):
        return _describe_function(value, depth)
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth <= 0:
        return name
    if isinstance(value, Mapping):
        return f"{name}{sorted((str(key), describe(item, depth - 1)) for key, item in value.items())}"
    if isinstance(value, (set, frozenset)):
        return f"{name}{sorted(describe(item, depth - 1) for item in value)}"
    if isinstance(value, (list, tuple)):
        return f"{name}{[describe(item, depth - 1) for item in value]}"
    if isinstance(value, nn.Module):
        return describe_module(value)
    attributes = getattr(value, "__dict__", None)
    if attributes is None or isinstance(value, types.ModuleType):
        return _without_addresses(value)
    return f"{_describe_class(type(value))}{describe(attributes, depth - 1)}"


def describe_module(module: nn.Module) -> str:
    """Describe a module: its layers, weights and buffers, plain attributes, and the source of its classes."""
    classes = {cls for part in module.modules() for cls in type(part).__mro__}
    # What torch and Lightning keep in every module is no setting of the user's.
    common = vars(LightningModule()).keys()
    attributes = [
        (name, attribute, describe(value, DEPTH - 1))
        for name, part in module.named_modules()
        for attribute, value in sorted(vars(part).items())
        if attribute not in common and not isinstance(value, nn.Module)
    ]
    parts = [
        _without_addresses(module),
        *sorted(_describe_class(cls) for cls in classes if not _is_foreign(cls)),
        *(f"{name} {describe(value)}" for name, value in module.state_dict().items()),
        describe(attributes),
        describe(dict(getattr(module, "hparams", {}))),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def describe_data(loader: DataLoader[Any], indices: Sequence[int], unpack: Unpack) -> str:
    """Describe a loader by the inputs and targets of its dataset in the order of their index, and by how it batches them.

    Args:
        loader: The loader; its dataset is read once, and its generators stay as they are.
        indices: Which samples.
        unpack: Finds inputs and targets in a batch.
    """
    digest = hashlib.sha256()
    with preserve_random_state(torch.device("cpu"), seed=0), preserve_generators(loader):
        for chunk in _chunks(indices):
            inputs, targets = unpack(load_samples(loader, chunk))
            for pair in zip(chunk, fingerprints(inputs), fingerprints(targets), strict=True):
                digest.update(repr(pair).encode())
    sampler = loader.sampler
    drawn = {name: getattr(sampler, name, None) for name in ("weights", "num_samples", "replacement")}
    settings = [type(sampler).__qualname__, drawn, loader.batch_size, loader.drop_last, loader.num_workers, loader.collate_fn]
    return f"{digest.hexdigest()} {describe([*settings, loader.worker_init_fn])}"


def _chunks(indices: Sequence[int]) -> Iterable[list[int]]:
    rest = iter(indices)
    return iter(lambda: list(islice(rest, CHUNK)), [])


def _without_addresses(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _is_foreign(cls: type) -> bool:
    return cls.__module__.split(".")[0] in FOREIGN


def _describe_class(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    return name if _is_foreign(cls) else f"{name}\n{_source(cls)}"


def _describe_function(function: types.FunctionType, depth: int) -> str:
    code = function.__code__
    source = _source(function) or f"{code.co_code.hex()} {_without_addresses(code.co_consts)} {code.co_names}"
    cells = [] if depth <= 0 else [describe(_content(cell), depth - 1) for cell in function.__closure__ or ()]
    return f"{function.__module__}.{function.__qualname__} {source} {describe(function.__defaults__, depth - 1)} {cells}"


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a cell that has not been filled yet
        return None


def _source(item: type | Callable[..., Any]) -> str:
    try:
        return inspect.getsource(item)
    except (OSError, TypeError):
        return ""
