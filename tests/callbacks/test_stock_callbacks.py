"""The recipes for Lightning's own EarlyStopping and ModelCheckpoint, as the docstring of PhaseEarlyStopping gives them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from lightning_interactions.callbacks import loggers
from lightning_interactions.schedules import EveryNEpochs
from tests.callbacks.runs import TINY_SET_UP, few, quiet_trainer, script_phases
from tests.helpers.models import TabularClassifier, tabular_loader

pytestmark = TINY_SET_UP


def fit(root: Path, *callbacks: Callback, every: int = 1, epochs: int = 8, **options: Any) -> Trainer:
    monitor = few(training=2, held_out=2, schedule=EveryNEpochs(every))
    settings = {"callbacks": [monitor, *callbacks], "enable_checkpointing": True, **options}
    trainer = quiet_trainer(root, max_epochs=epochs, **settings)
    trainer.fit(TabularClassifier(), tabular_loader(8), tabular_loader(8, seed=1))
    return trainer


@pytest.mark.parametrize(
    ("every", "check_val_every_n_epoch", "scripted", "epochs"),
    # At epochs 0, 1, 2, 3, or 0, 2, 4.
    [(1, 1, [1, 1, 2, 3], 3), (1, 2, [1, 1, 2, 3], 3), (2, 1, [1, 2, 3], 4), (2, 3, [1, 2, 3], 4), (2, 1, [1, 2], 8)],
)
@pytest.mark.slow
def test_early_stopping_at_phase_3(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    check_val_every_n_epoch: int,
    scripted: list[int],
    epochs: int,
) -> None:
    script_phases(monkeypatch, scripted)
    stopping = EarlyStopping(
        "interactions/phase", mode="max", stopping_threshold=2.5, patience=8, strict=False, check_on_train_epoch_end=True
    )
    trainer = fit(tmp_path, stopping, every=every, check_val_every_n_epoch=check_val_every_n_epoch)
    assert trainer.current_epoch == epochs
    reached = EarlyStoppingReason.STOPPING_THRESHOLD if epochs < 8 else EarlyStoppingReason.NOT_STOPPED
    assert stopping.stopping_reason is reached


def test_early_stopping_counts_old_values_as_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Why patience has to be large: it counts epochs, and a phase that stays is no improvement.
    script_phases(monkeypatch, [1])
    stopping = EarlyStopping("interactions/phase", mode="max", patience=3, strict=False, check_on_train_epoch_end=True)
    assert fit(tmp_path, stopping, every=2).current_epoch == 5


@pytest.mark.slow
@pytest.mark.parametrize(("every", "check_val_every_n_epoch", "best"), [(1, 1, 3), (1, 2, 3), (2, 1, 6), (2, 3, 6)])
def test_model_checkpoint_keeps_the_model_that_was_measured_as_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, check_val_every_n_epoch: int, best: int
) -> None:
    scalars = loggers.scalars

    def scripted(measurement: Any, *args: Any, **options: Any) -> dict[str, float]:
        return {
            **scalars(measurement, *args, **options),
            "interactions/expected_test_loss": float(abs(measurement.time.epoch - best)),
        }

    monkeypatch.setattr(loggers, "scalars", scripted)
    saver = ModelCheckpoint(
        tmp_path, monitor="interactions/expected_test_loss", mode="min", every_n_epochs=every, save_on_train_epoch_end=True
    )
    fit(tmp_path, saver, every=every, check_val_every_n_epoch=check_val_every_n_epoch)
    assert saver.best_model_score == 0
    checkpoint = torch.load(saver.best_model_path, weights_only=True)
    history = next(state["history"] for state in checkpoint["callbacks"].values() if "history" in state)
    # Both the weights and the measurement are of this epoch; Lightning counts from zero.
    assert checkpoint["epoch"] == best - 1
    assert history["times"][-1] == [best, checkpoint["global_step"]]
