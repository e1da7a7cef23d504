import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset, RandomSampler, Subset, TensorDataset

from lightning_interactions.measuring.loading import has_own_batches, sampled_batches, sampled_indices
from lightning_interactions.measuring.probes import Draw, first_probes, known_classes, without_seen
from lightning_interactions.records import Probes

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


class Unread(Dataset[Any]):
    """Samples that must not be loaded, with attributes of all kinds."""

    def __init__(self, size: int = 20, **attributes: Any) -> None:
        self.size = size
        vars(self).update(attributes)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("no sample is needed")


def candidates_of(targets: Tensor) -> Probes:
    """Inputs that carry their position, so that it is known which were chosen."""
    return Probes.of((torch.arange(len(targets), dtype=torch.float32)[:, None], targets))


def positions_of(probes: Probes) -> list[int]:
    return [int(position) for group in probes.groups for position in group.inputs.tree.flatten()]


def draw(loader: DataLoader[Any], num_probes: int, seed: int = 0) -> Draw:
    given = (sampled_batches if has_own_batches(loader) else sampled_indices)(loader, float("inf"))
    assert given is not None
    return Draw(loader, given, num_probes, torch.Generator().manual_seed(seed))


def taken(loader: DataLoader[Any], num_probes: int, seed: int = 0) -> list[int]:
    return [index for batch in draw(loader, num_probes, seed).take(num_probes) for index in batch]


# Drawing


def test_samples_are_drawn_by_the_seed_alone() -> None:
    loader = DataLoader(Unread(3000), batch_size=8)
    first = taken(loader, 40)
    torch.rand(5)
    assert taken(loader, 40) == first
    assert taken(loader, 40, seed=1) != first
    assert len(first) == len(set(first)) == 40
    assert first != sorted(first)


def test_samples_are_taken_once_until_there_are_no_more() -> None:
    samples = draw(DataLoader(Unread(20), batch_size=8), 6)
    parts = []
    for left in (14, 8, 2, 0, 0):
        parts.append([index for batch in samples.take(6) for index in batch])
        assert len(samples) == left
    assert sorted(index for part in parts for index in part) == list(range(20))
    assert list(map(len, parts)) == [6, 6, 6, 2, 0]


def test_batches_are_no_larger_than_the_loaders_and_of_two_sizes() -> None:
    assert list(map(len, draw(DataLoader(Unread(90), batch_size=32), 64).take(64))) == [32, 17, 15]
    handed_in = BatchSampler(RandomSampler(range(90)), 32, drop_last=False)
    assert list(map(len, draw(DataLoader(Unread(90), batch_sampler=handed_in), 64).take(64))) == [32, 17, 15]
    assert list(map(len, draw(DataLoader(Unread(90), batch_size=1), 3).take(3))) == [1, 1, 1]
    assert list(map(len, draw(DataLoader(Unread(90), batch_size=None), 3).take(3))) == [1, 1, 1]


def test_samples_of_a_sampler_of_the_users_own_stay_together() -> None:
    buckets = [list(range(start, start + 10)) for start in range(0, 100, 10)]
    loader = DataLoader(Unread(100), batch_sampler=buckets)
    samples = draw(loader, 32)
    batches = samples.take(32)
    assert sum(map(len, batches)) == 32
    assert [len({index // 10 for index in batch}) for batch in batches] == [1] * len(batches)
    assert len(batches) == 4
    assert len(set(map(len, batches))) > 1
    rest = samples.take(1000)
    assert len(samples) == 0
    assert sorted(index for batch in batches + rest for index in batch) == list(range(100))
    assert [len({index // 10 for index in batch}) for batch in rest] == [1] * len(rest)


def test_small_buckets_and_samples_that_come_twice() -> None:
    loader = DataLoader(Unread(100), batch_sampler=[[3], [5, 3], [5], [8, 9, 8]])
    assert sorted(index for batch in draw(loader, 32).take(32) for index in batch) == [3, 5, 8, 9]


@PROPERTY
@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=6), num_probes=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_class_gets_its_share_of_the_probes_to_within_one(counts: list[int], num_probes: int, seed: int) -> None:
    total = sum(counts)
    if total < num_probes:
        counts, total = [*counts, num_probes], total + num_probes
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    targets = targets[torch.randperm(total, generator=torch.Generator().manual_seed(seed))]
    chosen = taken(DataLoader(Unread(total, targets=targets.tolist()), batch_size=7), num_probes, seed)
    assert len(chosen) == len(set(chosen)) == num_probes
    got = targets[chosen].bincount(minlength=len(counts)).tolist()
    assert all(abs(have - num_probes * count / total) < 1 for have, count in zip(got, counts, strict=True))


def test_stratified_draws_differ_by_the_seed_and_leave_no_sample_out() -> None:
    loader = DataLoader(Unread(60, labels=np.arange(60) % 3), batch_size=7)
    draws = [taken(loader, 12, seed) for seed in range(3)]
    assert len(set(map(tuple, draws))) == 3
    assert all(Counter(index % 3 for index in own) == {0: 4, 1: 4, 2: 4} for own in draws)
    assert sorted(index for batch in draw(loader, 12).take(60) for index in batch) == list(range(60))


# Classes that are known without loading a sample

CLASSES = torch.arange(20) % 3


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(torch.zeros(20, 2), CLASSES),
        TensorDataset(torch.zeros(20, 2), CLASSES[:, None].float()),
        Unread(targets=CLASSES),
        Unread(targets=CLASSES.tolist()),
        Unread(labels=CLASSES.numpy()),
        Unread(labels=tuple(CLASSES.tolist())),
        ConcatDataset([Subset(Unread(targets=CLASSES), range(9)), Subset(Unread(labels=CLASSES), range(9, 20))]),
        Subset(Unread(40, targets=CLASSES.repeat_interleave(2)), range(0, 40, 2)),
    ],
)
def test_classes_that_are_stored_are_known(dataset: Dataset[Any]) -> None:
    classes = known_classes(dataset)
    assert classes is not None
    assert classes.tolist() == CLASSES.tolist()


class Property(Unread):
    @property
    def targets(self) -> list[int]:
        raise AssertionError("this opens a file")


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(torch.zeros(20, 2)),
        TensorDataset(torch.zeros(20, 2), torch.linspace(0, 1, 20)),
        TensorDataset(torch.zeros(20, 2), torch.zeros(20, 3)),
        Unread(),
        Unread(targets=CLASSES[:5]),
        Unread(targets=["a"] * 20),
        Unread(targets=[{"boxes": 1}] * 20),
        Unread(targets=object()),
        Property(),
        ConcatDataset([Unread(targets=CLASSES), Unread()]),
        Subset(Unread(), [1, 2]),
    ],
)
def test_other_classes_are_not(dataset: Dataset[Any]) -> None:
    assert known_classes(dataset) is None


# Choosing


def test_the_first_of_the_candidates_become_probes() -> None:
    assert positions_of(first_probes(candidates_of(torch.arange(9)), 4, "training")) == [0, 1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert positions_of(first_probes(candidates_of(torch.arange(4)), 4, "training")) == [0, 1, 2, 3]


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
        probes = first_probes(candidates_of(torch.arange(3)), 5, "training")
    assert sorted(positions_of(probes)) == [0, 1, 2]


def test_no_inputs_are_an_error() -> None:
    with pytest.raises(ValueError, match="probes: expected 5 held-out inputs, the loader gives none"):
        first_probes(candidates_of(torch.empty(0)), 5, "held-out")
