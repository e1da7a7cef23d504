import math
import warnings
from collections.abc import Iterator
from typing import Any

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
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_interactions.measuring.probes import (
    MIN_CANDIDATES,
    candidate_indices,
    choose_probes,
    load_samples,
    sampled_indices,
    without_seen,
)
from lightning_interactions.records import Probes

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


def epoch(loader: DataLoader[Any]) -> list[int]:
    return [int(index) for inputs, _ in loader for index in inputs.flatten()]


def candidates_of(targets: Tensor) -> Probes:
    """Inputs that carry their position, so that it is known which were chosen."""
    return Probes.of((torch.arange(len(targets), dtype=torch.float32)[:, None], targets))


def positions_of(probes: Probes) -> list[int]:
    return [int(position) for group in probes.groups for position in group.inputs.tree.flatten()]


def chosen_positions(targets: Tensor, num_probes: int) -> list[int]:
    probes = choose_probes(candidates_of(targets), num_probes, "training")
    positions = positions_of(probes)
    assert torch.equal(probes.groups[0].targets.tree, targets[positions])
    return positions


# Which samples a loader uses


def test_all_samples_of_a_shuffled_loader_are_listed() -> None:
    loader = DataLoader(Numbered(), batch_size=3, shuffle=True)
    assert sampled_indices(loader, math.inf) == list(range(20))


def test_dropped_samples_are_not_listed() -> None:
    loader = DataLoader(Numbered(), batch_size=3, drop_last=True)
    assert sampled_indices(loader, math.inf) == list(range(18))


@pytest.mark.parametrize(("num_batches", "expected"), [(0, 0), (1, 3), (2, 6), (2.0, 6), (7, 20), (100, 20)])
def test_only_the_batches_that_are_used_are_listed(num_batches: float, expected: int) -> None:
    loader = DataLoader(Numbered(), batch_size=3)
    assert sampled_indices(loader, num_batches) == list(range(expected))


def test_samples_held_out_by_a_subset_sampler_are_not_listed() -> None:
    loader = DataLoader(Numbered(), batch_size=3, sampler=SubsetRandomSampler([11, 4, 7, 1]))
    assert sampled_indices(loader, math.inf) == [1, 4, 7, 11]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_distributed_sampler_lists_its_own_part(rank: int) -> None:
    sampler = DistributedSampler(Numbered(), num_replicas=2, rank=rank, shuffle=False)
    assert sampled_indices(DataLoader(sampler.dataset, batch_size=3, sampler=sampler), math.inf) == list(range(rank, 20, 2))


def test_a_custom_batch_sampler_is_followed() -> None:
    loader = DataLoader(Numbered(), batch_sampler=[[5, 3], [3, 9], [1]])
    assert sampled_indices(loader, math.inf) == [1, 3, 5, 9]
    assert sampled_indices(loader, 2) == [3, 5, 9]


def test_samples_drawn_twice_and_indices_that_are_tensors_are_listed_once_as_int() -> None:
    class Repeating(Sampler[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(torch.tensor([3, 1, 3, 2]))

        def __len__(self) -> int:
            return 4

    indices = sampled_indices(DataLoader(Numbered(), batch_size=2, sampler=Repeating()), math.inf)
    assert indices == [1, 2, 3]
    assert indices is not None
    assert all(type(index) is int for index in indices)


def test_an_endless_sampler_ends_with_the_batches_that_are_used() -> None:
    class Endless(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield from range(4)

    loader = DataLoader(Numbered(), batch_size=2, sampler=Endless())
    assert sampled_indices(loader, 5) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "loader",
    [DataLoader(Stream(), batch_size=2), DataLoader(Numbered(), batch_size=None), [(torch.zeros(1), 0)], None],
    ids=["iterable dataset", "no batches", "list", "none"],
)
def test_data_that_can_only_be_watched_gives_none(loader: object) -> None:
    assert sampled_indices(loader, math.inf) is None


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
            indices = sampled_indices(loader, num_batches)
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


# Loading samples


def test_samples_go_through_the_dataset_and_the_collate_function() -> None:
    loader = DataLoader(Numbered(), batch_size=2, collate_fn=lambda samples: ["collated", *samples])
    collated = load_samples(loader, [4, 1])
    assert collated == ["collated", (torch.tensor([4.0]), 1), (torch.tensor([1.0]), 1)]


def test_samples_are_one_batch_in_the_order_asked_for() -> None:
    inputs, targets = load_samples(DataLoader(Numbered(), batch_size=2), [7, 0, 5])
    assert inputs.tolist() == [[7.0], [0.0], [5.0]]
    assert targets.tolist() == [1, 0, 2]


def test_datasets_that_load_many_at_once_are_asked_once() -> None:
    class Bulk(Numbered):
        asked: list[list[int]]

        def __init__(self) -> None:
            super().__init__()
            self.asked = []

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            raise AssertionError("asked one by one")

        def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
            self.asked.append(indices)
            return [(torch.tensor([float(index)]), index) for index in indices]

    dataset = Bulk()
    inputs, targets = load_samples(DataLoader(dataset, batch_size=2), (7, 0))
    assert dataset.asked == [[7, 0]]
    assert inputs.tolist() == [[7.0], [0.0]]
    assert targets.tolist() == [7, 0]


def test_loading_samples_of_a_shuffled_loader_leaves_it_alone() -> None:
    dataset = TensorDataset(torch.arange(6.0)[:, None], torch.arange(6))
    loaders = [DataLoader(dataset, batch_size=2, shuffle=True, generator=own_generator()) for _ in range(2)]
    load_samples(loaders[1], [1, 2])
    assert epoch(loaders[0]) == epoch(loaders[1])


# Candidates


def drawn(seed: int, pool: list[int], num_probes: int = 4) -> list[int]:
    return candidate_indices(pool, num_probes, torch.Generator().manual_seed(seed))


def test_candidates_are_drawn_by_the_seed_alone() -> None:
    pool = list(range(0, 3000, 3))
    first = drawn(0, pool)
    torch.rand(5)
    assert drawn(0, pool) == first
    assert drawn(1, pool) != first
    assert len(first) == len(set(first)) == MIN_CANDIDATES
    assert set(first) <= set(pool)
    assert first != sorted(first)


def test_candidates_are_several_times_the_probes() -> None:
    assert len(drawn(0, list(range(3000)), num_probes=100)) == 800
    assert sorted(drawn(0, [5, 8, 2], num_probes=100)) == [2, 5, 8]
    assert drawn(0, []) == []


# Choosing probes


@PROPERTY
@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=6), num_probes=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_class_gets_its_share_of_the_probes_to_within_one(counts: list[int], num_probes: int, seed: int) -> None:
    total = sum(counts)
    if total < num_probes:
        counts, total = [*counts, num_probes], total + num_probes
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    targets = targets[torch.randperm(total, generator=torch.Generator().manual_seed(seed))]
    positions = chosen_positions(targets, num_probes)
    assert len(positions) == len(set(positions)) == num_probes
    got = targets[positions].bincount(minlength=len(counts)).tolist()
    assert all(abs(have - num_probes * count / total) < 1 for have, count in zip(got, counts, strict=True))


def test_a_balanced_task_gets_equally_many_of_each_class() -> None:
    targets = torch.arange(100) % 5
    assert targets[chosen_positions(targets, 20)].bincount().tolist() == [4] * 5


@pytest.mark.parametrize("kind", [lambda t: t, lambda t: t.float(), lambda t: t[:, None], lambda t: t.bool()])
def test_classes_of_any_dtype_and_shape_are_stratified(kind: Any) -> None:
    targets = kind((torch.arange(100) >= 90).long())
    chosen = targets[chosen_positions(targets, 10)]
    assert int(chosen.sum()) == 1


@pytest.mark.parametrize(
    "targets",
    [torch.linspace(5.05, -5, 30), torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(15, 1)],
    ids=["regression", "vectors"],
)
def test_targets_that_are_no_classes_are_taken_as_they_come(targets: Tensor) -> None:
    positions = chosen_positions(targets, 10)
    assert positions == list(range(positions[0], 30, 3))


def test_all_candidates_are_chosen_where_they_are_just_enough() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(chosen_positions(torch.tensor([0, 1, 0, 0, 2]), 5)) == [0, 1, 2, 3, 4]


def test_the_choice_is_the_same_each_time() -> None:
    targets = torch.randint(4, (50,), generator=torch.Generator().manual_seed(0))
    assert chosen_positions(targets, 12) == chosen_positions(targets, 12)


@pytest.mark.parametrize("num_probes", [2, 3, 5])
def test_classes_are_stratified_over_groups_of_different_shapes(num_probes: int) -> None:
    small, large = torch.zeros(10, 2), torch.zeros(10, 3)
    targets = torch.tensor([0] * 8 + [1] * 2)
    probes = choose_probes(Probes.of((small, targets), (large, 1 - targets)), 2 * num_probes, "training")
    chosen = torch.cat([group.targets.tree for group in probes.groups])
    assert chosen.bincount().tolist() == [num_probes, num_probes]
    # An input stays with its target.
    assert all(group.inputs.tree.shape[1] in (2, 3) for group in probes.groups)


def test_trees_with_several_targets_are_taken_as_they_come() -> None:
    targets = {"label": torch.arange(12) % 2, "box": torch.zeros(12, 4)}
    probes = choose_probes(Probes.of(({"position": torch.arange(12.0)}, targets)), 4, "training")
    assert probes.groups[0].inputs.tree["position"].tolist() == [1, 4, 7, 10]


def test_inputs_that_reference_models_have_seen_are_left_out() -> None:
    candidates = candidates_of(torch.arange(30) % 3)
    with pytest.warns(UserWarning, match="trained on 15 of 30 held-out inputs"):
        rest = without_seen(candidates, frozenset(candidates.fingerprints[::2]), "held-out")
    assert positions_of(rest) == list(range(1, 30, 2))
    assert rest.groups[0].targets.tree.tolist() == [position % 3 for position in range(1, 30, 2)]


def test_refusing_other_inputs_changes_nothing() -> None:
    candidates = candidates_of(torch.arange(30) % 3)
    assert without_seen(candidates, candidates_of(torch.zeros(50)).select(range(30, 50)).fingerprints, "training") is candidates
    assert without_seen(candidates, (), "training") is candidates


def test_inputs_that_have_all_been_seen_are_an_error() -> None:
    candidates = candidates_of(torch.arange(6))
    with pytest.raises(ValueError, match=r"trained on all of the training inputs"):
        without_seen(candidates, frozenset(candidates.fingerprints), "training")


def test_too_few_inputs_are_all_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="probes: 5 training inputs asked for, 3 used"):
        probes = choose_probes(candidates_of(torch.arange(3)), 5, "training")
    assert sorted(positions_of(probes)) == [0, 1, 2]


def test_no_inputs_are_an_error() -> None:
    with pytest.raises(ValueError, match="probes: expected 5 held-out inputs, the loader gives none"):
        choose_probes(candidates_of(torch.empty(0)), 5, "held-out")
