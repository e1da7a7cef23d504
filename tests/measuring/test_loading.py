import dataclasses
import math
import multiprocessing
import os
import random
import threading
import warnings
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from lightning_interactions.measuring.loading import (
    CannotLoadError,
    cut,
    load_batches,
    row_axis,
    rows_of_batches,
    sampled_batches,
    sampled_indices,
    worker_settings,
)

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


class Numbered(Dataset[tuple[Tensor, int]]):
    """Sample ``index`` is (index, index mod 3). It must not be copied."""

    def __init__(self, size: int = 20) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index % 3

    def __deepcopy__(self, memo: dict[int, Any]) -> "Numbered":
        raise AssertionError("the dataset must not be copied")


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


class InWorkers(Numbered):
    """Can be read in a worker alone, from a file that opens when it is first read, if the worker has been set up."""

    ready = False

    def __init__(self, path: Path, size: int = 20) -> None:
        super().__init__(size)
        self.path = path
        self.file: Any = None
        path.write_bytes(bytes(range(size)))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        assert get_worker_info() is not None
        assert self.ready
        if self.file is None:
            self.file = self.path.open("rb")
        self.file.seek(index)
        return torch.tensor([float(self.file.read(1)[0])]), os.getpid()


def get_ready(_worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.ready = True  # type: ignore[attr-defined]


def epoch(loader: DataLoader[Any]) -> list[int]:
    return [int(index) for inputs, _ in loader for index in inputs.flatten()]


# Which samples a loader uses


def listed(loader: Any, num_batches: float) -> list[int] | None:
    found = sampled_indices(loader, num_batches)
    return None if found is None else found.tolist()


def test_all_samples_of_a_shuffled_loader_are_listed() -> None:
    loader = DataLoader(Numbered(), batch_size=3, shuffle=True)
    assert listed(loader, math.inf) == list(range(20))


def test_dropped_samples_are_not_listed() -> None:
    loader = DataLoader(Numbered(), batch_size=3, drop_last=True)
    assert listed(loader, math.inf) == list(range(18))


@pytest.mark.parametrize(("num_batches", "expected"), [(0, 0), (1, 3), (2, 6), (2.0, 6), (7, 20), (100, 20)])
def test_only_the_batches_that_are_used_are_listed(num_batches: float, expected: int) -> None:
    loader = DataLoader(Numbered(), batch_size=3)
    assert listed(loader, num_batches) == list(range(expected))


@pytest.mark.parametrize("num_batches", [0, 1, 3, 6, math.inf])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("generator", [None, 3])
def test_the_fast_way_lists_what_batches_have_and_draws_as_they_do(
    num_batches: float, drop_last: bool, shuffle: bool, generator: int | None
) -> None:
    own = None if generator is None else torch.Generator().manual_seed(generator)
    loader = DataLoader(Numbered(), batch_size=3, shuffle=shuffle, drop_last=drop_last, generator=own)
    found, states = [], []
    for way in (sampled_indices, sampled_batches):
        torch.manual_seed(7)
        found.append(way(loader, num_batches))
        states.append(torch.get_rng_state())
    indices, batches = found
    assert indices is not None
    assert batches is not None
    assert indices.tolist() == sorted(index for batch in batches for index in batch)
    assert torch.equal(*states)


def test_samples_held_out_by_a_subset_sampler_are_not_listed() -> None:
    loader = DataLoader(Numbered(), batch_size=3, sampler=SubsetRandomSampler([11, 4, 7, 1]))
    assert listed(loader, math.inf) == [1, 4, 7, 11]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_distributed_sampler_lists_its_own_part(rank: int) -> None:
    sampler = DistributedSampler(Numbered(), num_replicas=2, rank=rank, shuffle=False)
    assert listed(DataLoader(sampler.dataset, batch_size=3, sampler=sampler), math.inf) == list(range(rank, 20, 2))


def test_a_custom_batch_sampler_is_followed() -> None:
    loader = DataLoader(Numbered(), batch_sampler=[[5, 3], [3, 9], [1]])
    assert listed(loader, math.inf) == [1, 3, 5, 9]
    assert listed(loader, 2) == [3, 5, 9]


def test_samples_drawn_twice_and_indices_that_are_tensors_are_listed_once_as_int() -> None:
    class Repeating(Sampler[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(torch.tensor([3, 1, 3, 2]))

        def __len__(self) -> int:
            return 4

    indices = listed(DataLoader(Numbered(), batch_size=2, sampler=Repeating()), math.inf)
    assert indices == [1, 2, 3]
    assert indices is not None
    assert all(type(index) is int for index in indices)


def test_an_endless_sampler_ends_with_the_batches_that_are_used() -> None:
    class Endless(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield from range(4)

    loader = DataLoader(Numbered(), batch_size=2, sampler=Endless())
    assert listed(loader, 5) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "loader",
    [DataLoader(Stream(), batch_size=2), [(torch.zeros(1), 0)], None],
    ids=["iterable dataset", "list", "none"],
)
def test_data_that_can_only_be_watched_gives_none(loader: object) -> None:
    assert listed(loader, math.inf) is None


def own_generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


class Stateful(Sampler[int]):
    """Another order each time it is asked, from a state and a generator of its own."""

    def __init__(self) -> None:
        self.epochs = 0
        self.generator = own_generator()

    def __iter__(self) -> Iterator[int]:
        self.epochs += 1
        order = torch.randperm(20, generator=self.generator)
        return iter((order + self.epochs).remainder(20).tolist())

    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize(
    "make_sampler",
    [
        lambda dataset: RandomSampler(dataset, generator=own_generator()),
        lambda dataset: RandomSampler(dataset, replacement=True, num_samples=30, generator=own_generator()),
        lambda _dataset: SubsetRandomSampler(range(10), generator=own_generator()),
        lambda _dataset: WeightedRandomSampler([1.0] * 20, 20, generator=own_generator()),
        lambda dataset: DistributedSampler(dataset, num_replicas=2, rank=0, seed=5),
        lambda dataset: SequentialSampler(dataset),
        lambda _dataset: Stateful(),
    ],
    ids=["random", "replacement", "subset", "weighted", "distributed", "sequential", "stateful"],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["sampler", "batch sampler"])
@pytest.mark.parametrize("num_batches", [2, math.inf])
def test_the_order_of_the_next_epochs_is_as_if_nobody_had_asked(make_sampler: Any, wrapped: bool, num_batches: float) -> None:
    epochs = []
    for asked in (False, True):
        dataset = Numbered()
        sampler = make_sampler(dataset)
        settings = {"batch_sampler": BatchSampler(sampler, 3, False)} if wrapped else {"batch_size": 3, "sampler": sampler}
        loader = DataLoader(dataset, generator=own_generator(), **settings)
        if asked:
            indices = listed(loader, num_batches)
            assert indices
        first = epoch(loader)
        if asked:
            assert set(indices) == set(first[:6] if num_batches == 2 else first)
            sampled_indices(loader, num_batches)
        epochs.append([first, epoch(loader)])
    assert epochs[0] == epochs[1]


def test_a_shuffling_loader_with_a_generator_is_left_alone() -> None:
    loaders = [DataLoader(Numbered(), batch_size=3, shuffle=True, generator=own_generator()) for _ in range(2)]
    sampled_indices(loaders[1], 2)
    assert epoch(loaders[0]) == epoch(loaders[1])


def test_a_sample_that_is_a_batch_is_listed_alone() -> None:
    assert sampled_batches(DataLoader(Numbered(4), batch_size=None), math.inf) == [[0], [1], [2], [3]]
    assert sampled_batches(DataLoader(Numbered(4), batch_size=None), 2) == [[0], [1]]


def test_a_sampler_that_cannot_be_copied_is_watched() -> None:
    class Locked(Sampler[int]):
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

        def __len__(self) -> int:
            return 4

    assert sampled_batches(DataLoader(Numbered(), sampler=Locked()), math.inf) is None


# Cutting


@PROPERTY
@given(number=st.integers(1, 200), batch_size=st.integers(1, 70))
def test_indices_are_cut_into_batches_of_two_sizes_where_they_can_be(number: int, batch_size: int) -> None:
    batches = cut(range(number), batch_size)
    assert [index for batch in batches for index in batch] == list(range(number))
    sizes = [len(batch) for batch in batches]
    assert 1 <= min(sizes) <= max(sizes) <= batch_size
    if number > 2 and batch_size > 1:
        assert len(set(sizes)) > 1
    assert len(batches) <= -(-number // batch_size) + 1


@pytest.mark.parametrize(
    ("number", "batch_size", "sizes"),
    [
        (32, 32, [17, 15]),
        (32, 256, [17, 15]),
        (33, 32, [17, 16]),
        (64, 32, [32, 17, 15]),
        (4, 2, [2, 1, 1]),
        (2, 8, [2]),
        (3, 1, [1] * 3),
    ],
)
def test_one_batch_becomes_two_of_different_size(number: int, batch_size: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in cut(range(number), batch_size)] == sizes


# Loading


def test_samples_go_through_the_dataset_and_the_collate_function() -> None:
    loader = DataLoader(Numbered(), batch_size=2, collate_fn=lambda samples: ["collated", *samples])
    one, other = load_batches(loader, [[4, 1], [7]])
    assert one == ["collated", (torch.tensor([4.0]), 1), (torch.tensor([1.0]), 1)]
    assert other == ["collated", (torch.tensor([7.0]), 1)]


def test_samples_come_in_the_order_asked_for() -> None:
    ((inputs, targets),) = load_batches(DataLoader(Numbered(), batch_size=2), [[7, 0, 5]])
    assert inputs.tolist() == [[7.0], [0.0], [5.0]]
    assert targets.tolist() == [1, 0, 2]


def test_a_sample_that_is_a_batch_is_loaded_alone() -> None:
    loader: DataLoader[Any] = DataLoader(Numbered(), batch_size=None)
    assert [list(batch) for batch in load_batches(loader, [[7], [2]])] == [[torch.tensor([7.0]), 1], [torch.tensor([2.0]), 2]]


def test_a_dataset_that_is_asked_for_whole_batches_is_asked_for_ours() -> None:
    class Table(Numbered):
        def __getitem__(self, index: Any) -> Any:
            assert isinstance(index, list)
            return {"x": torch.tensor(index)}

    loader: DataLoader[Any] = DataLoader(Table(6), batch_size=None, sampler=BatchSampler(RandomSampler(range(6)), 4, False))
    assert listed(loader, math.inf) == list(range(6))
    assert [batch["x"].tolist() for batch in load_batches(loader, [[5, 1], [2]])] == [[5, 1], [2]]


def test_a_sampler_of_the_data_behind_a_subset_does_not_copy_them() -> None:
    class Behind(SequentialSampler):
        def __init__(self, inner: Numbered) -> None:
            super().__init__(inner)
            self.inner = inner

    class Wrapped(Numbered):
        def __init__(self, inner: Numbered) -> None:
            super().__init__(len(inner))
            self.parts = [inner]

    inner = Numbered(4)
    assert listed(DataLoader(Wrapped(inner), sampler=Behind(inner)), math.inf) == [0, 1, 2, 3]


def test_datasets_that_load_many_at_once_are_asked_once_a_batch() -> None:
    class Bulk(Numbered):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            raise AssertionError("asked one by one")

        def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
            asked.append(indices)
            return [(torch.tensor([float(index)]), index) for index in indices]

    asked: list[list[int]] = []
    load_batches(DataLoader(Bulk(), batch_size=2), [[7, 0], [3]])
    assert asked == [[7, 0], [3]]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_samples_are_read_in_workers_where_the_loader_reads_there(tmp_path: Path, context: str) -> None:
    data = InWorkers(tmp_path / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Too many workers, for most machines.
        loader = DataLoader(
            data,
            4,
            num_workers=64 if context == "fork" else 1,
            worker_init_fn=get_ready,
            multiprocessing_context=context,
            persistent_workers=True,
        )
    batches = load_batches(loader, [[3, 17], [8]])
    assert [inputs.flatten().tolist() for inputs, _ in batches] == [[3.0, 17.0], [8.0]]
    processes = {int(pid) for _, pids in batches for pid in pids}
    assert os.getpid() not in processes
    # No more workers than batches, and none that stays.
    assert len(processes) == (2 if context == "fork" else 1)
    assert data.file is None
    assert not data.ready
    assert not {child.pid for child in multiprocessing.active_children()} & processes


def test_a_loader_with_warnings_of_its_own_gives_none_here(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = DataLoader(
            InWorkers(tmp_path / "data"), 1, num_workers=500, worker_init_fn=get_ready, pin_memory=not torch.cuda.is_available()
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_batches(loader, [[1]])) == 1


def test_workers_that_cannot_be_started_again_are_an_error(tmp_path: Path) -> None:
    data = InWorkers(tmp_path / "data")
    data.file = data.path.open("rb")
    loader = DataLoader(data, 4, num_workers=1, worker_init_fn=get_ready, multiprocessing_context="spawn")
    with data.file, pytest.raises(ValueError, match=r"workers .* cannot be started .*; let the dataset open"):
        load_batches(loader, [[1]])


class Augmented(Numbered):
    """Draws from generators of its own and from the global ones."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.random = np.random.default_rng(3)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(1, generator=self.generator) + self.random.random()
        return torch.tensor([float(index)]) + noise, index


def test_training_reads_the_same_whether_samples_were_loaded_before_or_not() -> None:
    epochs = []
    for asked in (False, True):
        loader = DataLoader(Augmented(), 3, shuffle=True, generator=torch.Generator().manual_seed(5))
        first = torch.cat([inputs for inputs, _ in loader])
        state = torch.get_rng_state()
        if asked:
            load_batches(loader, [[4, 1], [2]])
        assert torch.equal(torch.get_rng_state(), state)
        epochs.append(torch.cat([first, *[inputs for inputs, _ in loader]]))
    assert torch.equal(*epochs)


def test_persistent_workers_of_training_go_on(tmp_path: Path) -> None:
    loader = DataLoader(InWorkers(tmp_path / "data", 8), 4, num_workers=1, worker_init_fn=get_ready, persistent_workers=True)
    pids = {int(pid) for _, own in loader for pid in own}
    iterator = loader._iterator
    loaded = {int(pid) for _, own in load_batches(loader, [[1, 2]]) for pid in own}
    assert loader._iterator is iterator
    assert {int(pid) for _, own in loader for pid in own} == pids
    assert not loaded & pids
    assert iterator is not None
    iterator._shutdown_workers()  # type: ignore[attr-defined]


def test_workers_draw_by_the_seed() -> None:
    loader = DataLoader(DrawsInWorkers(), 2, num_workers=1)
    drawn = [float(load_batches(loader, [[0, 1]], seed)[0][0].sum()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


class DrawsInWorkers(Numbered):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(1) + random.random() + np.random.random(), index


class Doubling(DataLoader[Any]):
    """A class of the user's own with other arguments, that changes batches."""

    def __init__(self, factor: int) -> None:
        super().__init__(Numbered(), batch_size=4, shuffle=True)
        self.factor = factor

    def __iter__(self) -> Any:
        for inputs, targets in super().__iter__():
            yield inputs * self.factor, targets


class Endless(DataLoader[Any]):
    """Gives batches of an iterator that it keeps."""

    def __init__(self) -> None:
        super().__init__(Numbered(), batch_size=4)
        self.batches = super().__iter__()

    def __iter__(self) -> Any:
        while True:
            yield next(self.batches)


class OwnWay(DataLoader[Any]):
    """Does not ask its batch sampler."""

    def __iter__(self) -> Any:
        yield from (self.dataset[0], self.dataset[1], self.dataset[2])


def test_loaders_of_a_class_of_the_users_own_are_copied() -> None:
    ((inputs, _),) = load_batches(Doubling(factor=3), [[4, 1]])
    assert inputs.tolist() == [[12.0], [3.0]]


def test_a_loader_that_keeps_an_iterator_is_left_alone() -> None:
    loader = Endless()
    with pytest.raises(CannotLoadError):
        load_batches(loader, [[1]])
    assert next(iter(loader))[0].flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_other_batches_than_those_asked_for_are_noticed() -> None:
    with pytest.raises(CannotLoadError, match="gives 3 batches where 2"):
        load_batches(OwnWay(Numbered()), [[1], [2]])


def test_nothing_is_loaded_of_nothing() -> None:
    assert load_batches(DataLoader(Numbered()), []) == []


def test_settings_of_a_loader_make_one_like_it(tmp_path: Path) -> None:
    loader = DataLoader(InWorkers(tmp_path / "data"), 4, num_workers=1, worker_init_fn=get_ready, timeout=50, prefetch_factor=3)
    other = DataLoader(loader.dataset, 4, num_workers=1, **worker_settings(loader))
    assert worker_settings(other) == worker_settings(loader)
    assert (other.timeout, other.prefetch_factor, other.worker_init_fn) == (50, 3, get_ready)


# Rows


@dataclasses.dataclass(frozen=True)
class Sample:
    image: Tensor
    label: Tensor


class Encoding(UserDict[str, Any]):
    """Like the batches of Hugging Face's tokenizers."""


def kinds(size: int, length: int) -> dict[str, tuple[Any, dict[str, int]]]:
    """Batches of so many samples, with the axes that are their rows."""
    x, y = torch.zeros(size, 3), torch.zeros(size)
    return {
        "tensor": (x, {"": 0}),
        "pair": ((x, y), {"0": 0, "1": 0}),
        "nested": ({"a": [x, {"b": y}]}, {"a.0": 0, "a.1.b": 0}),
        "dataclass": (Sample(x, y), {"image": 0, "label": 0}),
        "user dict": (Encoding(ids=torch.zeros(size, length), labels=y), {"ids": 0, "labels": 0}),
        "strings": ({"x": x, "text": ["word"] * size}, {"x": 0, "text": 0}),
        "time-major": ((torch.zeros(length, size, 3), y), {"0": 1, "1": 0}),
        "shared": ({"x": x, "weights": torch.zeros(3), "graph": torch.zeros(7, 7), "step": 4, "none": None}, {"x": 0}),
        "mask of each pair": ((x, torch.zeros(size, size)), {"0": 0, "1": 0}),
        "two views": (torch.zeros(2 * size, 3), {"": 0}),
        "two views of all": ((torch.zeros(2 * size, 3), torch.zeros(2 * size)), {"0": 0, "1": 0}),
        "views on an axis": ((torch.zeros(2, size, 3), y), {"0": 1, "1": 0}),
    }


@pytest.mark.parametrize("kind", list(kinds(2, 2)))
@pytest.mark.parametrize("sizes", [(17, 15), (4, 4, 3, 1), (2, 1, 1)], ids=str)
def test_the_row_is_what_follows_the_number_of_samples(kind: str, sizes: tuple[int, ...]) -> None:
    lengths = [9 + place % 2 for place in range(len(sizes))]
    made = [kinds(size, length)[kind] for size, length in zip(sizes, lengths, strict=True)]
    rows = rows_of_batches([batch for batch, _ in made], list(sizes))
    assert [dict(own.axes) for own in rows] == [made[0][1]] * len(sizes)
    times = 2 if kind in ("two views", "two views of all") else 1
    assert [len(own) for own in rows] == [times * size for size in sizes]
    assert all(len(own.select([0])) == 1 for own in rows)


@pytest.mark.parametrize("length", [1, 17, 15, 3])
def test_time_that_is_as_long_as_one_batch_is_large_is_no_row(length: int) -> None:
    batches = [(torch.zeros(length, size, 3), torch.zeros(size)) for size in (17, 15)]
    assert [dict(rows.axes) for rows in rows_of_batches(batches, [17, 15])] == [{"0": 1, "1": 0}] * 2


def test_of_single_samples_the_first_axis_of_length_one_is_the_row() -> None:
    batches = [(torch.zeros(5 + place, 1, 3), torch.zeros(1), torch.zeros(4)) for place in range(3)]
    assert [dict(rows.axes) for rows in rows_of_batches(batches, [1, 1, 1])] == [{"0": 1, "1": 0}] * 3


def test_samples_that_are_batches_have_as_many_rows_as_their_first_tensor() -> None:
    batches = [(torch.zeros(size, 3), torch.zeros(size)) for size in (4, 6)]
    for sizes in ([None, None], [1, 1]):
        rows = rows_of_batches(batches, sizes)
        assert [len(own) for own in rows] == [4, 6]
        assert dict(rows[0].axes) == {"0": 0, "1": 0}


@PROPERTY
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    others=st.lists(st.integers(1, 9), max_size=3),
    axis=st.integers(0, 3),
)
def test_rows_are_found_on_any_axis(sizes: list[int], others: list[int], axis: int) -> None:
    axis = min(axis, len(others))
    batches = [torch.zeros(*others[:axis], size, *others[axis:]) for size in sizes]
    rows = rows_of_batches(batches, list(sizes))
    found = rows[0].axes[""]
    # The first axis that follows; that is the row unless all sizes are the same.
    assert found == axis or (found < axis and set(sizes) == {others[found]})
    assert [len(own) for own in rows] == sizes


@pytest.mark.parametrize(
    "make",
    [
        lambda size: torch.zeros(11 if size == 4 else 5, 2),
        lambda size: {"text": ["word"] * size},
        lambda _size: object(),
        lambda _size: torch.zeros(()),
        lambda size: (torch.zeros(2 * size, 3), torch.zeros(size)),
        lambda size: (torch.zeros(size, 3), [torch.zeros(place, 4) for place in range(size)]),
        lambda size: {"x": torch.zeros(size, 3), "boxes": [{"box": torch.zeros(place, 4)} for place in range(size)]},
    ],
    ids=["points", "strings alone", "object", "number", "two views and one target", "list of tensors", "list of dicts"],
)
def test_batches_without_a_row_for_each_sample_are_an_error(make: Any) -> None:
    with pytest.raises(ValueError, match=r"probes: expected .* got .*; write a collate function"):
        rows_of_batches([make(size) for size in (4, 2)], [4, 2])


def test_a_batch_that_passes_tells_by_the_loaders_batch_size_where_its_samples_are() -> None:
    assert row_axis((torch.zeros(9, 4, 2), torch.zeros(4)), batch_size=4) == ("0", 1)
    assert row_axis((torch.zeros(4, 4), torch.zeros(4)), batch_size=4) == ("0", 0)
    assert row_axis((torch.zeros(3, 2), torch.zeros(3)), batch_size=4) == ("0", 0)
    assert row_axis({"step": torch.tensor(4), "x": torch.zeros(5, 2)}, batch_size=None) == ("x", 0)
    assert row_axis(object(), batch_size=4) is None
