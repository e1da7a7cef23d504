"""Callbacks that watch the training of a reference model: what it sees, and when it is best."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.generators import preserve_generators
from lightning_interactions.measuring.isolation import shadowed
from lightning_interactions.records import Probes, fingerprints
from lightning_interactions.references.transfer import transfer

__all__ = ["KeepBestWeights", "ScoreInputs", "SeenInputs"]

Scorer = Callable[[nn.Module, Any, Any], Tensor]
"""Scores a model on inputs and targets, ``[inputs]``."""


class SeenInputs(Callback):
    """Collects the fingerprints of all inputs that a run trains on.

    Args:
        task: Finds inputs and targets in a batch.
        most: Refuse more different inputs than this: the number of samples, where each must be the same whenever it is
            loaded. ``None`` for any number.

    Attributes:
        fingerprints: Fingerprints of the inputs so far.
    """

    def __init__(self, task: Task, most: int | None = None) -> None:
        self.task = task
        self.most = most
        self.introduced = False
        self.fingerprints: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the inputs down."""
        if not self.introduced:
            with shadowed(pl_module, pl_module.device, 0, trainer) as shadow:
                self.task.read(shadow, self.task.rows(batch))
            self.introduced = True
        self.fingerprints.update(fingerprints(self.task.inputs(batch)))
        if self.most is not None and len(self.fingerprints) > self.most:
            raise MisconfigurationException(
                f"reference models: folds need inputs that are the same whenever they are loaded, to know which model has seen "
                f"which, but {self.most} samples gave {len(self.fingerprints)} different inputs or more; move random "
                "augmentation into training_step, or hold data out with HoldOutDataModule instead of folds"
            )


class KeepBestWeights(Callback):
    """Stop the training of a reference model when its loss on inputs kept from it stops falling, and keep its best weights.

    The loss is measured after each epoch, and the training goes on exactly as it would without.

    Args:
        loader: Loads the inputs that are kept from the training, in order.
        task: Runs the model and has the loss.
        patience: Epochs without a smaller loss before the training stops.

    Attributes:
        best_loss: The smallest mean loss so far; infinity before the first epoch.
        best_weights: The state dict then, on the CPU; ``None`` as long as no loss was finite.
        best_epoch: How many epochs were completed then.
        fingerprints: Fingerprints of the inputs kept from the training.
    """

    def __init__(self, loader: DataLoader[Any], task: Task, patience: int) -> None:
        self.loader = loader
        self.task = task
        self.patience = patience
        self.best_loss = math.inf
        self.best_weights: dict[str, Any] | None = None
        self.best_epoch = 0
        self.fingerprints: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the loss once before the training, so that it does not fail after the first epoch."""
        try:
            self._mean_loss(trainer, pl_module)
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
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self.best_weights = {
                name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
                for name, value in pl_module.state_dict().items()
            }
        elif epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True

    def _mean_loss(self, trainer: Trainer, pl_module: LightningModule) -> float:
        with _undisturbed(trainer, pl_module, self.loader) as shadow:
            parts = list(_read(trainer, shadow, self.loader, self.task))
            if not self.fingerprints:
                self.fingerprints.update(digest for probes in parts for digest in probes.fingerprints)
            probes = Probes.joined(*(group for part in parts for group in part.groups))
            with trainer.precision_plugin.forward_context():
                return self.task.mean_loss(shadow, probes)


class ScoreInputs(Callback):
    """Scores a model on inputs as soon as a Trainer has it set up; for a Trainer that does not train.

    Args:
        loader: Loads the inputs, in order.
        task: Finds inputs and targets in a batch.
        score: Scores the model on them.

    Attributes:
        scores: ``[inputs]``, float64 on the CPU; empty before.
    """

    def __init__(self, loader: DataLoader[Any], task: Task, score: Scorer) -> None:
        self.loader = loader
        self.task = task
        self.score = score
        self.scores = torch.empty(0, dtype=torch.float64)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score all inputs, and stop before the first batch; schedules see the same number of epochs as in a training."""
        trainer.should_stop = True
        with _undisturbed(trainer, pl_module, self.loader) as shadow:
            scores = []
            for probes in _read(trainer, shadow, self.loader, self.task):
                with trainer.precision_plugin.forward_context():
                    scores += [
                        self.score(shadow, group.inputs.tree, group.targets.tree).double().cpu() for group in probes.groups
                    ]
            self.scores = torch.cat(scores)


@contextmanager
def _undisturbed(trainer: Trainer, model: LightningModule, loader: DataLoader[Any]) -> Iterator[LightningModule]:
    """Leave model and generators as they were; random transforms give the same inputs at every look."""
    with shadowed(model, model.device, 0, trainer) as shadow, preserve_generators(loader):
        yield shadow


def _read(trainer: Trainer, model: LightningModule, loader: DataLoader[Any], task: Task) -> Iterator[Probes]:
    """Find inputs and targets in all batches of a loader."""
    for batch in loader:
        yield task.read(model, task.rows(transfer(trainer, model, batch)))
