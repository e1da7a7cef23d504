"""Probe inputs: drawn once, without touching what training will draw."""

import copy
import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_interactions.evidence import fingerprints
from lightning_interactions.measuring.generators import preserve_generators
from lightning_interactions.records import Probes

__all__ = ["Drawn", "Unpack", "choose_probes", "input_target_pair", "load_samples", "sampled_indices"]

Unpack = Callable[[Any], tuple[Tensor, Tensor]]
"""Finds inputs and targets in a batch; the first line of an adapter."""

MIN_CANDIDATES = 256
"""At least this many inputs are looked at, to choose probes and to average baseline values over (if there are)."""


@dataclass(frozen=True)
class Drawn:
    """Probes, and the larger sample of inputs that they were chosen from.

    Attributes:
        probes: The chosen inputs and targets.
        sample: ``[candidates, ...]``; what training-mean baseline values are averaged over.
    """

    probes: Probes
    sample: Tensor


def input_target_pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Unpack a batch ``(x, y)``.

    Raises:
        ValueError: If the batch is no pair of tensors.
    """
    if isinstance(batch, Sequence) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        return batch[0], batch[1]
    got = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, Collection) else type(batch).__name__
    raise ValueError(
        f"probes: expected batches (inputs, targets) of two tensors, got {got}; say where they are with the two-line adapter:\n"
        "    InteractionMonitor(unpack=lambda batch: (batch['image'], batch['label']),\n"
        "                       forward=lambda model, inputs: model(inputs)['logits'])"
    )


def sampled_indices(loader: Any, num_batches: float) -> list[int] | None:
    """List the dataset indices that a loader's sampler gives in one epoch, and leave the sampler as it was.

    Runs under the caller's random state: save and restore that around the call.

    Args:
        loader: The loader that training or validation iterates over.
        num_batches: How many batches of an epoch are used, infinity for all.

    Returns:
        Sorted indices without repetitions; ``None`` where the data can only be watched as it passes (iterable datasets,
        loaders without a batch sampler, samplers without an end or that cannot be copied).
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    if num_batches == float("inf") and not hasattr(loader.batch_sampler, "__len__"):
        return None
    # A copy, so that a sampler's own generator does not advance; the dataset behind it is shared, not copied.
    shared = {id(loader.dataset): loader.dataset}
    try:
        batches: Iterable[Any] = copy.deepcopy(loader.batch_sampler, shared)
        if num_batches != float("inf"):
            batches = itertools.islice(batches, int(num_batches))
        return sorted({int(index) for batch in batches for index in batch})
    except TypeError:
        # A sampler that cannot be copied, or whose indices are no integers: watch its batches pass.
        return None


def load_samples(loader: DataLoader[Any], indices: Sequence[int]) -> Any:
    """Load these samples as one batch, through the loader's dataset and collate function."""
    dataset = loader.dataset
    with preserve_generators(dataset, loader.collate_fn):
        if hasattr(dataset, "__getitems__"):
            return loader.collate_fn(dataset.__getitems__(list(indices)))
        return loader.collate_fn([dataset[index] for index in indices])


def candidate_indices(pool: Sequence[int], num_probes: int, generator: torch.Generator) -> list[int]:
    """Draw the indices of the candidates, from which :func:`choose_probes` takes a stratified part."""
    order = torch.randperm(len(pool), generator=generator, device="cpu")[: max(MIN_CANDIDATES, 8 * num_probes)]
    return [pool[position] for position in order.tolist()]


def choose_probes(inputs: Tensor, targets: Tensor, num_probes: int, refused: Collection[str], what: str) -> Drawn:
    """Choose probes among candidates, stratified by class.

    Every class gets its share of the candidates, to within one probe. Inputs that reference models were trained on are
    left out.

    Args:
        inputs: Candidates, ``[candidates, ...]``.
        targets: Their targets; integer classes are stratified, other targets are taken as they come.
        num_probes: How many to choose; all if there are fewer, with a warning.
        refused: Fingerprints of inputs that must not be probes.
        what: Name of the split for messages.

    Raises:
        ValueError: If there is no candidate at all, or reference models were trained on all of them.
    """
    if len(inputs) == 0:
        raise ValueError(f"probes: expected {num_probes} {what} inputs, the loader gives none")
    seen = torch.tensor([fingerprint in refused for fingerprint in fingerprints(inputs)]) if refused else None
    if seen is not None and bool(seen.any()):
        if bool(seen.all()):
            raise ValueError(
                f"probes: the reference models were trained on all of the {what} inputs, so their verdict would be no "
                "evidence; train them on a third part of the data"
            )
        warnings.warn(
            f"probes: the reference models were trained on {int(seen.sum())} of {len(inputs)} {what} inputs looked at; none of "
            "these becomes a probe",
            stacklevel=2,
        )
        inputs, targets = inputs[~seen], targets[~seen]
    if len(inputs) < num_probes:
        warnings.warn(f"probes: {num_probes} {what} inputs asked for, {len(inputs)} used: there are no more", stacklevel=2)
        num_probes = len(inputs)
    flat = targets.reshape(len(targets), -1)
    stratified = flat.shape[1] == 1 and bool((flat == flat.long()).all())
    order = flat[:, 0].argsort(stable=True) if stratified else torch.arange(len(inputs))
    chosen = order[(torch.arange(num_probes) * 2 + 1) * len(inputs) // (2 * num_probes)]
    return Drawn(Probes(inputs[chosen], targets[chosen]), inputs)
