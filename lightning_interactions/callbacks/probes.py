"""The probes of a run: from a saved state, from the user, or from the Trainer's loaders."""

import hashlib
from collections.abc import Collection
from typing import Any

import torch
import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.meter import HELD_OUT, TRAINING
from lightning_interactions.measuring.probes import (
    ProbeSampling,
    candidate_indices,
    choose_probes,
    load_samples,
    sampled_indices,
    without_seen,
)
from lightning_interactions.records import Probes
from lightning_interactions.records.trees import map_leaves
from lightning_interactions.references.internals import to_device

__all__ = ["ProbeKeeper", "digest"]

FAST_DEV_RUN_PROBES = 2


class ProbeKeeper:
    """Finds the probes of each split once, keeps them, and saves them with the run.

    Args:
        sampling: Which probes.
        task: Finds inputs and targets in a batch.

    Attributes:
        probes: The probes of each split, once they are there.
        sample: The training inputs that were looked at to choose them, for baseline values; ``None`` where the probes were
            saved or given.
        refused: Fingerprints of inputs that must not be probes.
    """

    def __init__(self, sampling: ProbeSampling, task: Task) -> None:
        self.sampling = sampling
        self.task = task
        self.probes: dict[str, Probes] = {}
        self.sample: Probes | None = None
        self.refused: Collection[str] = ()
        self._passing: dict[str, list[tuple[Any, Any]]] = {}
        self._passed: dict[str, int] = {}
        self._saved_digests: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"ProbeKeeper({self.sampling!r}, {self.probes!r})"

    @property
    def waiting(self) -> bool:
        """Whether some split's data can only be watched as it passes, and has not passed yet."""
        return bool(self._passing)

    def find(self, trainer: Trainer) -> None:
        """Get the probes of every split that has none yet; iterable data is left to :meth:`watch`.

        Raises:
            MisconfigurationException: If reference models were trained on a probe that was handed in, or there are
                several training loaders.
            ValueError: If a loader gives no usable input, or the task finds no inputs and targets in its batches.
        """
        self._passing, self._passed = {}, {}
        for split, find_loader in {TRAINING: _training_loader, HELD_OUT: _validation_loader}.items():
            given = self.sampling.given(split)
            if split in self.probes:
                self._take_up(split, self.probes[split], trainer.strategy.root_device)
            elif given is not None:
                limit = FAST_DEV_RUN_PROBES if trainer.fast_dev_run else len(given)
                self._take_up(split, given.select(range(min(limit, len(given)))), trainer.strategy.root_device)
            elif self.sampling.number(split):
                self._draw(trainer, split, find_loader(trainer))

    def watch(self, split: str, batch: Any) -> None:
        """Keep the first inputs of data that can only be watched as it passes."""
        if split in self._passing and not self._complete(split):
            inputs, targets = (map_leaves(_copy, tree) for tree in self.task.unpack(batch))
            self._passing[split].append((inputs, targets))
            self._passed[split] = self._passed.get(split, 0) + len(Probes.of((inputs, targets)))

    def take_complete(self, trainer: Trainer) -> None:
        """Make probes of what has passed, of splits of which as many inputs have passed as were asked for."""
        self._take(trainer, {split: self._complete(split) for split in self._passing})

    def take_passed(self, trainer: Trainer) -> None:
        """Make probes of what has passed, however many inputs these are."""
        self._take(trainer, {split: bool(passed) for split, passed in self._passing.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the probes as trees of tensors on the CPU, or where they are made of other containers their digests alone."""
        return {
            "probes": {split: probes.to_state() for split, probes in self.probes.items()},
            "digests": {split: digest(probes) for split, probes in self.probes.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; missing keys mean that there is nothing yet."""
        saved = state_dict.get("probes", {})
        self.probes = {split: Probes.from_state(state) for split, state in saved.items() if state is not None}
        self.sample = None
        self._saved_digests = {split: own for split, own in state_dict.get("digests", {}).items() if split not in self.probes}

    def _complete(self, split: str) -> bool:
        return self._passed.get(split, 0) >= self.sampling.number(split)

    def _draw(self, trainer: Trainer, split: str, loader: Any | None) -> None:
        if loader is None:
            rank_zero_warn(
                "InteractionMonitor: there is no validation loader, so nothing is measured on held-out inputs and there is "
                "no loss gap; pass a validation loader, or probes=ProbeSampling(held_out=(inputs, targets)), to have them"
            )
            return
        num_batches = trainer.num_training_batches if split == TRAINING else trainer.num_val_batches[0]
        pool = sampled_indices(loader, num_batches)
        if pool is None:
            self._passing[split] = []
            return
        if trainer.world_size > 1:
            pools: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(pools, pool)
            pool = sorted(set().union(*pools))
        assert isinstance(loader, DataLoader)
        indices = candidate_indices(pool, self._number(trainer, split), torch.Generator().manual_seed(self.sampling.seed))
        if not indices:
            raise ValueError(f"probes: expected {self.sampling.number(split)} {split} inputs, the loader gives none")
        self._accept(trainer, split, Probes.of(self.task.unpack(to_device(trainer, load_samples(loader, indices)))))

    def _take(self, trainer: Trainer, ready: dict[str, bool]) -> None:
        for split, ready_here in ready.items():
            if trainer.strategy.reduce_boolean_decision(ready_here, all=True):
                self._accept(trainer, split, Probes.of(*self._passing.pop(split)))

    def _accept(self, trainer: Trainer, split: str, candidates: Probes) -> None:
        """Choose among candidates, the same on every rank: those of the first one, whatever the others' datasets do."""
        candidates = without_seen(candidates, self.refused, split)
        if trainer.world_size > 1:
            candidates = trainer.strategy.broadcast(candidates.to("cpu")).to(candidates.device)
        self.probes[split] = choose_probes(candidates, self._number(trainer, split), split)
        if split == TRAINING:
            self.sample = candidates
        saved = self._saved_digests.pop(split, None)
        if saved is not None and saved != digest(self.probes[split]):
            raise MisconfigurationException(
                f"InteractionMonitor: expected the same {split} probes as in the run that is gone on with, got others: their "
                "inputs are not the same whenever they are loaded; make batches of tuples, lists and dicts, which are saved "
                "with the run, or hand probes in with probes=ProbeSampling(training=(inputs, targets))"
            )

    def _number(self, trainer: Trainer, split: str) -> int:
        return FAST_DEV_RUN_PROBES if trainer.fast_dev_run else self.sampling.number(split)

    def _take_up(self, split: str, probes: Probes, device: torch.device) -> None:
        """Use probes that were saved or handed in; they are as the model takes them, so no transfer hook sees them."""
        seen = [row for row, fingerprint in enumerate(probes.fingerprints) if fingerprint in self.refused]
        if seen:
            raise MisconfigurationException(
                f"InteractionMonitor: the reference models were trained on {len(seen)} of the {len(probes)} {split} probes "
                f"handed in or saved (first rows: {seen[:5]}), so their weights would be no evidence; use other probes, or "
                "reference models trained on other data"
            )
        self.probes[split] = probes.to(device)


def digest(probes: Probes) -> str:
    """Return a hash of the probes' inputs in their order."""
    return hashlib.sha256("".join(probes.fingerprints).encode()).hexdigest()


def _training_loader(trainer: Trainer) -> Any:
    loader = trainer.train_dataloader
    if isinstance(loader, (dict, list, tuple)):
        raise MisconfigurationException(
            "InteractionMonitor: expected one training loader, got several; hand the probes in with "
            "probes=ProbeSampling(training=(inputs, targets))"
        )
    return loader


def _validation_loader(trainer: Trainer) -> Any | None:
    """Return the first validation loader; ``None`` if the run has none."""
    if not trainer.enable_validation:
        return None
    if trainer.val_dataloaders is None:
        # Lightning sets it up later where validation does not run in the first epoch; the set-up happens only once.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
    loaders = trainer.val_dataloaders
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    return (loaders[0] if loaders else None) if isinstance(loaders, (list, tuple)) else loaders


def _copy(_name: str, leaf: Any) -> Any:
    """Copy a tensor of a batch that goes on to be used."""
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
