"""Getting probe inputs out of a Trainer's loaders."""

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_interactions.measuring.probes import (
    Drawn,
    Unpack,
    candidate_indices,
    choose_probes,
    load_samples,
    sampled_indices,
)
from lightning_interactions.records import Probes

__all__ = ["PassingProbes", "draw_probes", "same_on_all_ranks", "training_loader", "validation_loader"]


def training_loader(trainer: Trainer) -> Any:
    """Return the training loader.

    Raises:
        MisconfigurationException: If the run trains on several loaders at once.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, (dict, list, tuple)):
        raise MisconfigurationException(
            "InteractionMonitor: expected one training loader, got several; hand the probes in with "
            "training_probes=(inputs, targets)"
        )
    return loader


def validation_loader(trainer: Trainer) -> Any | None:
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


def draw_probes(
    trainer: Trainer,
    loader: Any,
    num_batches: float,
    *,
    num_probes: int,
    unpack: Unpack,
    refused: Collection[str],
    what: str,
    seed: int,
) -> Drawn | None:
    """Draw probes from the indices that a loader's sampler gives, the same on every rank.

    Args:
        trainer: The running Trainer; moves the samples to the device as it moves batches.
        loader: The loader to draw from.
        num_batches: Batches of an epoch that the Trainer uses.
        num_probes: How many probes.
        unpack: Finds inputs and targets in a batch.
        refused: Fingerprints of inputs that must not be probes.
        what: Name of the split for messages.
        seed: Seed of the draw.

    Returns:
        Probes; ``None`` where the data can only be watched as it passes.
    """
    pool = sampled_indices(loader, num_batches)
    if pool is None:
        return None
    if trainer.world_size > 1:
        pools: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(pools, pool)
        pool = sorted(set().union(*pools))
    assert isinstance(loader, DataLoader)
    indices = candidate_indices(pool, num_probes, torch.Generator().manual_seed(seed))
    batch = to_device(trainer, load_samples(loader, indices)) if indices else None
    inputs, targets = (torch.empty(0), torch.empty(0)) if batch is None else unpack(batch)
    return same_on_all_ranks(trainer, choose_probes(inputs, targets, num_probes, refused, what))


def same_on_all_ranks(trainer: Trainer, drawn: Drawn) -> Drawn:
    """Take the first rank's samples, whatever the datasets of the others do at random."""
    if trainer.world_size == 1:
        return drawn
    device = drawn.sample.device
    tensors = [tensor.cpu() for tensor in (drawn.probes.inputs, drawn.probes.targets, drawn.sample)]
    inputs, targets, sample = (tensor.to(device) for tensor in trainer.strategy.broadcast(tensors))
    return Drawn(Probes(inputs, targets), sample)


def to_device(trainer: Trainer, batch: Any) -> Any:
    """Convert and move a batch as the Trainer does before a step."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch)


class PassingProbes:
    """Keeps the first inputs of a split as its batches pass by, for data that cannot be indexed.

    Args:
        num_probes: How many to keep.
        unpack: Finds inputs and targets in a batch.
        refused: Fingerprints of inputs that must not be probes.
        what: Name of the split for messages.
    """

    def __init__(self, num_probes: int, unpack: Unpack, refused: Collection[str], what: str) -> None:
        self.num_probes = num_probes
        self.unpack = unpack
        self.refused = refused
        self.what = what
        self._inputs: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    @property
    def seen_any(self) -> bool:
        """Whether any input has passed."""
        return bool(self._inputs)

    @property
    def complete(self) -> bool:
        """Whether enough inputs have passed."""
        return sum(map(len, self._inputs)) >= self.num_probes

    def watch(self, batch: Any) -> None:
        """Keep copies of a batch's inputs, until there are enough."""
        if not self.complete:
            inputs, targets = self.unpack(batch)
            self._inputs.append(inputs.detach().clone())
            self._targets.append(targets.detach().clone())

    def draw(self) -> Drawn:
        """Choose probes among the inputs that have passed."""
        return choose_probes(torch.cat(self._inputs), torch.cat(self._targets), self.num_probes, self.refused, self.what)
