from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader

from lightning_interactions.references.internals import (
    batch_hook_owner,
    default_store,
    in_hook,
    is_sequential,
    share_hyperparameters,
    steps_logged,
    training_loaders,
    trains_elsewhere,
    validation_set_up,
)
from tests.helpers.models import PlainTabularClassifier, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer
from tests.references.fits import Tables

pytestmark = TINY_SET_UP

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class Notes(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.owners: list[object] = []
        self.loaders: list[CombinedLoader | None] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.owners = [batch_hook_owner(trainer, hook) for hook in HOOKS]
        with validation_set_up(trainer) as loaders:
            self.loaders = [training_loaders(trainer), loaders]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(steps_logged(trainer))


def run(root: Path, model: LightningModule, **options: Any) -> Notes:
    notes = Notes()
    quiet_trainer(root, callbacks=[notes], max_epochs=1, **options).fit(model, tabular_loader(32))
    return notes


class OneHook(LightningDataModule):
    def train_dataloader(self) -> Any:
        return tabular_loader(16)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


def test_hooks_are_those_of_the_data_module_where_it_has_them(tmp_path: Path) -> None:
    model, data, notes = PlainTabularClassifier(), OneHook(), Notes()
    quiet_trainer(tmp_path, callbacks=[notes], max_epochs=1).fit(model, datamodule=data)
    assert notes.owners == [model, model, data]
    assert run(tmp_path, model).owners == [model] * 3


def test_a_module_knows_in_which_hook_it_is() -> None:
    model = PlainTabularClassifier()
    with in_hook(model, "on_after_batch_transfer"):
        assert model._current_fx_name == "on_after_batch_transfer"
    assert model._current_fx_name is None


def test_loaders_are_those_of_the_trainer(tmp_path: Path) -> None:
    training, first, second = tabular_loader(16), tabular_loader(8, seed=1), tabular_loader(8, seed=2)
    notes = Notes()
    trainer = quiet_trainer(tmp_path, callbacks=[notes], max_epochs=1, limit_train_batches=1)
    trainer.fit(TwoValidations(), training, [first, second])
    of_training, of_validation = notes.loaders
    assert of_training is not None
    assert of_validation is not None
    assert [loader.dataset for loader in of_training.flattened] == [training.dataset]
    assert of_training.limits == [1]
    assert [loader.dataset for loader in of_validation.flattened] == [first.dataset, second.dataset]
    assert is_sequential(of_validation)
    assert not is_sequential(CombinedLoader([first, second], "min_size"))
    assert run(tmp_path, PlainTabularClassifier()).loaders[1] is None


def test_validation_that_is_set_up_early_is_set_up_once_more_in_its_time(tmp_path: Path) -> None:
    class Draws(OneHook):
        made = 0

        def val_dataloader(self) -> Any:
            self.made += 1
            return tabular_loader(8, seed=self.made)

    class Early(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with validation_set_up(trainer) as loaders:
                self.early = loaders
            assert data.made == 0
            assert trainer.training

    data, early = Draws(), Early()
    options = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}
    quiet_trainer(tmp_path, callbacks=[early], **options).fit(TwoValidations(), datamodule=data)
    assert early.early is not None
    assert data.made == 1


class TwoValidations(PlainTabularClassifier):
    def validation_step(self, batch: Any, _batch_index: int, dataloader_idx: int = 0) -> None:
        pass


def test_steps_are_those_of_the_loggers(tmp_path: Path) -> None:
    assert run(tmp_path, PlainTabularClassifier()).steps == [0, 1, 2, 3]
    assert run(tmp_path, PlainTabularClassifier(), accumulate_grad_batches=2).steps == [0, 0, 1, 1]


def test_hyperparameters_are_logged_if_the_other_data_modules_are() -> None:
    for other, logged in ((Tables(), True), (LightningDataModule(), False)):
        own = LightningDataModule()
        share_hyperparameters(own, other)
        assert own._log_hyperparams is logged


def test_the_store_is_that_of_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = torch.distributed.FileStore(str(tmp_path / "meeting"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        default_store().set("word", "here")
        assert default_store().check(["word"])
        assert default_store().get("word") == b"here"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("strategy", "elsewhere"), [("ddp_spawn", True), ("ddp_fork", True), ("ddp", False), ("auto", False)])
def test_processes_that_end_with_the_training_are_known(tmp_path: Path, strategy: str, elsewhere: bool) -> None:
    assert trains_elsewhere(quiet_trainer(tmp_path, strategy=strategy)) == elsewhere
