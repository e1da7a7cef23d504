from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from lightning_interactions.references.internals import share_hyperparameters, steps_logged, to_device
from tests.helpers.models import PlainTabularClassifier, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer
from tests.references.fits import Tables

pytestmark = TINY_SET_UP


class Converts(PlainTabularClassifier):
    """Changes a batch in every hook that Lightning has."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 1, batch[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return 2 * batch[0], batch[1]


class Notes(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.batches: list[Any] = []
        self.moved: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.moved = to_device(trainer, next(iter(tabular_loader(16))))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(steps_logged(trainer))
        self.batches.append(batch)


def run(root: Path, model: LightningModule, **options: Any) -> Notes:
    notes = Notes()
    quiet_trainer(root, callbacks=[notes], max_epochs=1, **options).fit(model, tabular_loader(32))
    return notes


def test_a_batch_is_moved_as_before_a_step(tmp_path: Path) -> None:
    notes = run(tmp_path, Converts(), precision="64-true")
    assert notes.moved[0].dtype == torch.float64
    assert all(torch.equal(own, passed) for own, passed in zip(notes.moved, notes.batches[0], strict=True))


def test_steps_are_those_of_the_loggers(tmp_path: Path) -> None:
    assert run(tmp_path, PlainTabularClassifier()).steps == [0, 1, 2, 3]
    assert run(tmp_path, PlainTabularClassifier(), accumulate_grad_batches=2).steps == [0, 0, 1, 1]


def test_hyperparameters_are_logged_if_the_other_data_modules_are() -> None:
    for other, logged in ((Tables(), True), (LightningDataModule(), False)):
        own = LightningDataModule()
        share_hyperparameters(own, other)
        assert own._log_hyperparams is logged
