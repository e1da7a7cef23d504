"""Parts of the data behind a loader, as loaders with the same settings."""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.measuring.loading import (
    copied_sampler,
    has_own_batches,
    load_batches,
    sampled_indices,
    worker_settings,
)
from lightning_interactions.records import fingerprints

__all__ = ["as_indices", "draw_part", "loader_of_part", "sampler_pool", "unrepeatable"]

REPEATED = 16
"""About so many samples are loaded twice."""

_SizedSampler = SequentialSampler | RandomSampler | WeightedRandomSampler


def as_indices(numbers: Any) -> Sequence[int]:
    """Keep indices of samples in an array of 8 bytes each, which gives Python's own integers: users' datasets may ask for them.

    A list takes 40, and workers that are forked copy them: to look at an integer is to write into it.
    """
    return array("q", np.asarray(numbers, dtype=np.int64).tobytes())


def sampler_pool(loader: Any) -> Sequence[int] | None:
    """List the dataset indices that a loader's sampler can give, over however many epochs.

    Args:
        loader: Any loader. Its sampler's state stays as it is.

    Returns:
        Sorted indices without repetitions; ``None`` where the data cannot be indexed. For samplers that torch does not know,
        what one epoch gives.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is None or type(loader).__iter__ is not DataLoader.__iter__:
        # Batches of the dataset's or the loader's own making: parts of them cannot be made here.
        return None
    if has_own_batches(loader):
        # Where there are several processes, each has batches that the others do not know.
        return None if torch.distributed.is_available() and torch.distributed.is_initialized() else _given(loader)
    sampler = loader.batch_sampler.sampler
    if isinstance(sampler, SubsetRandomSampler):
        return as_indices(np.unique(np.fromiter(map(int, sampler.indices), np.int64)))
    if isinstance(sampler, (RandomSampler, SequentialSampler)):
        return as_indices(np.arange(len(loader.dataset)))  # type: ignore[arg-type]
    if isinstance(sampler, WeightedRandomSampler):
        return as_indices(sampler.weights.nonzero()[:, 0])
    if isinstance(sampler, DistributedSampler):
        # One around a sampler of the user's own gives each process a part that the others do not know.
        is_whole = sampler.dataset is loader.dataset
        return as_indices(np.arange(len(loader.dataset))) if is_whole else None  # type: ignore[arg-type]
    return _given(loader)


def _given(loader: DataLoader[Any]) -> Sequence[int] | None:
    """List the indices that a sampler gives in one epoch."""
    with preserve_random_state(torch.device("cpu"), seed=0):
        indices = sampled_indices(loader, float("inf"))
        return None if indices is None else as_indices(indices)


class Part(Subset[Any]):
    """A part of a dataset whose attributes are those of the whole, so that a ``worker_init_fn`` finds what it looks for."""

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "indices") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dataset", "indices"):
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


class PartOfBatches(Sampler[list[int]]):
    """The batches of a user's own batch sampler with the samples of a part alone.

    Args:
        batches: A copy of the batch sampler, or its batches.
        indices: The part.
        drops_single: Whether a batch of which a single sample is left is left out, on which batch norm fails.
    """

    def __init__(self, batches: Any, indices: Sequence[int], *, drops_single: bool) -> None:
        self.batches = batches
        self.indices = frozenset(indices)
        self.drops_single = drops_single

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            part = [index for index in batch if index in self.indices]
            new_single = len(part) == 1 < len(batch)
            if part and not (new_single and self.drops_single):
                yield part

    def set_epoch(self, epoch: int) -> None:
        """Pass on what Lightning tells a sampler."""
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)


def draw_part(pool: Sequence[int], size: int, seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """Draw a part of the indices with a generator of our own.

    Args:
        pool: Indices.
        size: How many to draw.
        seed: Seed of the draw.

    Returns:
        The part and the rest, both sorted.
    """
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed), device="cpu").numpy()
    is_drawn = np.zeros(len(pool), dtype=bool)
    is_drawn[order[:size]] = True
    numbers = np.asarray(pool, dtype=np.int64)
    part, rest = (as_indices(np.sort(numbers[some])) for some in (is_drawn, ~is_drawn))
    return part, rest


def loader_of_part(
    loader: DataLoader[Any], indices: Sequence[int], *, generator: torch.Generator | None = None, in_order: bool = False
) -> DataLoader[Any]:
    """Load a part of a loader's data with the settings of that loader.

    Random samplers (shuffled, with replacement, of a subset, weighted) become such samplers of the part, and give a number
    of samples in proportion; a sequential one stays so; others become shuffling. Where less than all the data
    would end in a batch of a single sample, on which batch norm fails, that one is left out.

    Args:
        loader: The loader of all the data.
        indices: Dataset indices of the part.
        generator: Decides the order of samples; torch's global one if left out.
        in_order: Load every sample once, in order; of batches of the user's own making those of one epoch, always the same.

    Raises:
        MisconfigurationException: If the part has no sample, or no batch because incomplete ones are dropped.
    """
    own = as_indices(indices)
    if not own:
        raise MisconfigurationException("data: expected a part of at least one sample, got none; use more data")
    if has_own_batches(loader):
        return _part_of_batches(loader, own, in_order=in_order)
    part = Part(loader.dataset, own)
    sampler = SequentialSampler(part) if in_order else _sampler_of_part(loader, part, generator)
    assert isinstance(loader.batch_sampler, BatchSampler)
    size, drop_last = loader.batch_sampler.batch_size, loader.batch_sampler.drop_last
    if drop_last and not in_order and len(sampler) < size:
        raise MisconfigurationException(
            f"data: expected a part of at least one batch of {size} samples, because drop_last drops smaller ones, got "
            f"{len(sampler)}; use more data, a smaller batch_size, or drop_last=False"
        )
    new_single = len(part) < len(loader.dataset) and len(sampler) > size > 1 == len(sampler) % size  # type: ignore[arg-type]
    return DataLoader(
        part,
        batch_size=size,
        sampler=sampler,
        drop_last=(drop_last or new_single) and not in_order,
        generator=generator,
        num_workers=loader.num_workers,
        **worker_settings(loader),
        persistent_workers=loader.persistent_workers and not in_order,
    )


def _part_of_batches(loader: DataLoader[Any], indices: Sequence[int], *, in_order: bool) -> DataLoader[Any]:
    sampler = copied_sampler(loader.batch_sampler, loader)
    return DataLoader(
        loader.dataset,
        batch_sampler=PartOfBatches(list(sampler) if in_order else sampler, indices, drops_single=not in_order),
        num_workers=loader.num_workers,
        **worker_settings(loader),
        persistent_workers=loader.persistent_workers and not in_order,
    )


def _sampler_of_part(loader: DataLoader[Any], part: Subset[Any], generator: torch.Generator | None) -> _SizedSampler:
    assert isinstance(loader.batch_sampler, BatchSampler)
    sampler = loader.batch_sampler.sampler
    if isinstance(sampler, SequentialSampler) or (isinstance(sampler, DistributedSampler) and not sampler.shuffle):
        return SequentialSampler(part)
    if isinstance(sampler, WeightedRandomSampler):
        weights = sampler.weights[torch.from_numpy(np.asarray(part.indices, dtype=np.int64))]
        num_samples = _in_proportion(sampler.num_samples, len(part), int((sampler.weights > 0).sum()))
        return WeightedRandomSampler(weights.tolist(), num_samples, sampler.replacement, generator)
    if isinstance(sampler, RandomSampler):
        num_samples = _in_proportion(sampler.num_samples, len(part), len(loader.dataset))  # type: ignore[arg-type]
        return RandomSampler(part, sampler.replacement, num_samples, generator)
    return RandomSampler(part, generator=generator)


def _in_proportion(num_samples: int, part: int, whole: int) -> int:
    return max(1, round(num_samples * part / whole))


def unrepeatable(loader: DataLoader[Any], pool: Sequence[int], task: Task) -> str:
    """Load some samples twice, where the loader reads them, and compare them.

    Args:
        loader: The loader; its dataset's generators stay as they are.
        pool: Dataset indices to choose from.
        task: Finds inputs and targets in a batch.

    Returns:
        How many were not the same both times, in words, as where they are augmented at random; empty if all were.
    """
    some = pool[:: max(1, len(pool) // REPEATED)]
    with preserve_random_state(torch.device("cpu"), seed=0):
        # By one worker, in which a generator that hangs on the dataset has gone on the second time.
        batches = load_batches(loader, [some, some], max_workers=1)
    first, second = (fingerprints(task.inputs(batch)) for batch in batches)
    different = sum(one != other for one, other in zip(first, second, strict=True))
    return f"{different} of {len(some)} came out differently the second time" if different else ""
