"""A copy of a module that can be measured without leaving a trace in the module."""

import copy
import functools
import types
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from lightning_interactions.game.steps.copies import replacements

__all__ = ["Shadow", "shadow_of"]

Module = TypeVar("Module", bound=nn.Module)

COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")
"""What Lightning hangs on a compiled module: closures on the module itself."""

FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)

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
    Gradients are not copied. Data, such as datasets, loaders and the Trainer, are shared; NumPy arrays of more than 16 MiB,
    too, as views that cannot be written into, and of data frames of that size the values. Hooks and functions that refer to
    the module refer to the copy.

    Args:
        model: Any module; it is not changed.

    Returns:
        The copy, and what could not be copied.
    """
    memo: dict[int, Any] = {}
    replacements(model, memo)
    shadow = Shadow(model)
    shadow.module = _copied(model, memo, shadow.shared, "")
    _rebind(shadow.module, memo)
    return shadow


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
    if id(function) in memo:  # It refers to itself, or was met before.
        return memo[id(function)]
    contents = [_content(cell) for cell in function.__closure__]
    cells = tuple(
        types.CellType() if _refers(content, memo) else cell
        for cell, content in zip(function.__closure__, contents, strict=True)
    )
    new = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__, new.__dict__ = function.__kwdefaults__, dict(function.__dict__)
    memo[id(function)] = new
    memo[id(memo)].append(function)
    for cell, own, content in zip(cells, function.__closure__, contents, strict=True):
        if cell is not own:
            cell.cell_contents = _rebound(content, memo) if isinstance(content, FUNCTIONS) else memo[id(content)]
    return new


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # It has not been filled yet.
        return None


def _refers(content: Any, memo: dict[int, Any]) -> bool:
    """Whether there is, or will be, something else in the place of what a cell holds."""
    return isinstance(content, FUNCTIONS) or id(content) in memo
