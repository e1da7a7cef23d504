"""Numbers by which rows are recognised on their device, in whatever order they come and however often."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_interactions.records import Rows

__all__ = ["FLOATS", "RowMemory", "row_keys", "tensor_keys"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What inputs may be converted to before a forward."""

MOST_ENTRIES = 2**23
"""Entries that are looked at together: 64 MiB as integers."""


def row_keys(inputs: Rows) -> Int[Tensor, " rows"]:
    """Number rows by the content of all of their tensors; rows of equal content have equal numbers."""
    total = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    for place, leaf in enumerate(inputs.leaves.values()):
        total = total * 1_000_003 + place + tensor_keys(leaf).to(total.device)
    return total


def tensor_keys(rows: Tensor) -> Int[Tensor, " rows"]:
    """Number the rows of a tensor ``[rows, ...]`` by their content.

    The number is a random sum of the bits modulo 2^64: exact, and so the same on every device and in every order. Two given
    rows that differ have equal numbers with a probability below 1e-13.
    """
    if not len(rows) or not rows.numel():
        return torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    bits = rows.detach().reshape(len(rows), -1)
    if bits.is_complex():
        bits = torch.view_as_real(bits).flatten(1)
    # In short pieces: of a wide number that ends in many zero bits only few bits of the product would be left.
    bits = bits.contiguous().view(torch.uint8 if bits.element_size() == 1 else torch.int16)
    weights = _weights(bits.shape[1], bits.device)
    return torch.cat([(part.long() * weights).sum(dim=1) for part in bits.split(max(1, MOST_ENTRIES // bits.shape[1]))])


class RowMemory:
    """What was found out about rows, by their content.

    Args:
        most: Forget the oldest when there is more than this; nothing if left out.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._found: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._found)

    def keep(self, inputs: Rows, found: Tensor) -> None:
        """Remember ``[rows, ...]`` for rows, also in the other floating-point dtypes that they may be converted to."""
        self._keep(row_keys(inputs), found)
        for dtype in FLOATS:
            self._keep(row_keys(inputs.map(partial(_in_dtype, dtype=dtype))), found)

    def recall(self, inputs: Rows, find: Callable[[Rows], Tensor]) -> Tensor:
        """Return what is known of rows, ``[rows, ...]`` on their device; the rest is found out first, each row once."""
        if self.most is not None:
            for key in list(self._found)[: max(0, len(self._found) - self.most)]:
                del self._found[key]
        keys, place = row_keys(inputs).unique(return_inverse=True)
        first = torch.full_like(keys, len(inputs)).scatter_reduce(0, place, torch.arange(len(place)).to(place), "amin")
        numbers = keys.tolist()
        unknown = [position for position, key in enumerate(numbers) if key not in self._found]
        if unknown or not numbers:
            found = find(inputs.select(first[unknown]))
            if not numbers:
                return found
            self._keep(keys[unknown], found)
        return torch.stack([self._found[key] for key in numbers]).to(inputs.device)[place]

    def state(self) -> dict[str, Tensor]:
        """Return everything as two tensors, where all rows have as much to remember."""
        return {"keys": torch.tensor(list(self._found), dtype=torch.long), "found": torch.stack(list(self._found.values()))}

    def load(self, state: dict[str, Tensor]) -> None:
        """Remember what :meth:`state` returned, too."""
        self._keep(state["keys"], state["found"])

    def _keep(self, keys: Int[Tensor, " rows"], found: Tensor) -> None:
        self._found.update(zip(keys.tolist(), found.cpu(), strict=True))


def _in_dtype(leaf: Tensor, dtype: torch.dtype) -> Tensor:
    return leaf.to(dtype) if leaf.is_floating_point() else leaf


@lru_cache(maxsize=8)
def _weights(number: int, device: torch.device) -> Int[Tensor, " entries"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**63), 2**63 - 1, (number,), generator=generator).to(device) | 1
