"""Probe inputs: chosen once, without touching what training will draw."""

import copy
import itertools
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_interactions.measuring.generators import preserve_generators
from lightning_interactions.records import Probes

__all__ = ["ProbeSampling", "candidate_indices", "choose_probes", "load_samples", "sampled_indices", "without_seen"]

MIN_CANDIDATES = 256
"""At least this many inputs are looked at, to choose probes and to average baseline values over (if there are)."""


@dataclass(frozen=True)
class ProbeSampling:
    """Which inputs are measured.

    Attributes:
        training: Number of training inputs, drawn from what the training loader gives; or ``(inputs, targets)`` to measure
            instead, as the model takes them.
        held_out: Number of inputs of the first validation loader, 0 to leave held-out data alone; or ``(inputs, targets)``.
        seed: Seed of the draw.

    Raises:
        ValueError: If a number is too small, or what is given are no inputs with one target each.
    """

    training: int | tuple[Any, Any] = 32
    held_out: int | tuple[Any, Any] = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, least in (("training", 1), ("held_out", 0)):
            asked = getattr(self, name)
            if isinstance(asked, int) and not isinstance(asked, bool):
                if asked < least:
                    raise ValueError(f"ProbeSampling: expected {name} of at least {least}, got {asked}")
            elif isinstance(asked, (tuple, list)) and len(asked) == 2:
                try:
                    Probes.of((asked[0], asked[1]))
                except ValueError as error:
                    raise ValueError(f"ProbeSampling: {name}: {error}") from error
            else:
                raise ValueError(
                    f"ProbeSampling: expected {name} to be a number of probes, or a pair (inputs, targets), got "
                    f"{type(asked).__name__}"
                )

    def __repr__(self) -> str:
        asked = {name: getattr(self, name) for name in ("training", "held_out")}
        said = (f"{name}={one if isinstance(one, int) else Probes.of(tuple(one))!r}" for name, one in asked.items())
        return f"ProbeSampling({', '.join(said)}, seed={self.seed})"

    def number(self, split: str) -> int:
        """How many probes of a split are to be drawn; 0 if they are given."""
        asked = getattr(self, split)
        return asked if isinstance(asked, int) else 0

    def given(self, split: str) -> Probes | None:
        """The probes of a split that are given; ``None`` if they are to be drawn."""
        asked = getattr(self, split)
        return None if isinstance(asked, int) else Probes.of((asked[0], asked[1]))


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


def without_seen(candidates: Probes, refused: Collection[str], what: str) -> Probes:
    """Leave out inputs that reference models were trained on, with a warning.

    Args:
        candidates: At least one input.
        refused: Fingerprints of inputs that must not be probes.
        what: Name of the split for messages.

    Raises:
        ValueError: If reference models were trained on all of them.
    """
    if not refused:
        return candidates
    seen = torch.tensor([fingerprint in refused for fingerprint in candidates.fingerprints])
    if bool(seen.all()):
        raise ValueError(
            f"probes: the reference models were trained on all of the {what} inputs, so their weights would be no "
            "evidence; train them on a third part of the data"
        )
    if bool(seen.any()):
        warnings.warn(
            f"probes: the reference models were trained on {int(seen.sum())} of {len(candidates)} {what} inputs looked at; "
            "none of these becomes a probe",
            stacklevel=2,
        )
        candidates = candidates.select(~seen)
    return candidates


def choose_probes(candidates: Probes, num_probes: int, what: str) -> Probes:
    """Choose probes among candidates, stratified by class: every class gets its share of them, to within one probe.

    Args:
        candidates: Inputs with targets; integer classes are stratified, other targets are taken as they come.
        num_probes: How many to choose; all if there are fewer, with a warning.
        what: Name of the split for messages.

    Raises:
        ValueError: If there is no candidate at all.
    """
    if len(candidates) == 0:
        raise ValueError(f"probes: expected {num_probes} {what} inputs, the loader gives none")
    if len(candidates) < num_probes:
        warnings.warn(f"probes: {num_probes} {what} inputs asked for, {len(candidates)} used: there are no more", stacklevel=2)
        num_probes = len(candidates)
    classes = _classes(candidates)
    order = torch.arange(len(candidates)) if classes is None else classes.argsort(stable=True)
    return candidates.select(order[(torch.arange(num_probes) * 2 + 1) * len(candidates) // (2 * num_probes)])


def _classes(probes: Probes) -> torch.Tensor | None:
    """The class of each probe; ``None`` if targets are not one whole number each."""
    targets = [list(group.targets.leaves.values()) for group in probes.groups]
    if not all(len(own) == 1 and own[0].numel() == len(own[0]) for own in targets):
        return None
    flat = torch.cat([own[0].reshape(-1).cpu() for own in targets])
    return flat if bool((flat == flat.long()).all()) else None
