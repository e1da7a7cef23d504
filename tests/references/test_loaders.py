from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_interactions.game.tasks import Classification
from lightning_interactions.references.loaders import draw_part, loader_of_part, sampler_pool, unrepeatable
from tests.helpers.models import GloballyAugmentedDataset, SelfAugmentedDataset, StreamedDataset, tabular_data

DATA = tabular_data(20)
POSITION = {tuple(row): position for position, row in enumerate(DATA.tensors[0].tolist())}


class EveryOther(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(0, 20, 2))

    def __len__(self) -> int:
        return 10


def loaded(loader: DataLoader[Any]) -> list[int]:
    """Positions in the data of what a loader gives."""
    return [POSITION[tuple(row)] for inputs, _ in loader for row in inputs.tolist()]


# The pool


def test_the_pool_is_what_the_sampler_can_give() -> None:
    weights = torch.tensor([0.0, 1.0] * 10)
    samplers: dict[str, tuple[Any, list[int]]] = {
        "sequential": (SequentialSampler(DATA), list(range(20))),
        "random": (RandomSampler(DATA), list(range(20))),
        "with replacement": (RandomSampler(DATA, replacement=True, num_samples=3), list(range(20))),
        "subset": (SubsetRandomSampler([7, 3, 11]), [3, 7, 11]),
        "weighted": (WeightedRandomSampler(weights.tolist(), 4), list(range(1, 20, 2))),
        "of two processes": (DistributedSampler(DATA, num_replicas=2, rank=1), list(range(20))),
        "own": (EveryOther(), list(range(0, 20, 2))),
    }
    for name, (sampler, expected) in samplers.items():
        found = sampler_pool(DataLoader(DATA, batch_size=8, sampler=sampler, drop_last=True))
        # What one epoch gives of a sampler of the user's own: a last batch that is dropped is not given.
        assert list(found or []) == (expected[:8] if name == "own" else expected), name


class OwnIteration(DataLoader[Any]):
    def __iter__(self) -> Any:
        return super().__iter__()


class OwnBatches(BatchSampler):
    pass


@pytest.mark.parametrize(
    "loader",
    [
        [DATA.tensors],
        DataLoader(StreamedDataset(DATA, 20), batch_size=4),
        DataLoader(DATA, batch_size=None),
        OwnIteration(DATA, batch_size=4),
        {"a": DataLoader(DATA)},
        DataLoader(DATA, sampler=DistributedSamplerWrapper(EveryOther(), num_replicas=2, rank=1)),
    ],
    ids=["list", "iterable", "unbatched", "own iteration", "several", "own sampler of two processes"],
)
def test_data_without_indices_has_no_pool(loader: Any) -> None:
    assert sampler_pool(loader) is None


def test_the_pool_leaves_generators_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    state, global_state = generator.get_state(), torch.get_rng_state()
    sampler_pool(DataLoader(DATA, shuffle=True, generator=generator))
    sampler_pool(DataLoader(DATA, sampler=EveryOther()))
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), global_state)


# Parts


def test_a_part_and_the_rest_are_complete_and_drawn_by_the_seed() -> None:
    pool = list(range(5, 45, 2))
    part, rest = draw_part(pool, 6, seed=0)
    assert len(part) == 6
    assert sorted([*part, *rest]) == pool
    assert (part, rest) == draw_part(pool, 6, seed=0)
    assert part != draw_part(pool, 6, seed=1)[0]


class OfIntegers(Dataset[int]):
    """Takes Python's own integers alone, and says what it was asked for."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        assert type(index) is int
        return index


@pytest.mark.parametrize("indices", [[1, 4], range(1, 5, 3), torch.tensor([1, 4]), np.array([1, 4], dtype=np.int32)], ids=type)
def test_a_dataset_is_asked_for_pythons_own_integers(indices: Any) -> None:
    for in_order in (True, False):
        part = loader_of_part(DataLoader(OfIntegers(), batch_size=2), indices, in_order=in_order)
        assert torch.cat(list(part)).tolist() == [1, 4]
        # 8 bytes a sample, with no object for each: what workers share stays shared.
        assert part.dataset.indices.itemsize * len(part.dataset.indices) == 16  # type: ignore[attr-defined]
    held_out, rest = draw_part(range(20), 5, seed=0)
    assert {type(index) for index in (*held_out, *rest)} == {int}


def test_a_part_keeps_the_loaders_settings() -> None:
    def collate(samples: list[Any]) -> Any:
        return torch.utils.data.default_collate(samples)

    whole = DataLoader(DATA, batch_size=3, collate_fn=collate, drop_last=True, shuffle=True)
    part = loader_of_part(whole, [1, 4, 6, 9, 12])
    assert (part.batch_size, part.collate_fn, part.drop_last) == (3, collate, True)
    assert isinstance(part.sampler, RandomSampler)
    assert len(loaded(part)) == 3
    in_order = loader_of_part(whole, [1, 4, 6, 9, 12], in_order=True)
    assert loaded(in_order) == [1, 4, 6, 9, 12]


def test_a_batch_sampler_handed_in_is_as_good_as_its_arguments() -> None:
    whole = DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler([1, 4, 6, 9, 13]), 2, drop_last=True))
    assert list(sampler_pool(whole) or []) == [1, 4, 6, 9, 13]
    part = loader_of_part(whole, [1, 4, 9])
    assert (part.batch_size, part.drop_last) == (2, True)
    assert isinstance(part.sampler, RandomSampler)
    assert set(loaded(part)) <= {1, 4, 9}


@pytest.mark.parametrize("sampler", [SequentialSampler(DATA), DistributedSampler(DATA, num_replicas=2, rank=1, shuffle=False)])
def test_a_sequential_part_stays_in_order(sampler: Any) -> None:
    assert loaded(loader_of_part(DataLoader(DATA, batch_size=3, sampler=sampler), [1, 4, 6, 9, 12])) == [1, 4, 6, 9, 12]


@pytest.mark.parametrize(
    "sampler",
    [RandomSampler(DATA), SubsetRandomSampler([1, 4, 6, 9, 13]), EveryOther()],
    ids=lambda sampler: type(sampler).__name__,
)
def test_other_samplers_shuffle_the_part(sampler: Any) -> None:
    part = loader_of_part(DataLoader(DATA, batch_size=2, sampler=sampler), [1, 4, 6, 9])
    orders = {tuple(loaded(part)) for _ in range(20)}
    assert len(orders) > 1
    assert {tuple(sorted(order)) for order in orders} == {(1, 4, 6, 9)}


def test_a_weighted_part_keeps_its_weights() -> None:
    weights = torch.ones(20)
    weights[4], weights[6] = 0, 1000
    whole = DataLoader(DATA, batch_size=2, sampler=WeightedRandomSampler(weights.tolist(), 190))
    drawn = loaded(loader_of_part(whole, [1, 4, 6, 9]))
    assert len(drawn) == 190 * 4 // 19
    assert 4 not in drawn
    assert drawn.count(6) > 30


def test_samples_drawn_with_replacement_are_fewer_in_proportion() -> None:
    whole = DataLoader(DATA, batch_size=2, sampler=RandomSampler(DATA, replacement=True, num_samples=100))
    assert len(loaded(loader_of_part(whole, [1, 4, 6, 9]))) == 20


def test_an_own_generator_decides_the_order() -> None:
    orders = []
    for _ in range(2):
        whole = DataLoader(DATA, batch_size=2, shuffle=True)
        orders.append(loaded(loader_of_part(whole, range(20), generator=torch.Generator().manual_seed(5))))
    assert orders[0] == orders[1]


@pytest.mark.parametrize(("size", "expected"), [(3, 3), (4, 3), (5, 5), (7, 6), (1, 1)])
def test_a_last_batch_of_one_is_left_out(size: int, expected: int) -> None:
    assert len(loaded(loader_of_part(DataLoader(DATA, batch_size=3), range(size)))) == expected
    assert len(loaded(loader_of_part(DataLoader(DATA, batch_size=3), range(size), in_order=True))) == size
    assert len(loaded(loader_of_part(DataLoader(DATA, batch_size=1), range(size)))) == size


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="got none"):
        loader_of_part(DataLoader(DATA), [])


def test_a_part_that_drop_last_would_drop_is_refused() -> None:
    whole = DataLoader(DATA, batch_size=8, drop_last=True)
    with pytest.raises(MisconfigurationException, match=r"drop_last.* got 7"):
        loader_of_part(whole, range(7))
    assert len(loaded(loader_of_part(whole, range(7), in_order=True))) == 7


# Batches and workers of the user's own


def test_parts_of_batches_of_the_users_own_are_their_samples() -> None:
    whole = DataLoader(DATA, batch_sampler=OwnBatches(RandomSampler(DATA), 4, False))
    assert list(sampler_pool(whole) or []) == list(range(20))
    part, in_order = (loader_of_part(whole, range(0, 20, 2), in_order=fixed) for fixed in (False, True))
    for _ in range(5):
        given = [len(inputs) for inputs, _ in part]
        assert 1 not in given
        assert sum(given) <= 10
    orders = [loaded(in_order) for _ in range(2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(0, 20, 2))


class Opened(Dataset[Any]):
    """Has to be opened in each worker."""

    def __init__(self) -> None:
        self.rows: Any = None

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def open_rows(_worker: int) -> None:
    dataset: Any = get_worker_info().dataset  # type: ignore[union-attr]
    assert len(dataset) == 4
    dataset.rows = DATA


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_what_workers_do_to_a_part_is_done_to_the_dataset() -> None:
    whole = DataLoader(Opened(), batch_size=2, num_workers=1, worker_init_fn=open_rows)
    assert loaded(loader_of_part(whole, [1, 4, 6, 9])) == [1, 4, 6, 9]


# Random augmentation


@pytest.mark.parametrize("dataset", [GloballyAugmentedDataset(DATA), SelfAugmentedDataset(DATA)], ids=["global", "own"])
def test_random_augmentation_is_noticed(dataset: Any) -> None:
    state = torch.get_rng_state()
    assert unrepeatable(DataLoader(dataset), range(20), Classification()).startswith("20 of 20")
    assert torch.equal(torch.get_rng_state(), state)


def test_data_that_stays_the_same_passes() -> None:
    assert unrepeatable(DataLoader(DATA), range(20), Classification()) == ""
