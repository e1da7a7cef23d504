"""Callbacks that watch the training of a reference model: what it sees, and when it is best."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interactions.callbacks.probe_drawing import to_device
from lightning_interactions.evidence import fingerprints
from lightning_interactions.game.evaluation import Forward
from lightning_interactions.game.losses import Loss, losses_of_inputs
from lightning_interactions.game.scores import Score
from lightning_interactions.measuring.generators import preserve_generators
from lightning_interactions.measuring.isolation import in_precision_of, leave_no_trace
from lightning_interactions.measuring.probes import Unpack

__all__ = ["KeepBestWeights", "ScoreInputs", "SeenInputs"]


class SeenInputs(Callback):
    """Collects the fingerprints of all inputs that a run trains on.

    Args:
        unpack: Finds inputs and targets in a batch.
        most: Refuse more different inputs than this: the number of samples, where each must be the same whenever it is
            loaded. Infinity for any number.

    Attributes:
        fingerprints: Fingerprints of the inputs so far.
    """

    def __init__(self, unpack: Unpack, most: float = math.inf) -> None:
        self.unpack = unpack
        self.most = most
        self.fingerprints: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the inputs down."""
        inputs, _ = self.unpack(batch)
        self.fingerprints.update(fingerprints(inputs))
        if len(self.fingerprints) > self.most:
            raise MisconfigurationException(
                f"fit_reference_models: folds need inputs that are the same whenever they are loaded, to know which model has "
                f"seen which, but {self.most} samples gave {len(self.fingerprints)} different inputs or more; move random "
                "augmentation into training_step, or hold data out with HoldOutReferences instead of folds"
            )


class KeepBestWeights(Callback):
    """Stop the training of a reference model when its loss on inputs kept from it stops falling, and keep its best weights.

    The loss is measured after each epoch, and the training goes on exactly as it would without.

    Args:
        loader: Loads the inputs that are kept from the training, in order.
        unpack: Finds inputs and targets in a batch.
        forward: Gets the model's outputs.
        score: Scores them.
        loss: The loss of each input, a function of scores and targets.
        patience: Epochs without a smaller loss before the training stops.

    Attributes:
        best_loss: The smallest mean loss so far; infinity before the first epoch.
        best_weights: The state dict then, on the CPU; ``None`` as long as no loss was finite.
        best_epoch: How many epochs were completed then.
        fingerprints: Fingerprints of the inputs kept from the training.
    """

    def __init__(
        self, loader: DataLoader[Any], unpack: Unpack, forward: Forward, score: Score, loss: Loss, patience: int
    ) -> None:
        self.loader = loader
        self.unpack = unpack
        self.forward = forward
        self.score = score
        self.loss = loss
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
                f"fit_reference_models: the loss that decides when to stop cannot be computed: {error!r}; pass the unpack, "
                "forward, score and loss that the monitor gets, or early_stopping=False"
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
        note = (lambda inputs: self.fingerprints.update(fingerprints(inputs))) if not self.fingerprints else None
        scores, targets = _scores_of(trainer, pl_module, self.loader, self.unpack, self.forward, self.score, note)
        return losses_of_inputs(self.loss, scores, targets).mean().item()


class ScoreInputs(Callback):
    """Scores a model on inputs as soon as a Trainer has it set up; for a Trainer that does not train.

    Args:
        loader: Loads the inputs, in order.
        unpack: Finds inputs and targets in a batch.
        forward: Gets the model's outputs.
        score: Scores them.

    Attributes:
        scores: ``[inputs]``, float64 on the CPU; empty before.
    """

    def __init__(self, loader: DataLoader[Any], unpack: Unpack, forward: Forward, score: Score) -> None:
        self.loader = loader
        self.unpack = unpack
        self.forward = forward
        self.score = score
        self.scores = torch.empty(0, dtype=torch.float64)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score all inputs, and stop before the first batch; schedules see the same number of epochs as in a training."""
        trainer.should_stop = True
        self.scores, _ = _scores_of(trainer, pl_module, self.loader, self.unpack, self.forward, self.score)


def _scores_of(
    trainer: Trainer,
    model: LightningModule,
    loader: DataLoader[Any],
    unpack: Unpack,
    forward: Forward,
    score: Score,
    note_inputs: Callable[[Tensor], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Score all inputs of a loader, and leave model and generators as they were; scores in float64 and targets, on the CPU."""
    forward = in_precision_of(trainer, forward)
    scores, all_targets = [], []
    # Random transforms give the same inputs at every look.
    with leave_no_trace(model, model.device, seed=0), preserve_generators(loader):
        for batch in loader:
            inputs, targets = unpack(to_device(trainer, batch))
            if note_inputs is not None:
                note_inputs(inputs)
            outputs = forward(model, inputs)
            if isinstance(outputs, Tensor) and outputs.is_floating_point():
                outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            scores.append(score(outputs, targets).double().cpu())
            all_targets.append(targets.cpu())
    return torch.cat(scores), torch.cat(all_targets)
