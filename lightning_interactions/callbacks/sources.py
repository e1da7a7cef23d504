"""What the batches of a split come from: one loader, or several whose batches come together."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from lightning_interactions.measuring.loading import (
    CannotLoadError,
    batch_sampler_of,
    batch_size_of,
    has_own_batches,
    load_batches,
    sampled_batches,
    sampled_indices,
)
from lightning_interactions.measuring.overlap import repeats
from lightning_interactions.measuring.probes import Draw
from lightning_interactions.records.trees import map_leaves
from lightning_interactions.references.internals import is_sequential, training_loaders, validation_set_up

__all__ = ["Samples", "Source", "copied", "training_source", "validation_source"]

ALL = float("inf")


@dataclass(frozen=True)
class Source:
    """Loaders whose batches come together.

    Attributes:
        loaders: One loader, or a dict or list of loaders.
        parts: These loaders.
        num_batches: How many batches an epoch takes from each, infinity for all.
        dataloader_idx: The number that the Trainer gives to the batches.
    """

    loaders: Any
    parts: tuple[Any, ...]
    num_batches: tuple[float, ...]
    dataloader_idx: int = 0

    def samples(self, trainer: Trainer, num_probes: int, seed: int) -> "Samples | None":
        """Get ready to draw samples; ``None`` where these data can only be watched as they pass.

        Args:
            trainer: The Trainer of the run; each of its processes draws from what all of them are given.
            num_probes: How many will be drawn at first.
            seed: Seed of the draw.
        """
        pools: list[Any] = [
            (sampled_batches if isinstance(loader, DataLoader) and has_own_batches(loader) else sampled_indices)(loader, number)
            for loader, number in _limited(self)
        ]
        if trainer.world_size > 1:
            every: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, pools)
            pools = [_joined(own) for own in zip(*every, strict=True)]
        if any(pool is None for pool in pools):
            return None
        generators = (torch.Generator().manual_seed(seed) for _ in pools)
        draws = [Draw(loader, pool, num_probes, own) for loader, pool, own in zip(self.parts, pools, generators, strict=True)]
        return Samples(self, draws, seed)


class Samples:
    """Draws and loads samples of a source.

    Of several loaders the first one's samples are the rows. Those of loaders with the same batch size go along with them, one
    for one; of any other loader it is always the same batch.

    Args:
        source: Loaders of datasets with indices.
        draws: Decides for each which samples.
        seed: Seed of what workers draw.
    """

    def __init__(self, source: Source, draws: list[Draw], seed: int) -> None:
        self._source = source
        self._first, *self._others = draws
        self._seed = seed

    def __len__(self) -> int:
        """How many samples are left."""
        return len(self._first)

    @property
    def unknown_sizes(self) -> bool:
        """Whether a sample is a batch, of which only its tensors tell how many rows it has."""
        return batch_sampler_of(self._source.parts[0]) is None

    def load(self, number: int) -> tuple[list[Any], list[int | None], list[list[int]]]:
        """Draw samples, and load them as batches.

        Returns:
            The batches; the number of samples in each, ``None`` where a sample is a batch; and their indices in the dataset.

        Raises:
            CannotLoadError: If a copy of a loader does not give what it is asked for.
        """
        loader, *others = self._source.parts
        lists = self._first.take(number)
        sizes = [None if self.unknown_sizes else len(own) for own in lists]
        batches = load_batches(loader, lists, self._seed)
        if not others:
            return batches, sizes, lists
        parts = [batches]
        for other, draw in zip(others, self._others, strict=True):
            asked = sum(map(len, lists)) if _goes_along(loader, other) else batch_size_of(other) or 1
            drawn = list(itertools.chain(*draw.take(asked)))
            if not drawn:
                raise CannotLoadError("a loader gives no more samples")
            if _goes_along(loader, other):
                endless = itertools.cycle(drawn)
                own = [list(itertools.islice(endless, len(batch))) for batch in lists]
                parts.append(load_batches(other, own, self._seed))
            else:
                (batch,) = load_batches(other, [drawn], self._seed)
                parts.append([copied(batch) for _ in lists])
        together = CombinedLoader(self._source.loaders, "min_size")
        together.flattened = parts
        return [batch for batch, _, _ in together], sizes, lists

    def load_again(self, lists: Sequence[Sequence[int]]) -> tuple[list[Any], list[int | None]]:
        """Load batches of which the indices are known, of a source of one loader.

        With another seed than the first time: samples that are drawn at random are others.

        Returns:
            The batches, and the number of samples in each; see :meth:`load`.

        Raises:
            CannotLoadError: If the source has several loaders, or its loader does not give what it is asked for.
        """
        loader, *others = self._source.parts
        if others:
            raise CannotLoadError("several loaders go together")
        return load_batches(loader, lists, self._seed + 1), [None if self.unknown_sizes else len(own) for own in lists]


def training_source(trainer: Trainer) -> Source:
    """Find what training reads from."""
    loaders = training_loaders(trainer)
    if loaders is None or not loaders.flattened:
        raise MisconfigurationException("InteractionMonitor: expected a training loader, the run has none")
    limits = loaders.limits or [ALL] * len(loaders.flattened)
    return Source(loaders.iterables, tuple(loaders.flattened), tuple(map(float, limits)))


def validation_source(trainer: Trainer) -> Source | None:
    """Find the first validation loader that does not repeat training data, and say which it is; ``None`` if there is none.

    Raises:
        MisconfigurationException: If all of them repeat training data.
    """
    if not trainer.enable_validation:
        return None
    with validation_set_up(trainer) as loaders:
        return None if loaders is None else _first_fresh(trainer, loaders)


def copied(tree: Any) -> Any:
    """Copy the tensors of a batch that goes on to be used."""
    return map_leaves(lambda _name, leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, tree)


def _first_fresh(trainer: Trainer, loaders: CombinedLoader) -> Source | None:
    """Find the first of the validation loaders that does not repeat training data."""
    numbers = tuple(map(float, trainer.num_val_batches))
    sources = [Source(loaders.iterables, tuple(loaders.flattened), numbers)]
    if is_sequential(loaders):
        parts = zip(loaders.flattened, numbers, strict=True)
        sources = [Source(loader, (loader,), (number,), index) for index, (loader, number) in enumerate(parts)]
    sources = [source for source in sources if all(source.num_batches)]
    training = training_source(trainer)
    fresh = (one for one in sources if not trainer.strategy.reduce_boolean_decision(_repeats(training, one), all=False))
    chosen = next(fresh, None)
    if sources and chosen is None:
        raise MisconfigurationException(
            "InteractionMonitor: expected a validation loader with other inputs than training, but "
            f"{'it repeats' if len(sources) == 1 else f'all {len(sources)} repeat'} training inputs, so nothing would be held "
            "out; validate on other data, or pass probes=ProbeSampling(held_out=0) to measure training inputs alone"
        )
    if len(sources) > 1 and chosen is not None:
        rank_zero_info(
            f"InteractionMonitor: held-out inputs come from validation loader {chosen.dataloader_idx}, the first of "
            f"{len(loaders.flattened)} that does not repeat training inputs"
        )
    return chosen


def _goes_along(first: Any, other: Any) -> bool:
    return batch_size_of(first) == batch_size_of(other) and not has_own_batches(first) and not has_own_batches(other)


def _repeats(training: Source, other: Source) -> bool:
    """Whether the rows of a source, which are the first loader's, come in training; what goes along with them may."""
    first, pool = other.parts[0], _pool(other.parts[0], other.num_batches[0])
    pools = ((part, _pool(part, number)) for part, number in _limited(training))
    return pool is not None and any(own is not None and repeats(part, own, first, pool) for part, own in pools)


def _joined(pools: Sequence[Any]) -> Any:
    """Put together what the processes are given; ``None`` if one of them cannot say."""
    if any(pool is None for pool in pools):
        return None
    if isinstance(pools[0], torch.Tensor):
        return torch.cat(list(pools)).unique()
    return list(itertools.chain(*pools))


def _pool(loader: Any, num_batches: float) -> torch.Tensor | None:
    """What the sampler can give in a whole epoch: which part of it is used may be another one each time."""
    sampler = getattr(batch_sampler_of(loader), "sampler", None) if isinstance(loader, DataLoader) else None
    if isinstance(sampler, (RandomSampler, SequentialSampler)) and sampler.data_source is loader.dataset:
        return torch.arange(len(loader.dataset))
    try:
        return sampled_indices(loader, len(loader))
    except TypeError:  # It has no length.
        return sampled_indices(loader, num_batches)


def _limited(source: Source) -> Iterator[tuple[Any, float]]:
    return zip(source.parts, source.num_batches, strict=True)
