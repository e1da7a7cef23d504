"""Probe inputs: chosen once, without touching what training will draw."""

import warnings
from collections import deque
from collections.abc import Collection, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from lightning_interactions.measuring.loading import batch_sampler_of, batch_size_of, cut
from lightning_interactions.records import Probes

__all__ = ["Draw", "ProbeSampling", "first_probes", "known_classes", "without_seen"]

OWN_BATCHES = 4
"""Probes come from so many batches of a sampler of the user's own, or from more."""


@dataclass(frozen=True)
class ProbeSampling:
    """Which inputs are measured.

    They are drawn at random among what the loaders' samplers give in an epoch, and only they are loaded. The draw is stratified
    by class where the classes are known without loading a sample: tensor datasets, datasets with a sequence ``targets`` or
    ``labels``, and subsets of these. Of data without an index the first inputs that pass are taken.

    Attributes:
        training: Number of training inputs, drawn from what the training loader gives; or ``(inputs, targets)`` to measure
            instead, as the model takes them.
        held_out: Number of inputs of the first validation loader that does not repeat training data, 0 to leave held-out data
            alone; or ``(inputs, targets)``. Without a validation loader as many more training inputs are drawn instead.
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

    def given(self, split: str) -> tuple[Any, Any] | None:
        """The inputs and targets of a split that are given; ``None`` if they are to be drawn."""
        asked = getattr(self, split)
        return None if isinstance(asked, int) else (asked[0], asked[1])


class Draw:
    """The order in which a loader's samples are taken for probes: at random, by a generator of our own.

    Where the classes are known without loading a sample, the first ones are stratified: every class gets its share of them, to
    within one. Samples of which the user's own sampler makes batches, such as texts of similar length, stay together: some
    of each of :data:`OWN_BATCHES` batches, or of more where these are small.

    Args:
        loader: The loader that training or validation iterates over.
        given: What :func:`~lightning_interactions.measuring.loading.sampled_indices` gives for it; where it has batches of the
            user's own, :func:`~lightning_interactions.measuring.loading.sampled_batches`.
        num_probes: How many will be taken at first.
        generator: Decides the order.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        given: torch.Tensor | Sequence[Sequence[int]],
        num_probes: int,
        generator: torch.Generator,
    ) -> None:
        self._by_one = batch_sampler_of(loader) is None
        self._size = 1 if self._by_one else batch_size_of(loader) or 1
        self._own: deque[list[int]] | None = None
        if not isinstance(given, torch.Tensor):
            together = _unrepeated(given)
            self._share = -(-num_probes // OWN_BATCHES)
            self._own = deque(_shuffled(together[place], generator) for place in _order(len(together), generator))
            self._left = sum(map(len, self._own))
            return
        pool = given[torch.randperm(len(given), generator=generator, device="cpu")]
        classes = known_classes(loader.dataset)
        if classes is not None:
            first = _stratified(classes[pool], num_probes)
            later = torch.ones(len(pool), dtype=torch.bool)
            later[first] = False
            pool = torch.cat([pool[first], pool[later]])
        self._pool = pool
        self._left = len(pool)

    def __len__(self) -> int:
        """How many samples are left."""
        return self._left

    def take(self, number: int) -> list[list[int]]:
        """Take the next samples, as batches to be loaded; fewer if there are no more."""
        number = min(number, self._left)
        self._left -= number
        if self._own is None:
            start = len(self._pool) - self._left - number
            taken = self._pool[start : start + number].tolist()
            return [[index] for index in taken] if self._by_one else cut(taken, self._size)
        parts: list[list[int]] = []
        while number:
            batch = self._own.popleft()
            # Not all of one size, so that two batches tell which axis is the row.
            share = min(number, len(batch), self._share + len(parts) % 2)
            parts.append(batch[:share])
            number -= share
            if batch[share:]:
                self._own.append(batch[share:])
        return parts


def known_classes(dataset: object) -> torch.Tensor | None:
    """The class of each sample, where it is known without loading one; ``None`` elsewhere.

    That is so for tensor datasets, for datasets with a sequence ``targets`` or ``labels`` of their length, and for subsets and
    concatenations of these.
    """
    if isinstance(dataset, Subset):
        whole = known_classes(dataset.dataset)
        return None if whole is None else whole[torch.tensor(np.asarray(dataset.indices, dtype=np.int64))]
    if isinstance(dataset, ConcatDataset):
        parts = [known_classes(part) for part in dataset.datasets]
        return torch.cat([part for part in parts if part is not None]) if all(part is not None for part in parts) else None
    if isinstance(dataset, TensorDataset):
        return _as_classes(dataset.tensors[-1], len(dataset)) if len(dataset.tensors) > 1 else None
    # What is stored as it is: a property might open a file.
    stored = (vars(dataset).get(name) for name in ("targets", "labels")) if hasattr(dataset, "__dict__") else ()
    sequence = next((own for own in stored if isinstance(own, (list, tuple, np.ndarray, torch.Tensor))), None)
    return None if sequence is None or not isinstance(dataset, Sized) else _as_classes(sequence, len(dataset))


def _as_classes(targets: Any, length: int) -> torch.Tensor | None:
    try:
        flat = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    if flat.numel() != length or not flat.ndim or flat.is_complex() or not bool((flat == flat.long()).all()):
        return None
    return flat.detach().reshape(-1).cpu().long()


def _stratified(classes: torch.Tensor, number: int) -> torch.Tensor:
    """Positions of so many samples, each class in proportion; in their order."""
    number = min(number, len(classes))
    places = (torch.arange(number) * 2 + 1) * len(classes) // max(2 * number, 1)
    return classes.argsort(stable=True)[places].sort().values


def _order(length: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(length, generator=generator, device="cpu").tolist()


def _shuffled(items: Sequence[int], generator: torch.Generator) -> list[int]:
    return [items[place] for place in _order(len(items), generator)]


def _unrepeated(batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """Leave out samples of earlier batches."""
    seen = set[int]()
    parts = []
    for batch in batches:
        parts.append([index for index in dict.fromkeys(batch) if index not in seen])
        seen.update(batch)
    return [part for part in parts if part]


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


def first_probes(candidates: Probes, num_probes: int, what: str) -> Probes:
    """Take the first of some inputs for probes; all if there are fewer than asked for, with a warning.

    Args:
        candidates: Inputs with targets.
        num_probes: How many to take.
        what: Name of the split for messages.

    Raises:
        ValueError: If there is no candidate at all.
    """
    if len(candidates) == 0:
        raise ValueError(f"probes: expected {num_probes} {what} inputs, the loader gives none")
    if len(candidates) < num_probes:
        warnings.warn(f"probes: {num_probes} {what} inputs asked for, {len(candidates)} used: there are no more", stacklevel=2)
    return candidates if len(candidates) <= num_probes else candidates.select(range(num_probes))
