"""Callbacks that watch the training of a reference model: what it does, what it sees, and when it is best."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lightning_interactions.game.steps import IgnoredError
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import shadowed
from lightning_interactions.measuring.loading import rows_of_batches
from lightning_interactions.measuring.memory import data_as_found
from lightning_interactions.records import ProbeGroup, Rows, fingerprints
from lightning_interactions.records.trees import walk
from lightning_interactions.references.transfer import transfer

__all__ = ["EpochProgress", "Introduction", "KeepBestWeights", "SeenInputs", "SetUpAlone", "has_fallen"]

CLEARLY = 0.01
"""A loss that is smaller by this part of what it was before the training has fallen: noise on few inputs is no learning."""


def has_fallen(loss: float, before: float) -> bool:
    """Say whether a loss is clearly smaller than before the training; also if it was not finite then and is now.

    Args:
        loss: Mean loss on inputs kept from the training.
        before: The same before the training; losses may be negative.
    """
    if not math.isfinite(before):
        return math.isfinite(loss)
    return before - loss >= CLEARLY * abs(before) and loss < before


class SeenInputs(Callback):
    """Collects the fingerprints of all inputs that a run trains on.

    Args:
        task: Finds inputs and targets in a batch.
        batch_size: How many samples the loader makes batches of; ``None`` if that is not known.
        most: How many different inputs there can be: the number of samples, where each is the same whenever it is loaded.
            ``None`` for any number.
        refuses: Whether more are refused; else nothing is collected any more.

    Attributes:
        fingerprints: Fingerprints of the inputs so far; none if there were too many.
    """

    def __init__(self, task: Task, batch_size: int | None = None, most: int | None = None, *, refuses: bool = True) -> None:
        self.task = task
        self.batch_size = batch_size
        self.most = most
        self.refuses = refuses
        self._gave_up = False
        self._structures: set[tuple[str, ...]] = set()
        self.fingerprints: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the inputs down."""
        if self._gave_up:
            return
        structure = tuple(name for name, _ in walk(batch))
        if structure not in self._structures:
            # Which leaves are inputs may only be known from such a batch.
            with shadowed(pl_module, pl_module.device, 0, trainer) as shadow:
                _read_if_any(self.task, shadow, self._rows(batch))
            self._structures.add(structure)
        self.fingerprints.update(fingerprints(self.task.inputs(batch)))
        if self.most is not None and len(self.fingerprints) > self.most:
            if not self.refuses:
                self._gave_up, self.fingerprints = True, set()
                return
            raise MisconfigurationException(
                f"reference models: folds need inputs that are the same whenever they are loaded, to know which model has seen "
                f"which, but {self.most} samples gave {len(self.fingerprints)} different inputs or more; move random "
                "augmentation into training_step, or pad all of them to one length, or hold data out with HoldOutDataModule "
                "instead of folds"
            )

    def _rows(self, batch: Any) -> Rows:
        """Take a batch for rows, on the axis that is as long as the loader's batches if the task knows no better."""
        if self.task.is_ready or self.batch_size is None:
            return self.task.rows(batch)
        try:
            return rows_of_batches([batch], [self.batch_size])[0]
        except ValueError:  # A last batch that is smaller.
            return self.task.rows(batch)


class EpochProgress(Callback):
    """Counts epochs on a progress bar.

    Args:
        bar: The bar.
    """

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an epoch."""
        self.bar.update()


class KeepBestWeights(Callback):
    """Stop the training of a reference model when its loss on inputs kept from it stops falling, and keep its best weights.

    The loss is measured after each epoch, and the training goes on exactly as it would without. Patience begins to count when
    the loss has first fallen clearly below its value before the training: where learning begins slowly, by a schedule that
    warms up or on little data, nothing would be learned otherwise.

    Args:
        loader: Loads the inputs that are kept from the training, in order.
        task: Runs the model and has the loss.
        patience: Epochs without a smaller loss before the training stops, once it has fallen.

    Attributes:
        loss_before: The mean loss before the training; NaN as long as it has not begun.
        best_loss: The smallest mean loss so far; infinity before the first epoch.
        best_weights: The state dict then, on the CPU; ``None`` as long as no loss was finite.
        best_epoch: How many epochs were completed then.
        losses: The mean loss after each epoch.
        fingerprints: Fingerprints of the inputs kept from the training.
    """

    def __init__(self, loader: DataLoader[Any], task: Task, patience: int) -> None:
        self.loader = loader
        self.task = task
        self.patience = patience
        self.loss_before = math.nan
        self.best_loss = math.inf
        self.best_weights: dict[str, Any] | None = None
        self.best_epoch = 0
        self.losses: list[float] = []
        self.fingerprints: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the loss before the training: learning is told by it, and it does not fail after the first epoch."""
        try:
            self.loss_before = self._mean_loss(trainer, pl_module)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise MisconfigurationException(
                f"reference models: the loss that decides when to stop cannot be computed: {error!r}; pass the task that the "
                "monitor gets, or training=ReferenceTraining(patience=None)"
            ) from error

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the loss with the best one, and stop the training if that was too long ago."""
        epoch = trainer.current_epoch + 1
        loss = self._mean_loss(trainer, pl_module)
        self.losses.append(loss)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self.best_weights = {
                name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
                for name, value in pl_module.state_dict().items()
            }
        elif epoch - self.best_epoch >= self.patience and has_fallen(self.best_loss, self.loss_before):
            trainer.should_stop = True

    def _mean_loss(self, trainer: Trainer, pl_module: LightningModule) -> float:
        with _undisturbed(trainer, pl_module, self.loader) as shadow:
            groups = _read(trainer, shadow, self.loader, self.task)
            return self.task.mean_loss(shadow, self._taken_down(groups) if not self.fingerprints else groups)

    def _taken_down(self, groups: Iterator[ProbeGroup]) -> Iterator[ProbeGroup]:
        for group in groups:
            self.fingerprints.update(fingerprints(group.inputs))
            yield group


class Introduction(Callback):
    """Lets a task find out what a module's step does, as soon as a Trainer has it set up; for a Trainer that does not train.

    Args:
        task: The task.
        batches: A few batches as the loader gives them, of different sizes if possible.
        sizes: How many samples are in each.
    """

    def __init__(self, task: Task, batches: Sequence[Any], sizes: Sequence[int]) -> None:
        self.task = task
        self.batches = batches
        self.sizes = sizes

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the step on the batches, and stop before the first one of training."""
        trainer.should_stop = True
        with shadowed(pl_module, pl_module.device, 0, trainer) as shadow:
            moved = [transfer(trainer, shadow, batch) for batch in self.batches]
            for rows in rows_of_batches(moved, self.sizes):
                _read_if_any(self.task, shadow, rows)


class SetUpAlone(Callback):
    """Ends a Trainer's run when everything is set up."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the first step of training."""
        trainer.should_stop = True


@contextmanager
def _undisturbed(trainer: Trainer, model: LightningModule, loader: DataLoader[Any]) -> Iterator[LightningModule]:
    """Leave model and generators as they were; random transforms give the same inputs at every look."""
    with shadowed(model, model.device, 0, trainer) as shadow, data_as_found(loader):
        yield shadow


def _read(trainer: Trainer, model: LightningModule, loader: DataLoader[Any], task: Task) -> Iterator[ProbeGroup]:
    """Find inputs and targets in all batches of a loader, one batch after the other.

    The Trainer's precision is on while these are read, and while whoever asks for them works with them.

    Args:
        trainer: The Trainer that has the model set up.
        model: A copy of it to be run.
        loader: The loader.
        task: Finds inputs and targets in a batch.
    """
    for batch in loader:
        moved = transfer(trainer, model, batch)
        with trainer.precision_plugin.forward_context():
            for group in _read_if_any(task, model, task.rows(moved)):
                yield from group.split(task.largest_batch)


def _read_if_any(task: Task, model: LightningModule, rows: Rows) -> Sequence[ProbeGroup]:
    """Find inputs and targets in a batch; nothing where no target counts."""
    try:
        return task.read(model, rows).groups
    except IgnoredError:
        return []
