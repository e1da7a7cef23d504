"""Copies of what hangs on a module, in which data are shared."""

import collections
import copy
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["LARGE", "copied", "is_data", "is_frame", "replacements", "slots_of"]

LARGE = 2**24
"""Bytes of an array above which it is not copied: 16 MiB are copied in a few milliseconds."""

IMMUTABLE_DATA = ("datasets", "pyarrow")
"""Packages whose tables are not changed in place, and whose copies cost as much as the data."""


def is_data(value: Any) -> bool:
    """Whether an object is shared and not copied: data sets, loaders, data modules, the Trainer."""
    return (
        isinstance(value, (Dataset, DataLoader, Sampler))
        or type(value).__module__.partition(".")[0] in IMMUTABLE_DATA
        or hasattr(value, "fit_loop")
        or hasattr(value, "prepare_data_per_node")
    )


def slots_of(value: object) -> Iterator[types.MemberDescriptorType]:
    """List the places of attributes that the classes of an object have by ``__slots__``, and not in a dict."""
    for kind in type(value).__mro__:
        if "__slots__" in vars(kind):
            # By their own names: those of private ones are not what stands in __slots__.
            yield from (one for one in vars(kind).values() if isinstance(one, types.MemberDescriptorType))


def replacements(root: Any, memo: dict[int, Any], shares_tensors: bool = False) -> None:
    """Put into the memo of ``copy.deepcopy`` what takes the place of objects that are not copied as others are.

    - Tensors with a history become detached copies, lists of past losses empty ones; generators go on from the same state.
    - Data are shared; of large arrays there are views that cannot be written into, of large data frames shallow copies.

    Args:
        root: What will be copied.
        memo: Gets the replacements; what is in it already stays.
        shares_tensors: Whether large tensors are data, too.
    """
    # The memo knows objects by their address alone: what is made here on the way must live as long as it does.
    alive = memo.setdefault(id(memo), [])
    for value in _reachable(root):
        replacement = None if id(value) in memo else _replacement(value)
        if shares_tensors and type(value) is Tensor and value.nbytes > LARGE:
            replacement = (value,)
        if replacement is not None:
            memo[id(value)] = replacement[0]
            alive.append(value)


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """Copy an object with all that hangs on it but data, to which here large tensors belong; see :func:`replacements`.

    Raises:
        Exception: Whatever a part raises that cannot be copied.
    """
    replacements(value, memo, shares_tensors=True)
    return copy.deepcopy(value, memo)


def _replacement(value: Any) -> tuple[Any] | None:
    """Say what takes the place of an object that is not copied as others are."""
    if type(value) is nn.Parameter:
        return (nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad),)
    if isinstance(value, Tensor):
        return None if value.is_leaf else (value.detach().clone(),)
    if isinstance(value, torch.Generator):
        return (torch.Generator(value.device).set_state(value.get_state()),)
    if isinstance(value, (list, collections.deque)) and value and all(_is_past_loss(item) for item in value):
        return (type(value)(),)
    if isinstance(value, np.ndarray):
        return (_read_only(value),) if value.nbytes > LARGE else None
    if is_frame(value):
        # A shallow copy has columns of its own, and since pandas 3 values of its own as soon as they are written.
        return (copy.copy(value),) if value.size * 8 > LARGE else None
    return (value,) if is_data(value) else None


def _read_only(array: Any) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def is_frame(value: Any) -> bool:
    """Whether an object is a data frame or series of pandas, or of a package like it."""
    return hasattr(type(value), "iloc") and hasattr(type(value), "to_numpy")


def _is_past_loss(item: Any) -> bool:
    return isinstance(item, Tensor) and item.numel() == 1 and not item.is_leaf


def _reachable(root: Any) -> Iterator[Any]:
    """Go through what hangs on an object by attributes and containers; not through data."""
    todo: list[Any] = [root]
    seen = set[int]()
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type, types.ModuleType, types.FunctionType)):
            continue
        seen.add(id(item))
        if item is not root:
            yield item
        if isinstance(item, Tensor) or (item is not root and _replacement(item) is not None):
            continue
        if isinstance(item, Mapping):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset, collections.deque)):
            todo.extend(item)
        else:
            todo.extend(value for name, value in getattr(item, "__dict__", {}).items() if name != "_trainer")
            for slot in slots_of(item):
                with suppress(AttributeError):  # One that was never set.
                    todo.append(slot.__get__(item))
