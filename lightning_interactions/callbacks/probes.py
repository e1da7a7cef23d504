"""The probes of a run: from a saved state, from the user, or from the Trainer's loaders."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from lightning_interactions.callbacks.saved_probes import SAVED_WHOLE, OtherProbesError, ReadAgain, bytes_of
from lightning_interactions.callbacks.sources import Samples, Source, copied, training_source, validation_source
from lightning_interactions.game.steps import IgnoredError, OwnStep, disagreement
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.measuring.loading import CannotLoadError, batch_size_of, row_axis, rows_of_batches
from lightning_interactions.measuring.meter import HELD_OUT, TRAINING
from lightning_interactions.measuring.probes import ProbeSampling, first_probes, without_seen
from lightning_interactions.records import ProbeGroup, Probes, Rows, fingerprints
from lightning_interactions.records.trees import map_leaves, walk
from lightning_interactions.references.transfer import transfer

__all__ = ["ProbeKeeper", "digest", "moved"]

FAST_DEV_RUN_PROBES = 2

MAX_LOOKED_AT = 256
"""At least so many inputs are loaded to find probes that reference models have not seen (if there are)."""

NO_VALIDATION = (
    "InteractionMonitor: there is no validation loader, so nothing is measured on held-out inputs and there is no loss gap{}; "
    "pass a validation loader, or probes=ProbeSampling(held_out=(inputs, targets)), to have them"
)

IN_THEIR_PLACE = ", and training inputs are probes in their place"


@dataclass
class _Passing:
    """The first batches of data that can only be watched as they pass."""

    batch_size: int | None
    batches: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    checked: bool = False

    def size_of(self, batch: Any) -> int:
        """How many samples a batch has, by the axis that the first one has told."""
        found = row_axis(self.batches[0] if self.batches else batch, self.batch_size)
        leaf = None if found is None else dict(walk(batch)).get(found[0])
        return leaf.shape[found[1]] if found is not None and isinstance(leaf, torch.Tensor) and leaf.ndim > found[1] else 0


class ProbeKeeper:
    """Finds the probes of each split once, keeps them, and saves them with the run: large ones by their index.

    Args:
        sampling: Which probes.
        task: Finds inputs and targets in a batch.

    Attributes:
        probes: The probes of each split, once they are there.
        sample: The training inputs that were looked at to choose them, for baseline values; ``None`` where the probes were
            saved or given.
        indices: Where training probes are in their dataset, by their fingerprints, as far as that is known.
        dataloader_idx: Which validation loader the held-out probes come from, as ``validation_step`` may be told.
        refused: Fingerprints of inputs that must not be probes.
        forward_context: In which the model runs while inputs and targets are found; batches are loaded and moved outside of it.
    """

    def __init__(self, sampling: ProbeSampling, task: Task) -> None:
        self.sampling = sampling
        self.task = task
        self.probes: dict[str, Probes] = {}
        self.sample: Probes | None = None
        self.indices: dict[str, int] = {}
        self.refused: Collection[str] = ()
        self.forward_context: Callable[[], AbstractContextManager[object]] = nullcontext
        self.dataloader_idx = 0
        self._numbers: dict[str, int] = {}
        self._passing: dict[str, _Passing] = {}
        self._sanity_batches: dict[int, Any] = {}
        self._saved_digests: dict[str, str] = {}
        self._read_again: dict[str, ReadAgain] = {}
        self._compared = False

    def __repr__(self) -> str:
        return f"ProbeKeeper({self.sampling!r}, {self.probes!r})"

    @property
    def waiting(self) -> bool:
        """Whether some split's data can only be watched as it passes, and has not passed yet."""
        return bool(self._passing)

    @property
    def unchecked(self) -> bool:
        """Whether a first batch has passed that nobody has looked at; see :meth:`check_first`."""
        return any(passing.batches and not passing.checked for passing in self._passing.values())

    def has_passed(self, split: str) -> bool:
        """Whether a batch of a split's data has passed and was kept."""
        return split in self._passing and bool(self._passing[split].batches)

    def find(self, trainer: Trainer, model: LightningModule, sample_size: int = 0) -> None:
        """Get the probes of every split that has none yet; data without an index is left to :meth:`watch`.

        Args:
            trainer: The Trainer of the run, at the start of training.
            model: The module that is measured; batches go through its transfer hooks.
            sample_size: How many training inputs baseline values are chosen by, at least; 0 if the probes are enough.

        Raises:
            MisconfigurationException: If reference models were trained on a probe that was handed in, or all validation
                loaders repeat training data.
            ValueError: If a loader gives no usable input, or the task finds no inputs and targets in its batches.
        """
        self._passing, self._compared = {}, False
        with preserve_random_state(trainer.strategy.root_device, self.sampling.seed):
            finders = {TRAINING: training_source, HELD_OUT: validation_source}
            drawn = [split for split in finders if split not in self.probes and self.sampling.number(split)]
            sources = {split: finders[split](trainer) for split in drawn}
            self._numbers = {split: self.sampling.number(split) for split in finders}
            held_out = sources.get(HELD_OUT)
            if held_out is not None:
                self.dataloader_idx = held_out.dataloader_idx
            elif HELD_OUT in sources and TRAINING in sources:
                self._numbers[TRAINING] += self._numbers[HELD_OUT]
            if trainer.fast_dev_run:
                self._numbers = dict.fromkeys(finders, FAST_DEV_RUN_PROBES)
            if isinstance(self.task, OwnStep):
                self.task.dataloader_idx = self.dataloader_idx
            for split in finders:
                given = self.sampling.given(split)
                device = trainer.strategy.root_device
                if split in self.probes:
                    saved = self.probes[split].to(device)
                    with self.forward_context():
                        for group in saved.groups:  # A task that runs the module's step finds out again what it says.
                            if not self._explicit:
                                self.task.read(model, group.inputs)
                    self._take_up(split, saved)
                elif given is not None:
                    with self.forward_context():
                        probes, _, _ = self.task.given(model, *(moved(tree, device) for tree in given))
                    if not len(probes):
                        raise IgnoredError(
                            f"probes: expected {split} probes with targets that count, got only ignored ones; look at "
                            "ignore_index and the labels"
                        )
                    limit = FAST_DEV_RUN_PROBES if trainer.fast_dev_run else len(probes)
                    self._take_up(split, probes.select(range(min(limit, len(probes)))))
                elif split in sources:
                    source = sources[split]
                    if source is None:
                        rank_zero_warn(NO_VALIDATION.format(IN_THEIR_PLACE if TRAINING in sources else ""))
                        continue
                    more = sample_size if split == TRAINING and not trainer.fast_dev_run else 0
                    self._draw(trainer, model, split, source, more)
        self._sanity_batches = {}

    def watch(self, split: str, batch: Any, dataloader_idx: int = 0) -> None:
        """Keep the first inputs of data that can only be watched as it passes: batches as the hooks of transfer gave them."""
        passing = self._passing.get(split)
        if passing is not None and not self._complete(split) and (split == TRAINING or dataloader_idx == self.dataloader_idx):
            size = len(ProbeGroup.of(*self.task.unpack(batch))) if self._explicit else passing.size_of(batch)
            passing.batches.append(copied(batch))
            passing.sizes.append(size)

    def watch_sanity_check(self, batch: Any, dataloader_idx: int = 0) -> None:
        """Keep the first validation batch that passes before training, to look at it where no others can be loaded."""
        if dataloader_idx not in self._sanity_batches:
            self._sanity_batches[dataloader_idx] = copied(batch)

    def check_first(self, model: LightningModule) -> dict[str, Probes]:
        """Look at the first batch that has passed of each split, once, so that errors come before the first optimizer step.

        Args:
            model: The module that is measured.

        Returns:
            The inputs of these batches, from which probes will be made.

        Raises:
            ValueError: If the task finds no inputs and targets in a batch.
        """
        first = {split: passing for split, passing in self._passing.items() if passing.batches and not passing.checked}
        for passing in first.values():
            passing.checked = True
        return {split: self._read(model, passing.batches[:1], passing.sizes[:1]) for split, passing in first.items()}

    def take_complete(self, trainer: Trainer, model: LightningModule) -> None:
        """Make probes of what has passed, of splits of which as many inputs have passed as were asked for."""
        self._take(trainer, model, {split: self._complete(split) for split in self._passing})

    def take_passed(self, trainer: Trainer, model: LightningModule) -> None:
        """Make probes of what has passed, however many inputs these are."""
        self._take(trainer, model, {split: bool(passing.batches) for split, passing in self._passing.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the probes as trees of tensors on the CPU; of large ones where they are in their dataset, if that is known.

        Of those that are made of other containers there are digests alone.
        """
        return {
            "dataloader_idx": self.dataloader_idx,
            "probes": {
                split: None if split in self._read_again else probes.to_state() for split, probes in self.probes.items()
            },
            "read_again": {split: one.to_state() for split, one in self._read_again.items()},
            "digests": {split: digest(probes) for split, probes in self.probes.items()},
            "indices": self.indices,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; missing keys mean that there is nothing yet."""
        saved = state_dict.get("probes", {})
        self.probes = {split: Probes.from_state(state) for split, state in saved.items() if state is not None}
        self.sample = None
        self._read_again = {split: ReadAgain.from_state(one) for split, one in state_dict.get("read_again", {}).items()}
        self.indices = dict(state_dict.get("indices", {}))
        self.dataloader_idx = state_dict.get("dataloader_idx", 0)
        self._saved_digests = {split: own for split, own in state_dict.get("digests", {}).items() if split not in self.probes}

    @property
    def _explicit(self) -> bool:
        """Whether the task finds inputs and targets by its own ``unpack`` alone."""
        return type(self.task).read is Task.read

    def _complete(self, split: str) -> bool:
        return sum(self._passing[split].sizes) >= self._numbers[split]

    def _draw(self, trainer: Trainer, model: LightningModule, split: str, source: Source, sample_size: int) -> None:
        number = self._numbers[split]
        samples = source.samples(trainer, number, self.sampling.seed)
        if samples is None:
            self._watch_later(model, split, source)
            return
        if not len(samples):
            raise ValueError(f"probes: expected {number} {split} inputs, the loader gives none")
        most = max(MAX_LOOKED_AT, 8 * number)
        batches, sizes, indices = list[Any](), list[int | None](), dict[str, int]()
        all_lists: list[list[int]] = []
        candidates: Probes | None = None
        found = 0
        try:
            if split in self._read_again:
                self._accept(trainer, split, self._same_again(trainer, model, split, source, samples))
                return
            # Of batches of unknown size, two tell how large they are; inputs that reference models have seen are replaced.
            while found < number and len(samples) and (candidates is None or len(candidates) < most):
                loaded, own, lists = samples.load(2 if samples.unknown_sizes and candidates is None else number - found)
                new = [transfer(trainer, model, batch, source.dataloader_idx) for batch in loaded]
                batches, sizes, all_lists = batches + new, sizes + own, all_lists + lists
                candidates = self._read(model, batches, sizes)
                for batch, own_indices in zip(new, lists, strict=True):
                    # A task that only reads whole batches does not say what their inputs are.
                    with suppress(ValueError):
                        prints = fingerprints(self.task.inputs(batch))
                        indices.update(zip(prints, own_indices, strict=True) if len(prints) == len(own_indices) else ())
                found = sum(fingerprint not in self.refused for fingerprint in candidates.fingerprints)
            assert candidates is not None
            sample = candidates
            if len(sample) < sample_size and len(samples):
                loaded, own, _ = samples.load(sample_size - len(sample))
                more = [transfer(trainer, model, batch, source.dataloader_idx) for batch in loaded]
                sample = self._read(model, batches + more, sizes + own)
        except CannotLoadError as error:
            rank_zero_info(f"InteractionMonitor: samples of the {split} loader cannot be loaded by their index: {error}")
            self._watch_later(model, split, source)
            return
        self._accept(trainer, split, candidates, sample, indices)
        self._save_by_index(trainer, model, split, source, samples, all_lists)

    def _save_by_index(
        self,
        trainer: Trainer,
        model: LightningModule,
        split: str,
        source: Source,
        samples: Samples,
        lists: Sequence[Sequence[int]],
    ) -> None:
        """Save large probes by their index if they are the same when they are read again; else say how large they are."""
        size = bytes_of(self.probes[split])
        if size <= SAVED_WHOLE:
            return
        again = ReadAgain(lists, self.probes[split].fingerprints)
        try:
            self._again(trainer, model, split, source, samples, again)
            is_same = True
        except (CannotLoadError, OtherProbesError):
            is_same = False
        if trainer.strategy.reduce_boolean_decision(is_same, all=True):
            self._read_again[split] = again
        else:
            rank_zero_info(
                f"InteractionMonitor: the {split} probes, {size / 1e6:.0f} MB of data, are saved in every checkpoint, because "
                "their samples are not the same when they are read again"
            )

    def _same_again(self, trainer: Trainer, model: LightningModule, split: str, source: Source, samples: Samples) -> Probes:
        """Read the probes of the run that is gone on with.

        Raises:
            OtherProbesError: If they are others now, on this process or another one.
        """
        failure: Exception | None = None
        probes: Probes | None = None
        try:
            probes = self._again(trainer, model, split, source, samples, self._read_again[split])
        except (CannotLoadError, OtherProbesError) as error:
            failure = error
        if trainer.strategy.reduce_boolean_decision(probes is not None, all=True) and probes is not None:
            return probes
        raise OtherProbesError(str(failure or f"another process reads other {split} probes than before"))

    def _again(
        self, trainer: Trainer, model: LightningModule, split: str, source: Source, samples: Samples, again: ReadAgain
    ) -> Probes:
        """Read probes of which it is known where they are."""
        loaded, sizes = samples.load_again(again.batches)
        moved = [transfer(trainer, model, batch, source.dataloader_idx) for batch in loaded]
        return again.chosen(self._read(model, moved, sizes), split)

    def _watch_later(self, model: LightningModule, split: str, source: Source) -> None:
        loader = source.parts[0]
        passing = self._passing[split] = _Passing(batch_size_of(loader) if isinstance(loader, DataLoader) else None)
        if split == TRAINING:
            rank_zero_info(
                f"InteractionMonitor: the first {self._numbers[TRAINING]} training inputs that pass become probes, as the "
                "hooks of transfer give them in training"
            )
        elif source.dataloader_idx in self._sanity_batches:
            batch = self._sanity_batches[source.dataloader_idx]
            self._read(model, [batch], [passing.size_of(batch)])

    def _read(self, model: LightningModule, batches: Sequence[Any], sizes: Sequence[int | None]) -> Probes:
        """Find inputs and targets in batches that the transfer hooks have seen."""
        try:
            rows = rows_of_batches(batches, sizes)
        except ValueError:
            if not self._explicit:
                raise
            # A task that unpacks batches itself finds rows where nobody else does.
            rows = [Rows(batch, 0, {}) for batch in batches]
        with self.forward_context():
            found = [self.task.read(model, own) for own in rows]
        if self._explicit and not self._compared:
            self._compared = True
            with self.forward_context():
                said = disagreement(self.task, model, batches[0], found[0])
            if said:
                rank_zero_warn(f"InteractionMonitor: {said}; if that is not meant, mend the task, or leave it out")
        return Probes.joined(*(group for probes in found for group in probes.groups))

    def _take(self, trainer: Trainer, model: LightningModule, ready: dict[str, bool]) -> None:
        for split, ready_here in ready.items():
            if trainer.strategy.reduce_boolean_decision(ready_here, all=True):
                passing = self._passing[split]
                candidates = self._read(model, passing.batches, passing.sizes)
                self._accept(trainer, split, candidates, candidates)
                del self._passing[split]

    def _accept(
        self,
        trainer: Trainer,
        split: str,
        candidates: Probes,
        sample: Probes | None = None,
        indices: Mapping[str, int] | None = None,
    ) -> None:
        """Choose among candidates, the same on every rank: those of the first one, whatever the others' datasets do."""
        candidates = without_seen(candidates, self.refused, split)
        if trainer.world_size > 1:
            device, sample = candidates.device, None if sample is None else sample.to("cpu")
            candidates, sample, indices = trainer.strategy.broadcast((candidates.to("cpu"), sample, indices))
            candidates, sample = candidates.to(device), None if sample is None else sample.to(device)
        # Fewer than the held-out ones that they stand for, too, is nothing to warn of.
        enough = max(len(candidates), self.sampling.number(split))
        number = len(candidates) if split in self._read_again else min(self._numbers[split], enough)
        self.probes[split] = first_probes(candidates, number, split)
        if split == TRAINING:
            self.sample = sample
            probes = set(self.probes[split].fingerprints)
            self.indices = {one: index for one, index in (indices or self.indices).items() if one in probes}
        saved = self._saved_digests.pop(split, None)
        if saved is not None and saved != digest(self.probes[split]):
            raise MisconfigurationException(
                f"InteractionMonitor: expected the same {split} probes as in the run that is gone on with, got others: their "
                "inputs are not the same whenever they are loaded; make batches of tuples, lists and dicts, which are saved "
                "with the run, or hand probes in with probes=ProbeSampling(training=(inputs, targets))"
            )
        if {TRAINING, HELD_OUT} <= self.probes.keys():
            self._warn_of_equal_splits()

    def _warn_of_equal_splits(self) -> None:
        known = set(self.probes[TRAINING].fingerprints)
        held_out = self.probes[HELD_OUT].fingerprints
        if len(held_out) > 1 and known.issuperset(held_out):
            rank_zero_warn(
                f"InteractionMonitor: all {len(held_out)} held-out probes are training probes, too, so nothing is held out; "
                "validate on other inputs"
            )

    def _take_up(self, split: str, probes: Probes) -> None:
        """Use probes that were saved or handed in; they are as the model takes them, so no transfer hook sees them."""
        seen = [row for row, fingerprint in enumerate(probes.fingerprints) if fingerprint in self.refused]
        if seen:
            raise MisconfigurationException(
                f"InteractionMonitor: the reference models were trained on {len(seen)} of the {len(probes)} {split} probes "
                f"handed in or saved (first rows: {seen[:5]}), so their weights would be no evidence; use other probes, or "
                "reference models trained on other data"
            )
        self.probes[split] = probes


def moved(tree: Any, device: torch.device) -> Any:
    """Move the tensors of a tree to a device."""
    return map_leaves(lambda _name, leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, tree)


def digest(probes: Probes) -> str:
    """Return a hash of the probes' inputs in their order."""
    return hashlib.sha256("".join(probes.fingerprints).encode()).hexdigest()
