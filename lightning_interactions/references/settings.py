"""How many reference models are trained, on which parts of the data, and how."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_interactions.evidence.reference_models import votes_needed

__all__ = ["TWINS", "Ensemble", "ReferenceTraining", "in_run"]

NUM_MODELS, NUM_MODELS_OF_FOLD = 3, 1
"""Where the user leaves them open: the papers' number, and one for each part of the run's own data: more were no better."""

EPOCHS_WITH_STOPPING, EPOCHS_WITHOUT = 50, 15

QUIET = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@dataclass(frozen=True)
class ReferenceTraining:
    """How each reference model is trained.

    Attributes:
        max_epochs: Epochs, at most. If left out, 50 with early stopping and 15 without, and no more than the run trains if they
            are trained in one.
        patience: Epochs without a smaller loss on a fifth of the data, kept from the training, before it stops; they count
            once that loss has fallen by 1 % from its value before the training. The weights with the smallest loss are kept.
            ``None`` to train on all of the data to the end.
        seed: Seed of the parts and of the first model; the other models follow.
        factory: Makes a freshly initialised module. Needed for fine-tuning and for parameters without an initialiser; may
            make another architecture that takes the same inputs and gives the same kind of outputs.
        val_dataloaders: Data for the module's validation step, for schedules or callbacks that watch it.
        trainer: More arguments of the :class:`lightning.pytorch.Trainer`.

    Raises:
        MisconfigurationException: If a number is too small.
    """

    max_epochs: int | None = None
    patience: int | None = 5
    seed: int = 0
    factory: Callable[[], LightningModule] | None = None
    val_dataloaders: Any = None
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name in ("max_epochs", "patience"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise MisconfigurationException(f"ReferenceTraining: expected {name} of at least 1, or none, got {number}")

    def trainer_arguments(self, *, stops: bool, most_epochs: float = math.inf) -> dict[str, Any]:
        """Return the arguments of every model's Trainer.

        Args:
            stops: Whether the trainings are stopped early.
            most_epochs: Of each training, if the user has not said how many.
        """
        usual = EPOCHS_WITH_STOPPING if stops else EPOCHS_WITHOUT
        max_epochs = int(min(usual, most_epochs)) if self.max_epochs is None else self.max_epochs
        return {**QUIET, "devices": 1, "max_epochs": max_epochs, **self.trainer}


@dataclass(frozen=True)
class Ensemble:
    """How many models are trained, on which parts of the data, and how many of them must agree.

    Attributes:
        folds: Number of parts for cross-fitting; ``None`` for one part that the run never trains on.
        num_models: Number of models, for each part.
        vote: How many of an input's raters must share an interaction.
    """

    folds: int | None
    num_models: int
    vote: str | int

    @property
    def called(self) -> str:
        """What the models are called to the user."""
        return "twins" if (self.folds, self.num_models) == (2, 1) else "reference models"

    @classmethod
    def of(cls, folds: int | None, num_models: int | None, vote: str | int) -> "Ensemble":
        """Fill in what is left out.

        Raises:
            MisconfigurationException: If a number is too small, or the vote has no such name or needs too many raters.
        """
        if num_models is None:
            num_models = NUM_MODELS if folds is None else NUM_MODELS_OF_FOLD
        if num_models < 1 or (folds is not None and folds < 2):
            raise MisconfigurationException(
                f"reference models: expected num_models of at least 1, and folds of at least 2 or none, got "
                f"num_models={num_models} and folds={folds}"
            )
        try:
            votes_needed(vote, num_models)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        return cls(folds, num_models, vote)


TWINS = Ensemble(folds=2, num_models=1, vote="any")
"""Two models on two halves, each of which judges the other half."""


def in_run(training: ReferenceTraining, trainer: Trainer) -> ReferenceTraining:
    """Train as a run does: with its precision and on its device, so that inputs are the same in both; with its gradients.

    Where a schedule of the learning rate watches a metric, its validation loaders are there for the module's own step.

    Args:
        training: The user's settings, which come first.
        trainer: The Trainer of the run. Under ``fast_dev_run`` each model is trained on a batch.
    """
    device = trainer.strategy.root_device
    of_run: dict[str, Any] = {
        "precision": trainer.precision,
        "accelerator": device.type,
        "devices": 1 if device.index is None or device.type == "cpu" else [device.index],
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": trainer.gradient_clip_algorithm,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }
    if training.val_dataloaders is None and any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs):
        training = replace(training, val_dataloaders=trainer.val_dataloaders)
        of_run["limit_val_batches"] = trainer.limit_val_batches
    if trainer.fast_dev_run:
        one_batch = {"limit_train_batches": 1, "limit_val_batches": 1}
        return replace(training, max_epochs=1, patience=None, trainer={**of_run, **training.trainer, **one_batch})
    return replace(training, trainer={**of_run, **training.trainer})
