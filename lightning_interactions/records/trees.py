"""Trees of tensors: whatever containers a batch is made of, seen as leaves with names.

A leaf is named by the path to it. A list of other things than tensors and containers, such as strings, is a leaf.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["describe_tree", "is_list", "is_plain", "map_leaves", "walk"]

PLAIN = (type(None), bool, int, float, str)
"""What a state may hold besides tensors, lists, tuples and dicts."""


def describe_tree(tree: Any) -> str:
    """Say a tree in a few words: shapes and dtypes of its tensors by name, types of the rest."""
    parts = []
    for name, leaf in walk(tree):
        what = f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
        what += f" of {len(leaf)}" if is_list(leaf) else ""
        parts.append(f"{name}: {what}" if name else what)
    return "; ".join(parts) or f"an empty {type(tree).__name__}"


def walk(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Go through the names and the leaves of a tree."""
    children = _children(node)
    if children is None:
        yield name, node
        return
    for key, child in children.items():
        yield from walk(child, f"{name}.{key}" if name else key)


def map_leaves(function: Callable[[str, Any], Any], node: Any, name: str = "") -> Any:
    """Rebuild a tree with what a function makes of the name of each leaf and the leaf."""
    children = _children(node)
    if children is None:
        return function(name, node)
    mapped = {key: map_leaves(function, child, f"{name}.{key}" if name else key) for key, child in children.items()}
    return _rebuilt(node, mapped)


def is_list(node: Any) -> bool:
    """Whether a node is a list, or a tuple, of other things than tensors and containers."""
    return type(node) in (list, tuple) and not any(map(_is_tree, node))


def is_plain(node: Any) -> bool:
    """Whether a tree loads with ``weights_only=True`` after it was saved."""
    if type(node) is dict:
        return all(type(key) is str and is_plain(child) for key, child in node.items())
    if type(node) in (list, tuple):
        return all(map(is_plain, node))
    return type(node) is Tensor or type(node) in PLAIN


def _is_tree(node: Any) -> bool:
    return isinstance(node, (Tensor, Mapping, list, tuple)) or (dataclasses.is_dataclass(node) and not isinstance(node, type))


def _children(node: Any) -> dict[str, Any] | None:
    """Name the children of a container; ``None`` for a leaf."""
    if isinstance(node, Tensor):  # Asked first because it is by far the most frequent.
        return None
    if isinstance(node, Mapping):
        return {str(key): child for key, child in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, (list, tuple)):
        return None if is_list(node) else {str(place): child for place, child in enumerate(node)}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    return None


def _rebuilt(node: Any, children: dict[str, Any]) -> Any:
    """Make a container like another one, with other children of the same names."""
    if isinstance(node, Mapping):
        pairs = dict(zip(node, children.values(), strict=True))
        if type(node) is dict:
            return pairs
        try:
            return type(node)(pairs)  # type: ignore[call-arg]
        except TypeError:  # A defaultdict wants another argument first.
            copied: Any = copy.copy(node)
            copied.update(pairs)
            return copied
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(**children)
    if isinstance(node, (list, tuple)):
        return type(node)(children.values())
    copied = copy.copy(node)
    for name, child in children.items():
        object.__setattr__(copied, name, child)  # The dataclass may be frozen.
    return copied
