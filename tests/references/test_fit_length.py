"""What a schedule is told of the length of a fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from lightning_interactions.references.fit_length import fit_length
from lightning_interactions.schedules import FitLength
from tests.helpers.models import UnvalidatedClassifier, tabular_data, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer

pytestmark = TINY_SET_UP


class Length(Callback):
    found: FitLength

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found = fit_length(trainer)
        trainer.should_stop = True


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for number in range(6):
            yield tabular_data(6)[number]


def length(root: Path, data: Any, **arguments: Any) -> FitLength:
    callback = Length()
    trainer = quiet_trainer(root, callbacks=[callback], **{"max_epochs": None, **arguments})
    trainer.fit(UnvalidatedClassifier(), data)
    return callback.found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_epochs": 7}, FitLength(7, 7 * 4, 4, 26)),
        ({"max_epochs": 7, "limit_train_batches": 2}, FitLength(7, 14, 2, 16)),
        ({"max_epochs": 7, "accumulate_grad_batches": 3}, FitLength(7, 14, 2, 26)),
        ({"max_epochs": 7, "max_steps": 10}, FitLength(3, 10, 4, 26)),
        ({"max_steps": 10}, FitLength(3, 10, 4, 26)),
        ({"max_epochs": -1}, FitLength(None, None, 4, 26)),
    ],
    ids=str,
)
def test_limits_and_loader_tell(tmp_path: Path, arguments: dict[str, Any], expected: FitLength) -> None:
    assert length(tmp_path, tabular_loader(26, batch_size=8), **arguments) == expected


def test_a_stream_has_no_length(tmp_path: Path) -> None:
    loader: DataLoader[Any] = DataLoader(Stream(), batch_size=2)
    assert length(tmp_path, loader, max_epochs=3) == FitLength(3, None, None, None)
    assert length(tmp_path, loader, max_steps=30) == FitLength(None, 30, None, None)
