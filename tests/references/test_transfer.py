from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_interactions.references import HoldOutDataModule
from lightning_interactions.references.transfer import transfer
from tests.helpers.models import PlainTabularClassifier, TabularClassifier, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer

pytestmark = TINY_SET_UP


class Converting:
    """Changes a batch in every hook that Lightning has, and augments in training alone."""

    trainer: Any

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 1, batch[1]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch[0].to(device) * 2 + dataloader_idx, batch[1].to(device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.seen = getattr(self, "seen", 0) + 1
        if self.trainer.training:
            return batch[0] + torch.randn_like(batch[0]), batch[1]
        assert self.trainer.validating or self.trainer.sanity_checking
        return batch[0] - 3, batch[1]


class ConvertingModule(Converting, TabularClassifier):
    trainer: Any


class ConvertingData(Converting, LightningDataModule):
    def train_dataloader(self) -> Any:
        return tabular_loader(8)

    def val_dataloader(self) -> Any:
        return tabular_loader(8, seed=1)


class Transfers(Callback):
    """Moves a batch in training, as a validation step would get it."""

    def __init__(self, dataloader_idx: int = 0) -> None:
        self.dataloader_idx = dataloader_idx
        self.moved: list[Tensor] = []
        self.validated: list[Tensor] = []
        self.seen: list[int] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        data: Any = trainer.datamodule
        data = data.inner if isinstance(data, HoldOutDataModule) else data
        owner = data if isinstance(data, Converting) else pl_module
        before = getattr(owner, "seen", 0)
        self.moved.append(transfer(trainer, pl_module, next(iter(trainer.val_dataloaders)), self.dataloader_idx)[0])
        self.seen.append(getattr(owner, "seen", 0) - before)
        assert trainer.training

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not batch_idx:
            self.validated.append(batch[0])


@pytest.mark.parametrize("data", [None, ConvertingData(), HoldOutDataModule(ConvertingData())])
def test_a_batch_is_moved_as_before_a_validation_step(tmp_path: Path, data: Any) -> None:
    notes = Transfers()
    trainer = quiet_trainer(tmp_path, callbacks=[notes], max_epochs=1, precision="64-true")
    if data is None:
        trainer.fit(ConvertingModule(), tabular_loader(8), tabular_loader(8, seed=1))
    else:
        trainer.fit(TabularClassifier(), datamodule=data)
    assert notes.moved[0].dtype == torch.float64
    assert torch.equal(notes.moved[0], notes.validated[-1])
    # What the data module counts is as it was; the module that is measured is a copy, or its owner's to restore.
    assert set(notes.seen) == {1 if data is None else 0}


def test_the_loader_of_the_batch_is_told(tmp_path: Path) -> None:
    moved = []
    for index in (0, 5):
        notes = Transfers(index)
        quiet_trainer(tmp_path, callbacks=[notes], max_epochs=1).fit(
            ConvertingModule(), tabular_loader(8), tabular_loader(8, seed=1)
        )
        moved.append(notes.moved[0])
    assert torch.allclose(moved[0] + 5, moved[1])


def test_hooks_of_a_copy_are_those_that_run(tmp_path: Path) -> None:
    class Copies(Callback):
        moved: Any = None

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            copied = ConvertingModule()
            copied.trainer = trainer
            self.moved = transfer(trainer, copied, (torch.zeros(2, 4), torch.zeros(2)))
            assert copied.seen == 1
            assert not hasattr(pl_module, "seen")

    copies = Copies()
    quiet_trainer(tmp_path, callbacks=[copies], max_epochs=1).fit(PlainTabularClassifier(), tabular_loader(8))
    assert torch.equal(copies.moved[0], torch.full((2, 4), -1.0))


def test_the_stage_comes_back_when_a_hook_fails(tmp_path: Path) -> None:
    class Failing(LightningDataModule):
        calls = 0

        def train_dataloader(self) -> Any:
            return tabular_loader(8)

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.calls += 1
            if self.trainer is not None and self.trainer.validating:
                raise RuntimeError("only training")
            return batch

    class Tries(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with pytest.raises(RuntimeError, match="only training"):
                transfer(trainer, pl_module, (torch.zeros(2, 4), torch.zeros(2)))
            assert trainer.training
            assert trainer.datamodule.calls == 0  # type: ignore[attr-defined]

    quiet_trainer(tmp_path, callbacks=[Tries()], max_epochs=1).fit(PlainTabularClassifier(), datamodule=Failing())
