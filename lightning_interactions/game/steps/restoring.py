"""Giving a module back what hung on it, and the weights that it had."""

import argparse
import collections
import copy
import functools
import math
import operator
import pathlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_interactions.game.steps.copies import LARGE, is_data, slots_of

__all__ = ["as_found", "opened"]

TINY = 1e-3
"""A parameter without a larger entry closes the way as one of zeros does, such as the scale of a layer that begins small."""

MOST_WALKED = 10_000
"""Items of a list or dict of more items are not looked into: they are kept, and what is changed inside of them is not."""

MOST_KEPT_OF_DATA, MOST_WALKED_OF_DATA, MOST_BYTES_OF_DATA = 100_000, 64, 2**26
"""Where datasets are looked into: lists of more items are the data, and not kept; lists of more than the second number are not
looked into; tensors and arrays are kept up to so many bytes in all."""

NOT_SET = object()
"""Content of a slot without one."""

ATOMS = (str, bytes, int, float, complex, type(None), type, types.ModuleType, types.FunctionType, torch.Generator)


@dataclass(frozen=True, eq=False)
class _Slot:
    """An attribute that an object does not have in a dict.

    Attributes:
        owner: The object.
        place: Where its class keeps the attribute.
    """

    owner: object
    place: types.MemberDescriptorType

    @property
    def content(self) -> Any:
        try:
            return self.place.__get__(self.owner)
        except AttributeError:
            return NOT_SET

    def put(self, content: Any) -> None:
        """Give the attribute a content, past a ``__setattr__`` that forbids it."""
        if content is NOT_SET:
            self.place.__delete__(self.owner)
        else:
            self.place.__set__(self.owner, content)


def _slots(name: str | None, value: object) -> Iterator[tuple[str, _Slot]]:
    """List an object's slots, by the name that it hangs on; by their own names if it is a root."""
    yield from ((place.__name__ if name is None else name, _Slot(value, place)) for place in slots_of(value))


@contextmanager
def opened(model: nn.Module) -> Iterator[int]:
    """Give zeros among the parameters, and parameters that are tiny all over, other values while the body runs.

    Zeros become numbers of about the size of a usual initialisation. Afterwards all is as it was, to the bit.

    Yields:
        How many parameters have other values.
    """
    generator = torch.Generator().manual_seed(0)
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for parameter in model.parameters():
            if is_lazy(parameter) or not parameter.is_floating_point() or not parameter.numel():
                continue
            # The data, not the parameter: graphs that were made before stay valid.
            data = parameter.data
            closed = torch.ones_like(data, dtype=torch.bool) if bool(data.abs().max() < TINY) else data == 0
            if bool(closed.any()):
                before.append((data, data.clone()))
                fan_in = data[0].numel() if data.ndim > 1 else 1
                size, sign = (torch.rand(data.shape, generator=generator) for _ in range(2))
                values = (0.5 + 0.5 * size) * torch.where(sign < 0.5, -1, 1) / fan_in**0.5
                data.copy_(torch.where(closed, values.to(data), data))
        yield len(before)
    finally:
        for data, content in before:
            data.copy_(content)


@contextmanager
def as_found(*roots: object, data: bool = False) -> Iterator[list[str]]:
    """Give modules, or other objects, what hangs on them back after the body; not their weights.

    That is: attributes, lists, dicts and the like wherever they are in each other, tensors and arrays that are changed in
    place, buffers, and attributes of objects of the user's own classes, such as a meter of averages.

    Args:
        roots: Modules, loaders and the like.
        data: Whether datasets, samplers and loaders are looked into as well; what is large there is the data, and left alone.

    Yields:
        Names of what the body changed, filled when it ends.
    """
    changes: list[str] = []
    kept = list(_kept(roots, data))
    try:
        yield changes
    finally:
        for name, value, content in kept:
            if not _are_same(value, content):
                own = [key for key in value.keys() | content.keys() if _differ(value, content, key)] if name is None else [name]
                changes += map(str, own)
                _put_back(value, content)


def _kept(roots: tuple[object, ...], data: bool) -> Iterator[tuple[str | None, Any, Any]]:
    """Go through what can change: the name of the attribute that it hangs on, itself, and its content.

    The name is ``None`` for the attributes of a root, which have names of their own.
    """
    parts = [part for root in roots for part in (root.modules() if isinstance(root, nn.Module) else [root])]
    todo: list[tuple[str | None, Any]] = [(None, vars(part)) for part in parts if hasattr(part, "__dict__")]
    todo += [slot for part in parts for slot in _slots(None, part)]
    most_walked = MOST_WALKED_OF_DATA if data else MOST_WALKED
    left: float = MOST_BYTES_OF_DATA if data else math.inf
    seen = {id(part) for part in parts}
    while todo:
        name, value = todo.pop()
        is_function = data and isinstance(value, types.FunctionType)
        if (isinstance(value, ATOMS) and not is_function) or id(value) in seen:
            continue
        seen.add(id(value))
        if is_function:
            todo += [(name, cell) for cell in value.__closure__ or ()]
        elif isinstance(value, types.CellType):
            try:
                content = value.cell_contents
            except ValueError:  # One that has not been filled yet.
                continue
            yield name, value, content
            todo.append((name, content))
        elif isinstance(value, _Slot):
            content = value.content
            yield name, value, content
            todo.append((name, content))
        elif isinstance(value, (dict, list, set, collections.deque)):
            if data and len(value) > MOST_KEPT_OF_DATA:
                continue
            content = copy.copy(value)
            yield name, value, content
            if len(value) > most_walked and name is not None:
                continue
            if isinstance(value, dict):
                items = [(key, item) for key, item in value.items() if name is not None or _is_looked_into(key)]
                todo += [(key if name is None else name, item) for key, item in items]
            else:
                todo += [(name, item) for item in value]
        elif isinstance(value, (tuple, frozenset)) and len(value) <= most_walked:
            todo += [(name, item) for item in value]
        elif isinstance(value, Tensor):
            is_kept = not isinstance(value, nn.Parameter) and value.layout is torch.strided and not is_lazy(value)
            # What processes share is not this one's to put back; torch says of all tensors of a GPU that they are shared.
            is_shared = is_kept and data and value.is_cpu and value.is_shared()
            if is_kept and not is_shared and not (data and value.nbytes > min(left, LARGE)):
                left -= value.nbytes
                yield name, value, value.detach().clone()
        elif isinstance(value, np.ndarray):
            if value.nbytes <= min(left, LARGE) and value.flags.writeable and not value.dtype.hasobject:
                left -= value.nbytes
                yield name, value, value.copy()
        elif data and isinstance(value, types.MethodType):
            todo.append((name, value.__self__))
        elif data and isinstance(value, functools.partial):
            todo += [(name, part) for part in (value.func, value.args, value.keywords)]
        elif _is_looked_at(value, data):
            if hasattr(value, "__dict__"):
                todo.append((name, vars(value)))
            todo += _slots(name, value)


def _is_looked_at(value: Any, data: bool) -> bool:
    """Whether an object is gone through: one of the user's own, or torch's subsets and samplers where data are."""
    if not data:
        return _is_of_the_user(value) and not is_data(value)
    return _is_of_the_user(value) or isinstance(value, (Dataset, Sampler, DataLoader))


def _is_looked_into(name: str) -> bool:
    """Whether an attribute of a module can be the step's own; most of the others are empty dicts of hooks."""
    return name != "_trainer" and not (name.startswith("_") and "_hooks" in name)


def _is_of_the_user(value: Any) -> bool:
    """Whether an object is looked into; loggers, threads, compilers and the like have a life of their own."""
    return isinstance(value, (types.SimpleNamespace, argparse.Namespace)) or not _is_installed(str(type(value).__module__))


@functools.lru_cache(maxsize=1024)
def _is_installed(module: str) -> bool:
    """Whether a module is Python's or an installed package's."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    is_of_python = module.partition(".")[0] in sys.stdlib_module_names
    return is_of_python or not {"site-packages", "dist-packages"}.isdisjoint(pathlib.Path(file).parts)


def _differ(value: dict[Any, Any], content: dict[Any, Any], key: Any) -> bool:
    return key not in value or key not in content or value[key] is not content[key]


def _are_same(value: Any, content: Any) -> bool:
    """Whether a list, dict, set, tensor or array is as its copy, and a variable of a closure what it was."""
    if isinstance(value, Tensor):
        return torch.equal(value.detach(), content)
    if isinstance(value, np.ndarray):
        return np.array_equal(value, content)
    if isinstance(value, set):
        return bool(value == content)
    if isinstance(value, types.CellType):
        return value.cell_contents is content
    if isinstance(value, _Slot):
        return value.content is content
    if len(value) != len(content):
        return False
    items = [(value, content), (value.values(), content.values())] if isinstance(value, dict) else [(value, content)]
    return all(all(map(operator.is_, *pair)) for pair in items)


def _put_back(value: Any, content: Any) -> None:
    if isinstance(value, Tensor):
        if value.shape == content.shape:
            value.detach().copy_(content)
        else:
            value.data = content
    elif isinstance(value, np.ndarray):
        value[...] = content
    elif isinstance(value, types.CellType):
        value.cell_contents = content
    elif isinstance(value, _Slot):
        value.put(content)
    else:
        value.clear()
        value.update(content) if isinstance(value, (dict, set)) else value.extend(content)
