"""What Lightning keeps under private names and we need: all of it is here, and each has a test."""

from typing import Any

from lightning.pytorch import LightningDataModule, Trainer

__all__ = ["share_hyperparameters", "steps_logged", "to_device"]


def to_device(trainer: Trainer, batch: Any) -> Any:
    """Convert and move a batch as the Trainer does before a step, the hooks of module and data module included."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch)


def steps_logged(trainer: Trainer) -> int:
    """Return the step at which the Trainer logs: optimizer steps that are taken together count once."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def share_hyperparameters(data_module: LightningDataModule, other: LightningDataModule) -> None:
    """Let loggers write a data module's hyperparameters if those of another one are to be written."""
    data_module._log_hyperparams = other._log_hyperparams
