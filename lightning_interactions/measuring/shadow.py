"""A copy of a module that can be measured without leaving a trace in the module."""

import collections
import copy
import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["Shadow", "shadow_of"]

Module = TypeVar("Module", bound=nn.Module)

COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")
"""What Lightning hangs on a compiled module: closures on the module itself."""

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


@dataclass
class Shadow(Generic[Module]):
    """A copy of a module.

    Attributes:
        module: The copy.
        shared: Attributes that could not be copied and are the module's own, each with the reason.
    """

    module: Module
    shared: dict[str, str] = field(default_factory=dict)


def shadow_of(model: Module) -> Shadow[Module]:
    """Copy a module with all that its steps could change: weights, buffers, submodules, plain attributes, hooks.

    Tensors with a history, such as a carried hidden state, become detached copies, and lists of past losses become empty.
    Gradients are not copied. Data, such as datasets, loaders and the Trainer, are shared. Hooks and functions that refer to the
    module refer to the copy.

    Args:
        model: Any module; it is not changed.

    Returns:
        The copy, and what could not be copied.
    """
    memo: dict[int, Any] = {}
    # The memo knows objects by their address alone: what is made here on the way must live as long as it does.
    memo[id(memo)] = alive = []
    for value in _reachable(model):
        replacement = _replacement(value)
        if replacement is not None:
            memo[id(value)] = replacement[0]
            alive.append(value)
    shadow = Shadow(model)
    shadow.module = _copied(model, memo, shadow.shared, "")
    _rebind(shadow.module, memo)
    return shadow


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
    if (
        isinstance(value, (Dataset, DataLoader, Sampler))
        or hasattr(value, "fit_loop")
        or hasattr(value, "prepare_data_per_node")
    ):
        return (value,)
    return None


def _is_past_loss(item: Any) -> bool:
    return isinstance(item, Tensor) and item.numel() == 1 and not item.is_leaf


def _reachable(model: nn.Module) -> Iterator[Any]:
    """Go through what hangs on a module by attributes and containers; not through data."""
    todo: list[Any] = [model]
    seen = set[int]()
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type, types.ModuleType, types.FunctionType)):
            continue
        seen.add(id(item))
        if item is not model:
            yield item
        if isinstance(item, Tensor) or (item is not model and _replacement(item) is not None):
            continue
        if isinstance(item, Mapping):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset, collections.deque)):
            todo.extend(item)
        elif hasattr(item, "__dict__"):
            todo.extend(value for name, value in vars(item).items() if name != "_trainer")


def _copied(module: Module, memo: dict[int, Any], shared: dict[str, str], path: str) -> Module:
    """Copy a module attribute by attribute, and share what cannot be copied."""
    if id(module) in memo:
        known: Module = memo[id(module)]
        return known
    if _copies_itself(module):
        copied: Module = _or_shared(module, memo, shared, path)
        return copied
    new = module.__class__.__new__(module.__class__)
    memo[id(module)] = new
    state = dict(vars(module))
    if "_trainer" in state:
        state["_trainer"] = None
    if state.get("_compiler_ctx") is not None:
        state = {name: value for name, value in state.items() if name not in COMPILED} | {"_compiler_ctx": None}
    for name, value in state.items():
        own = f"{path}.{name}" if path else name
        if name == "_modules":
            children = {
                key: None if child is None else _copied(child, memo, shared, f"{path}.{key}" if path else key)
                for key, child in value.items()
            }
            vars(new)[name] = type(value)(children)
        else:
            vars(new)[name] = _or_shared(value, memo, shared, own)
    return new


def _copies_itself(module: nn.Module) -> bool:
    kind = type(module)
    return (
        hasattr(kind, "__deepcopy__")
        or kind.__setstate__ is not nn.Module.__setstate__
        or kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__reduce__ is not object.__reduce__
    )


def _or_shared(value: Any, memo: dict[int, Any], shared: dict[str, str], path: str) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        shared[path] = repr(error)
        memo[id(value)] = value
        return value


def _rebind(shadow: nn.Module, memo: dict[int, Any]) -> None:
    """Let hooks and functions that hang on a copied module refer to the copy."""
    for module in shadow.modules():
        for name in HOOKS:
            hooks = vars(module).get(name) or {}
            for key, hook in list(hooks.items()):
                hooks[key] = _rebound(hook, memo)
        for name, value in list(vars(module).items()):
            if isinstance(value, (types.FunctionType, functools.partial)):
                vars(module)[name] = _rebound(value, memo)


def _rebound(function: Any, memo: dict[int, Any]) -> Any:
    """Make the same function with copies in the place of what it refers to."""
    if isinstance(function, functools.partial):
        arguments = tuple(memo.get(id(one), one) for one in function.args)
        keywords = {name: memo.get(id(one), one) for name, one in function.keywords.items()}
        return functools.partial(_rebound(function.func, memo), *arguments, **keywords)
    if isinstance(function, types.MethodType):
        return types.MethodType(function.__func__, memo.get(id(function.__self__), function.__self__))
    if not isinstance(function, types.FunctionType) or not function.__closure__:
        return function
    cells = tuple(_rebound_cell(cell, memo) for cell in function.__closure__)
    new = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__, new.__dict__ = function.__kwdefaults__, dict(function.__dict__)
    return new


def _rebound_cell(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # It has not been filled yet.
        return cell
    if isinstance(content, (types.FunctionType, types.MethodType, functools.partial)):
        return types.CellType(_rebound(content, memo))
    return types.CellType(memo[id(content)]) if id(content) in memo else cell
