"""Modules, data modules and Trainers of ``import pytorch_lightning``, whose classes are others than those of ``lightning``."""

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping
from lightning_interactions.callbacks.phase_early_stopping import PhaseStoppingReason
from lightning_interactions.records import Rows, fingerprints
from lightning_interactions.references import HeldOutReferences, HoldOutDataModule, Twins, fit_reference_models
from lightning_interactions.references.internals import classes, data_module_class, trainer_class
from tests.callbacks.runs import assert_same_history, few, script_phases
from tests.helpers.models import PlainTabularClassifier, tabular_data, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer
from tests.references.fits import trained

pytestmark = TINY_SET_UP


class Noted(pytorch_lightning.Callback):
    """Notes which kind of Trainer calls it."""

    trainers: list[str] = []  # noqa: RUF012 - of all its copies

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        Noted.trainers.append(type(trainer).__module__)


class Other(pytorch_lightning.LightningModule):
    """A classifier of the other package, without a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def training_step(self, batch: Any, _batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OtherData(pytorch_lightning.LightningDataModule):
    """Doubles every input after the transfer."""

    def setup(self, stage: str) -> None:
        self.training, self.validation = tabular_data(40, seed=2), tabular_data(16, seed=1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.training, batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, batch_size=8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return 2 * batch[0], batch[1]


def other_trainer(root: Path, **options: Any) -> Any:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": root,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pytorch_lightning.Trainer(**{**settings, **options})


def doubled() -> set[str]:
    return set(fingerprints(Rows.of(2 * tabular_data(40, seed=2).tensors[0])))


QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "barebones": False}


def test_the_trainer_is_the_one_of_the_modules_package() -> None:
    assert trainer_class(Other()) is pytorch_lightning.Trainer
    assert trainer_class(PlainTabularClassifier()) is lightning.pytorch.Trainer
    assert data_module_class(pytorch_lightning.Trainer(**QUIET)) is pytorch_lightning.LightningDataModule
    assert data_module_class(None) is lightning.pytorch.LightningDataModule
    assert classes("LightningModule") == (lightning.pytorch.LightningModule, pytorch_lightning.LightningModule)
    of_callbacks = (lightning.pytorch.callbacks.Checkpoint, pytorch_lightning.callbacks.Checkpoint)
    assert classes("Checkpoint", "callbacks") == of_callbacks


def test_both_packages_give_the_same_history(tmp_path: Path) -> None:
    own, other = few(), few()
    torch.manual_seed(0)
    model = Other()
    steps = {name: vars(Other)[name] for name in ("training_step", "validation_step", "configure_optimizers")}
    twin: Any = type("Twin", (lightning.pytorch.LightningModule,), steps)()
    twin.network = copy.deepcopy(model.network)
    loaders = tabular_loader(24), tabular_loader(16, seed=1)
    quiet_trainer(tmp_path, callbacks=[own], max_epochs=2).fit(twin, *loaders)
    other_trainer(tmp_path, callbacks=[other], max_epochs=2).fit(model, *loaders)
    assert len(other.history) == len(own.history) == 3
    assert_same_history(other.history, own.history, 1e-6)


@pytest.mark.slow
def test_a_phase_stops_a_run_and_its_onset_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 3, 3, 3])
    monitor, stopping = few(), PhaseEarlyStopping(phase=3, restore_best=True, verbose=False)
    saver = pytorch_lightning.callbacks.ModelCheckpoint(tmp_path / "saved")
    logger = pytorch_lightning.loggers.TensorBoardLogger(tmp_path)
    trainer = other_trainer(
        tmp_path, callbacks=[stopping, monitor, saver], max_epochs=8, enable_checkpointing=True, logger=logger
    )
    trainer.fit(Other(), tabular_loader(24), tabular_loader(16, seed=1))
    assert stopping.stopping_reason is PhaseStoppingReason.PHASE_ONSET
    assert stopping.onset_epoch == 2
    assert trainer.current_epoch < 8
    assert Path(stopping.best_model_path).parent == tmp_path / "saved"
    again = other_trainer(tmp_path)
    again.validate(Other(), tabular_loader(16, seed=1), ckpt_path=stopping.best_model_path)


@pytest.mark.slow
def test_reference_models_are_trained_by_the_other_trainer() -> None:
    Noted.trainers.clear()
    for options in ({}, {"folds": 2, "num_models": 1}):
        loader = DataLoader(tabular_data(40, seed=2), batch_size=8)
        references = fit_reference_models(
            Other(),
            loader,
            **options,
            training=trained(callbacks=[Noted()], patience=None),
        )
        assert all(isinstance(model, Other) for model in references.models)
    assert set(Noted.trainers) == {"pytorch_lightning.trainer.trainer"}


@pytest.mark.parametrize("folds", [None, 2])
def test_reference_models_of_a_data_module_see_what_it_gives(folds: int | None) -> None:
    data = OtherData() if folds else HoldOutDataModule(OtherData(), fraction=0.5)
    references = fit_reference_models(Other(), data, folds=folds, num_models=1, training=trained(patience=None))
    seen = set().union(*references.seen)
    assert seen <= doubled()
    assert len(seen) == (40 if folds else 20)


@pytest.mark.parametrize("data", ["loaders", "data module"])
@pytest.mark.parametrize("kind", [Twins, HeldOutReferences])
@pytest.mark.slow
def test_evidence_fits_itself_in_a_run(tmp_path: Path, data: str, kind: Any) -> None:
    evidence = kind(training=trained(patience=None))
    monitor = few(evidence=evidence)
    trainer = other_trainer(tmp_path, callbacks=[monitor])
    loaders = DataLoader(tabular_data(40, seed=2), batch_size=8), tabular_loader(16, seed=1)
    if kind is Twins and data == "loaders":
        trainer.fit(Other(), *loaders)
    elif kind is Twins:
        trainer.fit(Other(), datamodule=OtherData())
    else:
        trainer.fit(Other(), datamodule=HoldOutDataModule(*([OtherData()] if data == "data module" else loaders)))
    assert len(monitor.history) == 2
    assert all(isinstance(model, Other) for model in evidence.references.models)


def test_a_module_and_a_data_module_that_hold_out_keep_their_trainer(tmp_path: Path) -> None:
    inner = OtherData()
    data = HoldOutDataModule(inner)
    assert isinstance(data, pytorch_lightning.LightningDataModule)
    assert isinstance(data, lightning.pytorch.LightningDataModule)
    for copied in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert isinstance(copied, HoldOutDataModule)
        assert copied.inner is not inner
        assert (copied.fraction, copied.seed) == (data.fraction, data.seed)
    trainer = other_trainer(tmp_path, callbacks=[few()])
    trainer.fit(Other(), datamodule=data)
    assert inner.trainer is data.trainer is trainer


def test_sharding_is_refused_by_whichever_strategy(tmp_path: Path) -> None:
    monitor = InteractionMonitor()
    trainer = other_trainer(tmp_path)
    trainer.strategy.__class__ = pytorch_lightning.strategies.FSDPStrategy
    with pytest.raises(lightning.fabric.utilities.exceptions.MisconfigurationException, match="FSDPStrategy"):
        monitor.setup(trainer, Other(), "fit")


def test_a_try_of_one_batch_fits_evidence_too(tmp_path: Path) -> None:
    evidence = Twins()
    monitor = few(evidence=evidence)
    trainer = other_trainer(tmp_path, callbacks=[monitor, PhaseEarlyStopping()], fast_dev_run=True, logger=True)
    loader = DataLoader(tabular_data(40, seed=2), batch_size=8)
    trainer.fit(Other(), loader, tabular_loader(16, seed=1))
    assert len(monitor.history) == 1
    assert trainer.current_epoch == 1
