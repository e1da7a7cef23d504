"""Whether two loaders give the same samples."""

import collections
import pathlib
from collections.abc import Sequence, Sized
from typing import Any, TypeGuard

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from lightning_interactions.measuring.loading import CannotLoadError, batch_sampler_of, cut, load_batches, rows_of_batches
from lightning_interactions.records import fingerprints
from lightning_interactions.records.describe import describe

__all__ = ["repeats"]

COMPARED = 8
"""So many samples at the same index are compared to find out whether two datasets are the same data."""

LABELS = ("labels", "targets")


def repeats(
    training: DataLoader[Any],
    training_pool: Int[Tensor, " samples"],
    other: DataLoader[Any],
    other_pool: Int[Tensor, " others"],
) -> bool:
    """Whether a loader gives samples that training gives, too.

    That is so if both read from one dataset at the same indices, also through subsets, concatenations and datasets that
    transform another one; or if they are two datasets of the same length that store or give the same at the same index.

    Args:
        training: The training loader.
        training_pool: The indices that its sampler gives.
        other: Another loader.
        other_pool: The indices that that one's sampler gives.
    """
    own, others = _roots(training.dataset, training_pool), _roots(other.dataset, other_pool)
    if own.keys() & others.keys():
        return any(bool(_are_among(own[root], others[root]).any()) for root in own.keys() & others.keys())
    if _length(training.dataset) is None or _length(training.dataset) != _length(other.dataset):
        return False
    both = training_pool[_are_among(training_pool, other_pool)].unique()
    if len(both) < 2:
        return False
    some = both[:: max(1, len(both) // COMPARED)][:COMPARED].tolist()
    return _store_the_same(training.dataset, other.dataset, some) or _give_the_same(training, other, some)


def _are_among(indices: Int[Tensor, " some"], others: Int[Tensor, " others"]) -> Bool[Tensor, " some"]:
    """Which indices are among others; in time that is linear where both number the samples of one dataset."""
    if not len(indices) or not len(others):
        return torch.zeros(len(indices), dtype=torch.bool)
    highest, lowest = int(max(indices.max(), others.max())), int(min(indices.min(), others.min()))
    if lowest < 0 or highest > 16 * (len(indices) + len(others)) + 1024:
        return torch.isin(indices, others)
    is_other = torch.zeros(highest + 1, dtype=torch.bool)
    is_other[others] = True
    return is_other[indices]


def _roots(dataset: Any, indices: Int[Tensor, " samples"]) -> dict[int, Int[Tensor, " own"]]:
    """The indices in the datasets behind others, by the identity of these datasets."""
    if isinstance(dataset, Subset):
        within = dataset.indices
        # Through NumPy, which reads arrays and long lists ten times as fast.
        own = torch.arange(len(within)) + within.start if _is_run(within) else torch.tensor(np.asarray(within, dtype=np.int64))
        return _roots(dataset.dataset, own[indices])
    if isinstance(dataset, ConcatDataset):
        found: dict[int, list[Tensor]] = collections.defaultdict(list)
        ordered = indices % len(dataset)
        start = 0
        for part, end in zip(dataset.datasets, dataset.cumulative_sizes, strict=True):
            for root, own_indices in _roots(part, ordered[(start <= ordered) & (ordered < end)] - start).items():
                found[root].append(own_indices)
            start = end
        return {root: torch.cat(parts) for root, parts in found.items()}
    # One that is as long as the only dataset that it holds transforms its samples.
    inner = [value for value in getattr(dataset, "__dict__", {}).values() if isinstance(value, Dataset)]
    if len(inner) == 1 and _length(inner[0]) == _length(dataset) is not None:
        return _roots(inner[0], indices)
    return {id(dataset): indices}


def _is_run(indices: object) -> TypeGuard[range]:
    return isinstance(indices, range) and indices.step == 1


def _length(dataset: Any) -> int | None:
    return len(dataset) if isinstance(dataset, Sized) else None


def _store_the_same(first: Any, second: Any, indices: Sequence[int]) -> bool:
    """Whether two datasets of one class hold the same, whatever random transforms make of it."""
    one, other = (getattr(dataset, "__dict__", {}) for dataset in (first, second))
    if type(first) is not type(second) or one.keys() != other.keys():
        return False
    known = False
    for name, value in one.items():
        if isinstance(value, (str, int, float, bool, pathlib.Path)) and value != other[name]:
            return False
        if _stored(value) == _length(first) == _stored(other[name]):
            contents = [[describe(sequence[index]) for index in indices] for sequence in (value, other[name])]
            if contents[0] != contents[1]:
                return False
            known |= name not in LABELS and len(set(contents[0])) > 1
    return known


def _stored(value: Any) -> int | None:
    is_sequence = isinstance(value, (list, tuple, np.ndarray)) or (isinstance(value, Tensor) and value.ndim)
    return len(value) if is_sequence else None


def _give_the_same(first: DataLoader[Any], second: DataLoader[Any], indices: Sequence[int]) -> bool:
    """Whether two loaders load the same, where they load it."""
    if None in (batch_sampler_of(first), batch_sampler_of(second)):
        return False
    batches = cut(indices, len(indices))
    try:
        loaded = [rows_of_batches(load_batches(loader, batches), list(map(len, batches))) for loader in (first, second)]
    except (CannotLoadError, ValueError):  # Whatever cannot be loaded for this is not compared.
        return False
    one, other = ([digest for part in own for digest in fingerprints(part)] for own in loaded)
    return one == other and len(set(one)) > 1
