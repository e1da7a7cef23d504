"""Random generators that hang on a dataset, kept as they are while probes are drawn from it."""

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from lightning_interactions.game.steps.copies import slots_of

__all__ = ["preserve_generators"]

MAX_ITEMS = 64
"""How many entries of a container are searched: a list of samples need not be."""


@contextmanager
def preserve_generators(*roots: object) -> Iterator[None]:
    """Give every random generator that is reachable through attributes, containers and closures its state back.

    Args:
        roots: Objects such as a dataset and a collate function; transforms that hang on them are searched too.
    """
    restores = [_restore(item) for item in _reachable(roots)]
    try:
        yield
    finally:
        for restore in restores:
            if restore is not None:
                restore()


def _restore(item: object) -> Callable[[], object] | None:
    """Make the function that gives a generator its present state back; ``None`` for anything else."""
    if isinstance(item, torch.Generator):
        return functools.partial(item.set_state, item.get_state())
    if isinstance(item, np.random.Generator):
        return functools.partial(setattr, item.bit_generator, "state", item.bit_generator.state)
    if isinstance(item, np.random.RandomState):
        return functools.partial(item.set_state, item.get_state())
    if isinstance(item, random.Random):
        return functools.partial(item.setstate, item.getstate())
    return None


def _reachable(roots: tuple[object, ...]) -> Iterator[object]:
    todo, seen = list(roots), set[int]()
    while todo:
        item: Any = todo.pop()
        if id(item) in seen or isinstance(item, (torch.Tensor, np.ndarray, str, bytes, type, ModuleType)):
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, (list, tuple)):
            todo.extend(item[:MAX_ITEMS])
        elif isinstance(item, dict):
            todo.extend(itertools.islice(item.values(), MAX_ITEMS))
        elif isinstance(item, functools.partial):
            todo.extend([item.func, item.args, item.keywords])
        elif isinstance(item, FunctionType):
            for cell in item.__closure__ or ():
                with suppress(ValueError):  # a cell that has not been filled yet
                    todo.append(cell.cell_contents)
        elif isinstance(item, (MethodType, BuiltinMethodType)):
            todo.append(item.__self__)
        else:
            # Not by getattr: an object may answer it with a file that it opens when it is first asked.
            todo.extend(_attributes(item))


def _attributes(item: object) -> Iterator[object]:
    with suppress(AttributeError):
        yield from list(object.__getattribute__(item, "__dict__").values())
    for slot in slots_of(item):
        with suppress(AttributeError):  # one that was never set
            yield slot.__get__(item)
