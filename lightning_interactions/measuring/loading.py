"""Loading samples as the user's loader would: through a copy of it, where it reads, with what it collates."""

import collections
import copy
import itertools
import pickle
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from lightning_interactions.measuring.memory import data_as_found
from lightning_interactions.records import Rows
from lightning_interactions.records.trees import describe_tree, is_list, walk

__all__ = [
    "CannotLoadError",
    "batch_sampler_of",
    "batch_size_of",
    "copied_sampler",
    "cut",
    "has_own_batches",
    "load_batches",
    "reads_in_workers",
    "row_axis",
    "rows_of_batches",
    "sampled_batches",
    "sampled_indices",
    "worker_settings",
]


KNOWN_WARNINGS = ("This DataLoader will create", ".*pin_memory.*", "This process .* is multi-threaded", "Got pickle error")
"""Beginnings of what torch warns of when a loader starts: too many workers, no accelerator, forks, what cannot be pickled."""


class CannotLoadError(Exception):
    """A loader of which a copy does not give the samples that it is asked for; its batches can be watched as they pass."""


def reads_in_workers(loader: DataLoader[Any]) -> bool:
    """Whether samples are read in other processes than this one."""
    return loader.num_workers > 0


def batch_sampler_of(loader: DataLoader[Any]) -> Any | None:
    """What decides which samples make a batch; ``None`` where a sample of the dataset is a batch.

    A batch sampler in the place of the sampler asks the dataset itself for whole batches.
    """
    in_its_place = loader.sampler if isinstance(loader.sampler, BatchSampler) else None
    return in_its_place if loader.batch_sampler is None else loader.batch_sampler


def has_own_batches(loader: DataLoader[Any]) -> bool:
    """Whether the user's own sampler decides which samples come together in a batch, such as those of similar length."""
    sampler = batch_sampler_of(loader)
    return sampler is not None and type(sampler) is not BatchSampler


def batch_size_of(loader: DataLoader[Any]) -> int | None:
    """How many samples a loader makes a batch of; ``None`` where that is no fixed number."""
    sampler = batch_sampler_of(loader)
    size = getattr(sampler, "batch_size", None) if loader.batch_size is None else loader.batch_size
    return size if isinstance(size, int) else None


def worker_settings(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the arguments that say where and how samples are read, but for the number of workers."""
    return {
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
    }


def sampled_batches(loader: Any, num_batches: float) -> list[list[int]] | None:
    """List the dataset indices of the batches that a loader's sampler gives in one epoch, and leave the sampler as it was.

    Runs under the caller's random state: save and restore that around the call.

    Args:
        loader: The loader that training or validation iterates over.
        num_batches: How many batches of an epoch are used, infinity for all.

    Returns:
        Indices of each batch; of each sample alone where a sample is a batch (``batch_size=None``). ``None`` where the data can
        only be watched as it passes (iterable datasets, samplers without an end or that cannot be copied).
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    of_batches = batch_sampler_of(loader)
    sampler: Any = loader.sampler if of_batches is None else of_batches
    if num_batches == float("inf") and not hasattr(sampler, "__len__"):
        return None
    try:
        batches: Iterable[Any] = copied_sampler(sampler, loader)
    except Exception:  # Whatever it holds that cannot be copied: open files, locks, running generators.
        return None
    if num_batches != float("inf"):
        batches = itertools.islice(batches, int(num_batches))
    try:
        with data_as_found(loader):
            return [[int(batch)] if of_batches is None else [int(index) for index in batch] for batch in batches]
    except (TypeError, ValueError):  # Indices that are no integers.
        return None


def copied_sampler(sampler: Any, loader: DataLoader[Any]) -> Any:
    """Copy a loader's sampler, so that its own generator does not advance; the datasets behind it are shared, not copied."""
    return copy.deepcopy(sampler, {id(dataset): dataset for dataset in _datasets(loader.dataset)})


def _datasets(dataset: Any) -> list[Any]:
    """A dataset and those that it is made of."""
    found, todo = list[Any](), [dataset]
    while todo:
        one = todo.pop()
        if not any(one is known for known in found):
            found.append(one)
            parts = list(getattr(one, "__dict__", {}).values())
            several = [part for part in parts if isinstance(part, (list, tuple)) and part and isinstance(part[0], Dataset)]
            todo += [part for part in (*parts, *itertools.chain(*several)) if isinstance(part, Dataset)]
    return found


def sampled_indices(loader: Any, num_batches: float) -> Int[Tensor, " samples"] | None:
    """List the dataset indices of :func:`sampled_batches`, sorted and without repetitions, as a tensor.

    Of torch's own samplers in order and shuffled no batches are made for that: of 20 million samples they take 10 seconds.
    """
    in_order = _given_in_order(loader, num_batches)
    if in_order is not None:
        return in_order
    batches = sampled_batches(loader, num_batches)
    if batches is None:
        return None
    unique: Tensor = torch.tensor([*itertools.chain.from_iterable(batches)], dtype=torch.long).unique()
    return unique


def _given_in_order(loader: Any, num_batches: float) -> Int[Tensor, " samples"] | None:
    """List the same, with the same draw of the global generator, where the sampler is one of torch's own."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    of_batches, sampler = loader.batch_sampler, loader.sampler
    if of_batches is not None and (type(of_batches) is not BatchSampler or of_batches.sampler is not sampler):
        return None
    shuffled = type(sampler) is RandomSampler and not sampler.replacement
    if not shuffled and type(sampler) is not SequentialSampler:
        return None
    length = len(sampler.data_source)  # type: ignore[attr-defined]
    if len(sampler) != length:  # type: ignore[arg-type]
        return None
    size = 1 if of_batches is None else of_batches.batch_size
    number = length - length % size if of_batches is not None and of_batches.drop_last else length
    number = int(min(number, num_batches * size))
    if not shuffled or not number:
        return torch.arange(number)
    generator = torch.Generator()
    if sampler.generator is None:  # type: ignore[attr-defined]
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    else:
        generator.set_state(sampler.generator.get_state())  # type: ignore[attr-defined]
    if number == length:
        return torch.arange(length)
    return torch.randperm(length, generator=generator)[:number].sort().values


def cut(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut indices into batches no larger than the loader's, of two different sizes if they can be.

    What follows the size over two batches is the row, see :func:`rows_of_batches`; a whole batch would not tell.
    """
    batches, rest = [], list(indices)
    while len(rest) >= 2 * batch_size:
        batches.append(rest[:batch_size])
        rest = rest[batch_size:]
    # Two rows are only cut where others of two rows are there to be told apart from one.
    larger = len(rest) // 2 + (len(rest) > 2 or not batches)
    return [part for part in (*batches, rest[:larger], rest[larger:]) if part]


def load_batches(
    loader: DataLoader[Any], batches: Sequence[Sequence[int]], seed: int = 0, max_workers: int | None = None
) -> list[Any]:
    """Load these batches, in this order, through a copy of a loader: its dataset, workers, collate function and settings.

    Samples are read where the loader reads them: a dataset may open its file where it is first read, or be ready only after
    ``worker_init_fn``. What hangs on the loader comes back as it was, see
    :func:`~lightning_interactions.measuring.memory.data_as_found`; global random states are the caller's to keep.

    Args:
        loader: A loader of a dataset with indices. Its state, workers and generators stay as they are.
        batches: Dataset indices of each batch; one each if the loader makes no batches.
        seed: Seed of what workers draw.
        max_workers: At most so many workers read, where the loader reads in workers; one a batch if left out.

    Raises:
        CannotLoadError: If the loader's class gives other batches than those asked for.
        ValueError: If its workers cannot be started once more.
    """
    lists = [list(batch) for batch in batches]
    if not lists:
        return []
    # Another iterator that hangs on it may be the one that training is going to read from.
    replaced = ("_iterator", "batch_sampler", "dataset", "sampler")
    if any(isinstance(value, Iterator) for name, value in vars(loader).items() if name not in replaced):
        raise CannotLoadError(f"{type(loader).__name__} keeps an iterator of its own")
    own = copy.copy(loader)
    # Past DataLoader.__setattr__, which lets nobody change these.
    vars(own).update(
        batch_sampler=None if loader.batch_sampler is None else lists,
        sampler=[index for batch in lists for index in batch] if loader.sampler is not batch_sampler_of(loader) else lists,
        generator=torch.Generator().manual_seed(seed),
        num_workers=min(loader.num_workers, len(lists), max_workers or len(lists)),
        persistent_workers=False,
        in_order=True,
        _iterator=None,
    )
    with data_as_found(loader):
        loaded = list(itertools.islice(_started(own), len(lists) + 1))
    if len(loaded) != len(lists):
        raise CannotLoadError(f"{type(loader).__name__} gives {len(loaded)} batches where {len(lists)} were asked for")
    return loaded


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start reading, without the warnings that the user's loader has given or will give itself."""
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        try:
            return iter(loader)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            if not loader.num_workers:
                raise
            raise ValueError(
                f"probes: the {loader.num_workers} workers that read samples cannot be started ({error}); let the dataset open "
                "files where it first reads from them, or leave them out in __getstate__, or hand the probes in with "
                "probes=ProbeSampling(training=(inputs, targets))"
            ) from error


def rows_of_batches(batches: Sequence[Any], sizes: Sequence[int | None]) -> list[Rows]:
    """Find out which axis of which leaf is the row: the first one that follows the number of samples over all batches.

    Where each sample gives several rows (two views, crops), the axis follows a multiple. Batches of one size (or of
    an unknown one) tell less: the first axis of that length is taken, or of a single sample that makes a batch the first axis
    of the first tensor.

    Args:
        batches: Trees of tensors of one kind, which may have different lengths or widths.
        sizes: Number of samples in each batch; ``None`` where a batch is of unknown size.

    Returns:
        The rows of each batch, all with the same axes; leaves that follow in none of their axes are shared.

    Raises:
        ValueError: If no tensor follows, or not all that do in the same proportion.
    """
    trees = [dict(walk(batch)) for batch in batches]
    known = [_first_length(tree) if size is None else size for tree, size in zip(trees, sizes, strict=True)]
    shapes = {name: [_shape(tree.get(name)) for tree in trees] for name in trees[0]}
    told_apart = len(set(known)) > 1
    axes = _axes(shapes, known)
    if told_apart and axes:
        _refuse_multiples(shapes, known, axes, batches[0])
    tensors = {name for name, leaf in trees[0].items() if isinstance(leaf, Tensor)}
    if not tensors & axes.keys():
        if told_apart:
            known = [size * _multiple(shapes, known, tensors) for size in known]
        elif set(known) == {1}:
            known = [_first_length(tree) for tree in trees]
        axes = _axes(shapes, known)
    if not tensors & axes.keys() or 0 in known:
        raise ValueError(
            f"probes: expected batches with a tensor that has a row for each sample, got {describe_tree(batches[0])} for "
            f"{sizes[0]} samples; write a collate function that stacks or pads them, or hand the probes in with "
            "probes=ProbeSampling(training=(inputs, targets))"
        )
    if told_apart:
        _refuse_lists(trees, known, batches[0])
    return [Rows(batch, size, axes) for batch, size in zip(batches, known, strict=True)]


def row_axis(batch: Any, batch_size: int | None) -> tuple[str, int] | None:
    """Find out from the first batch that passes which leaf and axis say how many samples a batch has.

    Args:
        batch: A whole batch.
        batch_size: How many samples its loader makes batches of; ``None`` if that is not known.

    Returns:
        The first axis of that length; else the first one of the first tensor; ``None`` if no tensor has an axis.
    """
    shapes = {name: leaf.shape for name, leaf in walk(batch) if isinstance(leaf, Tensor) and leaf.ndim}
    axes = ((name, axis, length) for name, shape in shapes.items() for axis, length in enumerate(shape))
    agreeing = ((name, axis) for name, axis, length in axes if length == batch_size)
    return next(agreeing, None) or next(((name, 0) for name in shapes), None)


def _shape(leaf: Any) -> tuple[int, ...]:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape)
    return (len(leaf),) if is_list(leaf) else ()


def _first_length(tree: dict[str, Any]) -> int:
    return next((len(leaf) for leaf in tree.values() if isinstance(leaf, Tensor) and leaf.ndim), 0)


def _axes(shapes: dict[str, list[tuple[int, ...]]], sizes: Sequence[int]) -> dict[str, int]:
    """The first axis of each leaf that is as long as each batch is large; leaves without one are left out."""
    found = {}
    for name, own in shapes.items():
        axis = next((axis for axis in range(min(map(len, own))) if [shape[axis] for shape in own] == list(sizes)), None)
        if axis is not None:
            found[name] = axis
    return found


def _multiple(shapes: dict[str, list[tuple[int, ...]]], sizes: Sequence[int], tensors: set[str]) -> int:
    """How many rows each sample gives; 0 if no tensor follows a multiple of the sizes."""
    for name, own in shapes.items():
        for axis in range(min(map(len, own)) if name in tensors else 0):
            multiple, rest = divmod(own[0][axis], sizes[0])
            if multiple > 1 and not rest and [shape[axis] for shape in own] == [multiple * size for size in sizes]:
                return multiple
    return 0


def _refuse_multiples(shapes: dict[str, list[tuple[int, ...]]], sizes: Sequence[int], axes: dict[str, int], batch: Any) -> None:
    others = {name: own for name, own in shapes.items() if name not in axes}
    multiple = _multiple(others, sizes, set(others))
    if multiple:
        raise ValueError(
            f"probes: expected as many rows in all tensors, got {describe_tree(batch)}, where some have one row for each of "
            f"{sizes[0]} samples and others {multiple}; write a collate function that keeps them on an axis of their own, "
            "[samples, rows of a sample, ...]"
        )


def _refuse_lists(trees: Sequence[dict[str, Any]], sizes: Sequence[int], batch: Any) -> None:
    """Refuse a list of one tensor (or tree) for each row: rows of it cannot be masked or repeated."""
    counts: list[dict[str, set[str]]] = []
    for tree in trees:
        children: dict[str, set[str]] = collections.defaultdict(set)
        for name in tree:
            parts = name.split(".")
            for place, part in enumerate(parts):
                children[".".join(parts[:place])].add(part)
        counts.append(children)
    for name, own in counts[0].items():
        if all(map(str.isdecimal, own)) and [len(other.get(name, ())) for other in counts] == list(sizes):
            raise ValueError(
                f"probes: expected tensors with a row for each sample, got a list of {len(own)} at {name!r} in "
                f"{describe_tree(batch)}; write a collate function that stacks or pads them"
            )
