"""Rows of the user's own batches, whatever tree of tensors a batch is: index, move, replace, join, fingerprint."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.records.describe import describe
from lightning_interactions.records.trees import describe_tree, is_list, is_plain, map_leaves, walk

__all__ = ["ProbeGroup", "Probes", "Rows", "fingerprints"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a batch.

    A batch is any tree of tensors: a tensor, or tuples, lists, mappings and dataclasses of trees. A leaf belongs to the rows
    if one of its axes is as long as there are rows, or if it is a list of so many other things, such as strings; all other
    leaves are shared by the rows. A leaf is named by the path to it, such as ``"0"``, ``"image"`` or ``"text.input_ids"``; the
    only leaf of a bare tensor is ``""``.

    Attributes:
        tree: The batch.
        num_rows: How many rows it has.
        axes: The leaves that belong to the rows, each with the axis that the rows are on.
        aside: Those of them that travel with their rows and are no inputs, such as targets.
    """

    tree: Any
    num_rows: int
    axes: Mapping[str, int]
    aside: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tree: Any, num_rows: int | None = None) -> "Rows":
        """Take a batch for rows on the first axis.

        Args:
            tree: Any tree of tensors.
            num_rows: How many rows it has; the length of its first tensor with an axis if left out.

        Raises:
            ValueError: If no tensor has so many rows.
        """
        leaves = dict(walk(tree))
        tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor) and leaf.ndim}
        lengths = {name: len(leaf) for name, leaf in leaves.items() if name in tensors or is_list(leaf)}
        of_tensors = [lengths[name] for name in tensors]
        if num_rows is None and of_tensors:
            num_rows = of_tensors[0]
        if num_rows is None or num_rows not in of_tensors:
            raise ValueError(
                f"inputs: expected a batch with a tensor of {'some' if num_rows is None else num_rows} rows, got "
                f"{describe_tree(tree)}; say where the tensors are with a task's unpack(batch)"
            )
        return cls(tree, num_rows, {name: 0 for name, length in lengths.items() if length == num_rows})

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"Rows({self.num_rows}, {describe_tree(self.tree)})"

    @property
    def names(self) -> frozenset[str]:
        """The leaves that belong to the rows."""
        return frozenset(self.axes)

    @cached_property
    def leaves(self) -> dict[str, Tensor]:
        """The inputs among the tensors that have these rows, by name: ``[rows, ...]``, whatever their axis."""
        return {name: leaf for name, leaf in self.tensors.items() if name not in self.aside}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors that have these rows, by name: ``[rows, ...]``, whatever their axis."""
        return {
            name: leaf.movedim(self.axes[name], 0) if self.axes[name] else leaf
            for name, leaf in walk(self.tree)
            if name in self.axes and isinstance(leaf, Tensor)
        }

    @property
    def shared(self) -> dict[str, Any]:
        """The leaves that all rows share, by name."""
        return {name: leaf for name, leaf in walk(self.tree) if name not in self.axes}

    @property
    def device(self) -> torch.device:
        """Where the first of the rows' tensors is."""
        return next(iter(self.tensors.values())).device

    @property
    def row_shapes(self) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
        """Name, shape of one row and dtype of each tensor."""
        return tuple((name, tuple(leaf.shape[1:]), leaf.dtype) for name, leaf in self.tensors.items())

    @property
    def kind(self) -> tuple[object, ...]:
        """What batches that can be joined have in common: their row shapes and the leaves that all rows share."""
        return self.row_shapes, tuple(sorted(self.axes.items())), self.aside, describe(self.shared)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        """Apply a function that keeps the rows to every tensor, shared ones included."""
        return self._map(lambda _name, leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, self.num_rows)

    def to(self, device: torch.device | str) -> "Rows":
        """Move every tensor to a device."""
        return self.map(lambda leaf: leaf.to(device))

    def select(self, rows: Tensor | Sequence[int]) -> "Rows":
        """Return some rows, by index or mask, in the order asked for; a row may be asked for many times."""
        index = _as_index(rows)

        def selected(name: str, leaf: Any) -> Any:
            if name not in self.axes:
                return leaf
            if isinstance(leaf, Tensor):
                return leaf[(slice(None),) * self.axes[name] + (index.to(leaf.device),)]
            return type(leaf)(leaf[row] for row in index.tolist())

        return self._map(selected, len(index))

    def expand(self, num_rows: int) -> "Rows":
        """Return a single row many times; tensors are views, which must not be written into."""

        def expanded(name: str, leaf: Any) -> Any:
            if name not in self.axes:
                return leaf
            if isinstance(leaf, Tensor):
                return leaf.expand(*(num_rows if axis == self.axes[name] else -1 for axis in range(leaf.ndim)))
            return type(leaf)(itertools.repeat(leaf[0], num_rows))

        return self._map(expanded, num_rows)

    def replace(self, leaves: Mapping[str, Tensor]) -> "Rows":
        """Put other tensors ``[rows, ...]`` of as many rows in the place of some that have these rows.

        Raises:
            ValueError: If there is no such tensor.
        """
        unknown = leaves.keys() - self.tensors.keys()
        if unknown:
            raise ValueError(f"inputs: expected names among {list(self.tensors)}, got {sorted(unknown)}")

        def replaced(name: str, leaf: Any) -> Any:
            if name not in leaves:
                return leaf
            return leaves[name].movedim(0, self.axes[name]).contiguous() if self.axes[name] else leaves[name]

        return self._map(replaced, self.num_rows)

    def with_aside(self, names: Iterable[str]) -> "Rows":
        """Return the same rows, of which some leaves are no inputs."""
        return Rows(self.tree, self.num_rows, self.axes, frozenset(name for name in names if name in self.axes))

    def join(self, others: "Sequence[Rows]") -> "Rows":
        """Append rows of other batches of the same :attr:`kind`."""
        trees = [dict(walk(batch.tree)) for batch in (self, *others)]

        def joined(name: str, leaf: Any) -> Any:
            if name not in self.axes:
                return leaf
            parts = [tree[name] for tree in trees]
            if isinstance(leaf, Tensor):
                return torch.cat(parts, dim=self.axes[name])
            return type(leaf)(itertools.chain.from_iterable(parts))

        return self._map(joined, sum(map(len, (self, *others))))

    def _map(self, function: Callable[[str, Any], Any], num_rows: int) -> "Rows":
        return Rows(map_leaves(function, self.tree), num_rows, self.axes, self.aside)


@dataclass(frozen=True, eq=False)
class ProbeGroup:
    """Probes whose inputs have the same shapes.

    Attributes:
        inputs: What the task runs the model on.
        targets: What the score looks at.
    """

    inputs: Rows
    targets: Rows

    @classmethod
    def of(cls, inputs: Any, targets: Any) -> "ProbeGroup":
        """Take trees of inputs and targets for probes.

        Raises:
            ValueError: If there are no rows, or not one target for each input.
        """
        of_targets = Rows.of(targets)
        try:
            return cls(Rows.of(inputs, len(of_targets)), of_targets)
        except ValueError as error:
            raise ValueError(
                f"probes: expected one target for each input, got inputs {describe_tree(inputs)} and targets "
                f"{describe_tree(targets)}; say where they are with a task's unpack(batch)"
            ) from error

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, rows: Tensor | Sequence[int]) -> "ProbeGroup":
        """Return some of the probes."""
        return ProbeGroup(self.inputs.select(rows), self.targets.select(rows))

    def split(self, size: int | None) -> "list[ProbeGroup]":
        """Part the probes into such of at most so many; all together if ``None``."""
        if size is None or size >= len(self):
            return [self]
        return [self.select(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)]

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
        """Make probes of pairs of inputs and targets; batches of equal row shapes and shared leaves become one group.

        Raises:
            ValueError: If a batch has no rows, or not one target for each input.
        """
        return cls.joined(*itertools.starmap(ProbeGroup.of, batches))

    @classmethod
    def joined(cls, *parts: ProbeGroup) -> "Probes":
        """Join probes: those of equal row shapes and shared leaves become one group."""
        both = (_with_rows_in_all(own) for own in zip(*((part.inputs, part.targets) for part in parts), strict=True))
        groups: dict[Any, list[ProbeGroup]] = {}
        for group in itertools.starmap(ProbeGroup, zip(*both, strict=True)):
            groups.setdefault((group.inputs.kind, group.targets.kind), []).append(group)
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
        index = _as_index(rows).cpu()
        starts = zip(self.starts, self.groups, strict=True)
        numbers = [index[(index >= start) & (index < start + len(group))] - start for start, group in starts]
        # Of no probes at all it is still known what they would be.
        asked = [place for place, own in enumerate(numbers) if len(own)] or [0]
        return Probes(tuple(self.groups[place].select(numbers[place]) for place in asked))

    def to(self, device: torch.device | str) -> "Probes":
        """Move the probes to a device."""
        return Probes(tuple(group.to(device) for group in self.groups))

    @cached_property
    def fingerprints(self) -> list[str]:
        """The digest of every input."""
        return [digest for group in self.groups for digest in fingerprints(group.inputs)]

    def to_state(self) -> list[dict[str, Any]] | None:
        """Return trees on the CPU that load with ``weights_only=True``; ``None`` where a tree is made of other containers."""
        cpu = self.to("cpu")
        pairs = [{"inputs": group.inputs, "targets": group.targets} for group in cpu.groups]
        if not all(is_plain(rows.tree) for pair in pairs for rows in pair.values()):
            return None
        return [
            {
                part: {"tree": rows.tree, "num_rows": len(rows), "axes": dict(rows.axes), "aside": sorted(rows.aside)}
                for part, rows in pair.items()
            }
            for pair in pairs
        ]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> "Probes":
        """Rebuild probes from :meth:`to_state`.

        Raises:
            ValueError: If there are none, or not one target for each input.
            Exception: Of other kinds if it is broken in other ways.
        """
        groups = tuple(ProbeGroup(*(_rows_from_state(group[part]) for part in ("inputs", "targets"))) for group in state)
        if not groups or any(len(group.inputs) != len(group.targets) for group in groups):
            raise ValueError("expected probes with a target for each input")
        return cls(groups)


def _rows_from_state(state: Mapping[str, Any]) -> Rows:
    rows = Rows(state["tree"], state["num_rows"], dict(state["axes"]), frozenset(state["aside"]))
    leaves = dict(walk(rows.tree))
    found = [leaves[name].shape[axis] if isinstance(leaves[name], Tensor) else len(leaves[name])
             for name, axis in rows.axes.items()]  # fmt: skip
    if not rows.tensors or set(found) != {rows.num_rows}:
        raise ValueError(f"expected {rows.num_rows!r:.100} rows, got {found}")
    return rows


def fingerprints(inputs: Rows) -> list[str]:
    """Hash every row by its content, to find out whether reference models have seen a probe.

    Args:
        inputs: Rows on any device.

    Returns:
        One hexadecimal digest for each row; rows of equal shapes and equal values have equal digests, in whatever
        floating-point dtype (compared in float32). Where there is only one leaf, its name does not matter.
    """
    digests = [hashlib.sha256() for _ in range(len(inputs))]
    lists = {name: leaf for name, leaf in walk(inputs.tree) if is_list(leaf) and name in inputs.axes}
    leaves = {name: leaf for name, leaf in {**inputs.tensors, **lists}.items() if name not in inputs.aside}
    for name, leaf in sorted(leaves.items()):
        for digest, content in zip(digests, _contents(name if len(leaves) > 1 else "", leaf), strict=True):
            digest.update(content)
    return [digest.hexdigest() for digest in digests]


def _contents(name: str, leaf: Tensor | Sequence[Any]) -> Iterator[bytes]:
    if not isinstance(leaf, Tensor):
        yield from (f"{name}{describe(item)}".encode() for item in leaf)
        return
    rows = leaf.detach().cpu()
    if rows.is_floating_point():
        # Two runs may see the same input in different precision.
        rows = rows.float()
    kind = f"{name}{rows.dtype}{tuple(rows.shape[1:])}".encode()
    yield from (kind + row.numpy().tobytes() for row in rows)


def _with_rows_in_all(batches: Sequence[Rows]) -> list[Rows]:
    """Share a leaf in all batches if it does not follow the number of rows in one of them."""
    shared = {name for batch in batches for name in batch.shared}
    return [
        Rows(batch.tree, batch.num_rows, {name: axis for name, axis in batch.axes.items() if name not in shared}, batch.aside)
        for batch in batches
    ]


def _as_index(rows: Tensor | Sequence[int]) -> Tensor:
    index = torch.as_tensor(rows)
    return index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()
