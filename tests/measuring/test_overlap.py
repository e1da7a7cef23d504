import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from lightning_interactions.measuring.loading import sampled_indices
from lightning_interactions.measuring.overlap import _are_among, repeats

X, Y = torch.arange(24.0).reshape(12, 2), torch.arange(12) % 3
DATA = TensorDataset(X, Y)


class Zeros(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(1), index


def pool_of(loader: Any) -> Tensor:
    found = sampled_indices(loader, math.inf)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("training", "other", "expected"),
    [
        (DATA, DATA, True),
        (Subset(DATA, range(8)), Subset(DATA, range(7, 12)), True),
        (Subset(DATA, range(8)), Subset(DATA, range(8, 12)), False),
        (Subset(DATA, range(6)), Subset(DATA, range(6, 12)), False),
        (Subset(Subset(DATA, range(2, 12)), [0, 1]), Subset(DATA, [3]), True),
        (Subset(Subset(DATA, range(2, 12)), [0, 1]), Subset(DATA, [0, 1]), False),
        (DATA, Subset(DATA, [5]), True),
        (ConcatDataset([Subset(DATA, range(4)), TensorDataset(X + 50, Y)]), Subset(DATA, [3]), True),
        (ConcatDataset([Subset(DATA, range(4)), TensorDataset(X + 50, Y)]), Subset(DATA, [4]), False),
        (DATA, TensorDataset(X.clone(), Y.clone()), True),
        (DATA, TensorDataset(X + 1, Y), False),
        (DATA, TensorDataset(X.repeat(2, 1), Y.repeat(2)), False),
        (TensorDataset(torch.ones(9, 2), torch.ones(9)), TensorDataset(torch.ones(9, 2), torch.ones(9)), False),
        (DATA, Zeros(), False),
    ],
)
def test_data_that_training_uses_are_noticed(training: Dataset[Any], other: Dataset[Any], expected: bool) -> None:
    first, second = DataLoader(training, 4, shuffle=True), DataLoader(other, 3)
    assert repeats(first, pool_of(first), second, pool_of(second)) is expected


def test_samplers_may_share_a_dataset() -> None:
    first, second = (DataLoader(DATA, 4, sampler=SubsetRandomSampler(part)) for part in (range(8), range(8, 12)))
    assert not repeats(first, pool_of(first), second, pool_of(second))


def test_padded_samples_of_a_second_instance_are_noticed() -> None:
    class Words(Dataset[Tensor]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Tensor:
            return torch.arange(1, index % 4 + 2)

    loaders = [DataLoader(Words(), 3, collate_fn=lambda one: pad_sequence(one, batch_first=True)) for _ in range(2)]
    assert repeats(loaders[0], pool_of(loaders[0]), loaders[1], pool_of(loaders[1]))


class Augmenting(Dataset[Any]):
    """Changes the samples of another dataset at random."""

    def __init__(self, inner: Dataset[Any]) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        inputs, target = self.inner[index]
        return inputs + torch.randn(2), target


class Stored(Dataset[Any]):
    """Keeps images, or their files, and labels; changes images at random. It must not be read."""

    def __init__(self, split: str, data: Any, augment: Any = None) -> None:
        self.split = split
        self.data = data
        self.targets = Y.tolist()
        self.augment = augment

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return torch.randn(2), self.targets[index]


IMAGES, FILES = np.arange(48).reshape(12, 4), [f"{place}.png" for place in range(12)]


@pytest.mark.parametrize(
    ("training", "other", "expected"),
    [
        (Augmenting(DATA), DATA, True),
        (Augmenting(Subset(DATA, range(8))), Augmenting(Subset(DATA, range(8))), True),
        (Augmenting(Subset(DATA, range(6))), Augmenting(Subset(DATA, range(6, 12))), False),
        (Stored("train", IMAGES, augment=print), Stored("train", IMAGES.copy()), True),
        (Stored("train", FILES, augment=print), Stored("train", list(FILES)), True),
        (Stored("train", FILES), Stored("val", list(FILES)), False),
        (Stored("all", IMAGES), Stored("all", IMAGES + 1), False),
        (Stored("all", np.zeros((12, 4))), Stored("all", np.zeros((12, 4))), False),
    ],
)
def test_data_behind_random_transforms_are_noticed(training: Dataset[Any], other: Dataset[Any], expected: bool) -> None:
    first, second = DataLoader(training, 4, shuffle=True), DataLoader(other, 3)
    assert repeats(first, pool_of(first), second, pool_of(second)) is expected


@pytest.mark.parametrize("others", [[], [3, 5], [7, 7, 1], [-1, 2], [10**12, 1]])
@pytest.mark.parametrize("indices", [[], [1, 3, 9], [-1, 1], [10**12]])
def test_indices_are_found_among_others_however_large_they_are(indices: list[int], others: list[int]) -> None:
    found = _are_among(torch.tensor(indices, dtype=torch.long), torch.tensor(others, dtype=torch.long))
    assert found.tolist() == [index in others for index in indices]
