import functools
import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from lightning_interactions.measuring.memory import data_as_found


class Inner:
    """Something of the user's own that a dataset holds."""

    def __init__(self) -> None:
        self.count, self.parts = 0, [{"seen": 0}]


class Remembers(Dataset[Any]):
    """Keeps what it can of each read."""

    def __init__(self, path: Any = __file__) -> None:
        self.path, self.file, self.reads, self.cache = path, None, 0, dict[int, int]()
        self.inner, self.total, self.table = Inner(), torch.zeros(2), np.zeros(2)
        self.generator, self.rng, self.python = torch.Generator().manual_seed(0), np.random.default_rng(0), random.Random(0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = open(self.path, "rb")  # noqa: SIM115
        self.reads += 1
        self.cache[index] = self.reads
        self.inner.count += 1
        self.inner.parts[0]["seen"] += 1
        self.total += 1
        self.table += 1
        return torch.rand(1, generator=self.generator) + self.rng.uniform() + self.python.random()

    def collate(self, rows: Any) -> Any:
        self.reads += 100
        return torch.stack(rows)


def state(data: Remembers) -> Any:
    own = (data.file, data.reads, data.cache, data.inner.count, data.inner.parts, data.total.tolist(), data.table.tolist())
    generators = data.generator.get_state().tolist(), data.rng.bit_generator.state, data.python.getstate()
    return repr((own, generators))


@pytest.mark.parametrize(
    "wrapped",
    [lambda data: data, lambda data: Subset(data, [1, 2]), lambda data: ConcatDataset([Subset(data, [0]), Subset(data, [3])])],
    ids=["plain", "subset", "parts"],
)
def test_data_remember_nothing_of_a_body_that_reads_them(wrapped: Any) -> None:
    data = Remembers()
    loader = DataLoader(wrapped(data), batch_size=2, collate_fn=data.collate)
    before, cache = state(data), data.cache
    with data_as_found(loader):
        first = list(loader)
        assert state(data) != before
    assert state(data) == before
    assert data.cache is cache
    with data_as_found(loader):
        assert all(map(torch.equal, first, list(loader)))


def test_what_is_large_is_the_data_and_left_alone() -> None:
    data = Remembers()
    data.cache = dict.fromkeys(range(200_000), 0)
    data.total = torch.zeros(2**23)
    with data_as_found(data):
        data[0]
    assert (data.reads, data.cache[0], float(data.total[0])) == (0, 1, 1.0)


def test_memory_that_processes_share_is_left_alone() -> None:
    data = Remembers()
    data.total.share_memory_()
    with data_as_found(data):
        data[0]
    assert data.total.tolist() == [1.0, 1.0]


def test_data_come_back_after_an_error() -> None:
    data = Remembers()
    before = state(data)
    with suppress(KeyError), data_as_found(data):
        data[0]
        raise KeyError
    assert state(data) == before


def remembering_collate() -> tuple[Any, Any]:
    """A collate function with a list, a number and a partial's dict, and what tells all of them."""
    sizes, number = list[int](), 0
    options = {"calls": 0}

    def collate(samples: Any, counts: dict[str, int]) -> Any:
        nonlocal number
        sizes.append(len(samples))
        number += 1
        counts["calls"] += 1
        return samples

    return functools.partial(collate, counts=options), lambda: (list(sizes), number, dict(options))


def test_a_collate_function_remembers_nothing() -> None:
    collate, told = remembering_collate()
    loader: DataLoader[Any] = DataLoader(range(4), batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    with data_as_found(loader):
        assert len(list(loader)) == 2
        assert told() == ([2, 2], 2, {"calls": 2})
    assert told() == ([], 0, {"calls": 0})
