"""Rows of the user's own batches, whatever tree of tensors a batch is: leaves, index, move, replace, fingerprint."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ProbeGroup", "Probes", "Rows", "fingerprints", "map_tensors"]

PLAIN = (type(None), bool, int, float, str)
"""What a state may hold besides tensors, lists, tuples and dicts."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a batch.

    A batch is any tree of tensors: a tensor, or tuples, lists, mappings and dataclasses of trees. A leaf belongs to the rows
    if its first axis is as long as there are rows (a list of other things counts as such a leaf); all other leaves are
    shared by them. A leaf is named by the path to it, such as ``"0"``, ``"image"`` or ``"text.input_ids"``; the only leaf of a
    bare tensor is ``""``.

    Attributes:
        tree: The batch.
        num_rows: How many rows it has.
    """

    tree: Any
    num_rows: int

    @classmethod
    def of(cls, tree: Any, num_rows: int | None = None) -> "Rows":
        """Take a batch for rows.

        Args:
            tree: Any tree of tensors.
            num_rows: How many rows it has; the length of its first tensor with an axis if left out.

        Raises:
            ValueError: If no tensor has so many rows.
        """
        leaves = [leaf for _, leaf in _walk(tree, "", None) if isinstance(leaf, Tensor) and leaf.ndim]
        if num_rows is None and leaves:
            num_rows = len(leaves[0])
        if num_rows is None or not any(len(leaf) == num_rows for leaf in leaves):
            raise ValueError(
                f"inputs: expected a batch with a tensor of {'some' if num_rows is None else num_rows} rows, got "
                f"{describe_tree(tree)}; say where the tensors are with a task's unpack(batch)"
            )
        return cls(tree, num_rows)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"Rows({self.num_rows}, {describe_tree(self.tree)})"

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The tensors that have these rows, by name."""
        return {name: leaf for name, leaf in _walk(self.tree, "", self.num_rows) if self._is_tensor_of_rows(leaf)}

    @property
    def device(self) -> torch.device:
        """Where the first of the rows' tensors is."""
        return next(iter(self.leaves.values())).device

    @property
    def row_shapes(self) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
        """Name, shape of one row and dtype of each leaf; batches in which these are equal can be joined."""
        return tuple((name, tuple(leaf.shape[1:]), leaf.dtype) for name, leaf in self.leaves.items())

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        """Apply a function that keeps the rows to every tensor, shared ones included."""
        return Rows(map_tensors(function, self.tree), self.num_rows)

    def to(self, device: torch.device | str) -> "Rows":
        """Move every tensor to a device."""
        return self.map(lambda leaf: leaf.to(device))

    def select(self, rows: Tensor | Sequence[int]) -> "Rows":
        """Return some rows, by index or mask, in the order asked for; a row may be asked for many times."""
        index = torch.as_tensor(rows)
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()
        here = index.tolist()

        def selected(leaf: Any) -> Any:
            if self._is_tensor_of_rows(leaf):
                return leaf[index.to(leaf.device)]
            return [leaf[row] for row in here] if self._is_list_of_rows(leaf) else leaf

        return Rows(_map(selected, self.tree, self.num_rows), len(here))

    def replace(self, leaves: Mapping[str, Tensor]) -> "Rows":
        """Put other tensors of as many rows in the place of some leaves.

        Raises:
            ValueError: If there is no such leaf.
        """
        unknown = leaves.keys() - self.leaves.keys()
        if unknown:
            raise ValueError(f"inputs: expected names among {list(self.leaves)}, got {sorted(unknown)}")
        return Rows(_map_named(lambda name, leaf: leaves.get(name, leaf), self.tree, "", self.num_rows), self.num_rows)

    def join(self, others: "Sequence[Rows]") -> "Rows":
        """Append rows of other batches of the same row shapes; shared leaves are those of this one."""
        batches = [self, *others]
        joined = {name: torch.cat([batch.leaves[name] for batch in batches]) for name in self.leaves}
        lists = [dict(_walk(batch.tree, "", batch.num_rows)) for batch in batches]

        def of_all(name: str, leaf: Any) -> Any:
            if name in joined:
                return joined[name]
            return [item for own in lists for item in own[name]] if self._is_list_of_rows(leaf) else leaf

        return Rows(_map_named(of_all, self.tree, "", self.num_rows), sum(map(len, batches)))

    def _is_tensor_of_rows(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == self.num_rows

    def _is_list_of_rows(self, leaf: Any) -> bool:
        return isinstance(leaf, list) and len(leaf) == self.num_rows


@dataclass(frozen=True, eq=False)
class ProbeGroup:
    """Probes whose inputs have the same shapes.

    Attributes:
        inputs: What the task runs the model on.
        targets: What the score looks at.
    """

    inputs: Rows
    targets: Rows

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, rows: Tensor | Sequence[int]) -> "ProbeGroup":
        """Return some of the probes."""
        return ProbeGroup(self.inputs.select(rows), self.targets.select(rows))

    def to(self, device: torch.device | str) -> "ProbeGroup":
        """Move the probes to a device."""
        return ProbeGroup(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True, eq=False)
class Probes:
    """The fixed inputs on which every measurement of a run is made, in groups of equal shapes.

    Attributes:
        groups: At least one; probes are numbered group by group.
    """

    groups: tuple[ProbeGroup, ...]

    @classmethod
    def of(cls, *batches: tuple[Any, Any]) -> "Probes":
        """Make probes of pairs of inputs and targets; batches of equal row shapes become one group.

        Raises:
            ValueError: If a batch has no rows, or not one target for each input.
        """
        groups: dict[Any, list[ProbeGroup]] = {}
        for inputs, targets in batches:
            rows, targets = Rows.of(inputs), Rows.of(targets)
            if len(rows) != len(targets):
                raise ValueError(
                    f"probes: expected one target for each input, got {len(rows)} inputs ({describe_tree(inputs)}) and "
                    f"{len(targets)} targets ({describe_tree(targets.tree)})"
                )
            groups.setdefault((rows.row_shapes, targets.row_shapes), []).append(ProbeGroup(rows, targets))
        return cls(
            tuple(
                ProbeGroup(
                    first.inputs.join([one.inputs for one in others]), first.targets.join([one.targets for one in others])
                )
                for first, *others in groups.values()
            )
        )

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{len(group)} of {describe_tree(group.inputs.tree)}" for group in self.groups)
        return f"Probes({shapes})"

    @property
    def device(self) -> torch.device:
        """Where the probes are."""
        return self.groups[0].inputs.device

    @property
    def starts(self) -> list[int]:
        """Number of the first probe of each group."""
        return [sum(map(len, self.groups[:place])) for place in range(len(self.groups))]

    def select(self, rows: Tensor | Sequence[int]) -> "Probes":
        """Return some of the probes, by number or mask: group by group, and within a group in the order asked for."""
        index = torch.as_tensor(rows)
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()
        index = index.cpu()
        groups = []
        for start, group in zip(self.starts, self.groups, strict=True):
            own = index[(index >= start) & (index < start + len(group))] - start
            if len(own):
                groups.append(group.select(own))
        return Probes(tuple(groups))

    def to(self, device: torch.device | str) -> "Probes":
        """Move the probes to a device."""
        return Probes(tuple(group.to(device) for group in self.groups))

    def fingerprints(self) -> list[str]:
        """Return the digest of every input."""
        return [digest for group in self.groups for digest in fingerprints(group.inputs)]

    def to_state(self) -> list[dict[str, Any]] | None:
        """Return trees on the CPU that load with ``weights_only=True``; ``None`` where a tree is made of other containers."""
        cpu = self.to("cpu")
        trees = [(group.inputs, group.targets) for group in cpu.groups]
        if not all(_is_plain(rows.tree) for pair in trees for rows in pair):
            return None
        return [{"inputs": inputs.tree, "targets": targets.tree, "num_rows": len(inputs)} for inputs, targets in trees]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> "Probes":
        """Rebuild probes from :meth:`to_state`."""
        return cls(
            tuple(
                ProbeGroup(Rows.of(group["inputs"], group["num_rows"]), Rows.of(group["targets"], group["num_rows"]))
                for group in state
            )
        )


def fingerprints(inputs: Rows) -> list[str]:
    """Hash every row by its content, to find out whether reference models have seen a probe.

    Args:
        inputs: Rows on any device.

    Returns:
        One hexadecimal digest for each row; rows of equal shapes and equal values have equal digests, in whatever
        floating-point dtype (compared in float32).
    """
    digests = [hashlib.sha256() for _ in range(len(inputs))]
    for name, leaf in inputs.leaves.items():
        rows = leaf.detach().cpu()
        if rows.is_floating_point():
            # Two runs may see the same input in different precision.
            rows = rows.float()
        kind = f"{name}{rows.dtype}{tuple(rows.shape[1:])}".encode()
        for digest, row in zip(digests, rows, strict=True):
            digest.update(kind + row.numpy().tobytes())
    return [digest.hexdigest() for digest in digests]


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to every tensor of a tree."""
    return _map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree, None)


def describe_tree(tree: Any) -> str:
    """Say a tree in a few words: shapes and dtypes of its tensors by name, types of the rest."""
    parts = []
    for name, leaf in _walk(tree, "", None):
        what = f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
        parts.append(f"{name}: {what}" if name else what)
    return "; ".join(parts) or f"an empty {type(tree).__name__}"


def _children(node: Any, num_rows: int | None) -> dict[str, Any] | None:
    """Name the children of a container; ``None`` for a leaf. A list of other things, one a row, is a leaf."""
    if isinstance(node, Mapping):
        return {str(key): child for key, child in node.items()}
    if isinstance(node, (list, tuple)):
        if type(node) is list and num_rows is not None and len(node) == num_rows and all(map(_is_no_tree, node)):
            return None
        return {str(place): child for place, child in enumerate(node)}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    return None


def _is_no_tree(node: Any) -> bool:
    return not isinstance(node, (Tensor, Mapping, list, tuple)) and not dataclasses.is_dataclass(node)


def _rebuilt(node: Any, children: list[Any]) -> Any:
    """Make a container like another one, with other children."""
    if isinstance(node, Mapping):
        pairs = dict(zip(node, children, strict=True))
        return pairs if type(node) is dict else type(node)(pairs)  # type: ignore[call-arg]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*children)
    if isinstance(node, (list, tuple)):
        return type(node)(children)
    return dataclasses.replace(
        node, **{field.name: child for field, child in zip(dataclasses.fields(node), children, strict=True)}
    )


def _walk(node: Any, name: str, num_rows: int | None) -> Iterator[tuple[str, Any]]:
    children = _children(node, num_rows)
    if children is None:
        yield name, node
        return
    for key, child in children.items():
        yield from _walk(child, f"{name}.{key}" if name else key, num_rows)


def _map_named(function: Callable[[str, Any], Any], node: Any, name: str, num_rows: int | None) -> Any:
    children = _children(node, num_rows)
    if children is None:
        return function(name, node)
    mapped = [_map_named(function, child, f"{name}.{key}" if name else key, num_rows) for key, child in children.items()]
    return _rebuilt(node, mapped)


def _map(function: Callable[[Any], Any], node: Any, num_rows: int | None) -> Any:
    return _map_named(lambda _name, leaf: function(leaf), node, "", num_rows)


def _is_plain(node: Any) -> bool:
    if type(node) is dict:
        return all(type(key) is str and _is_plain(child) for key, child in node.items())
    if type(node) in (list, tuple):
        return all(map(_is_plain, node))
    return type(node) is Tensor or type(node) in PLAIN
