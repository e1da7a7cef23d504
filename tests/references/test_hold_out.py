import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Subset, SubsetRandomSampler

from lightning_interactions.references import HoldOutDataModule, fit_reference_models
from tests.callbacks.runs import few
from tests.helpers.models import PlainTabularClassifier, StreamedDataset, TabularClassifier, tabular_data, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer
from tests.references.fits import Tables, fit, prints

pytestmark = TINY_SET_UP


class SeesInputs(Callback):
    """Notes what passes, epoch by epoch, as the model gets it."""

    def __init__(self) -> None:
        self.training: dict[int, set[str]] = {}
        self.validation: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.training.setdefault(trainer.current_epoch, set()).update(prints(batch[0]))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_args: Any) -> None:
        self.validation.update(prints(batch[0]))


def rows(loader: Any) -> set[str]:
    return {fingerprint for inputs, _ in loader for fingerprint in prints(inputs)}


def test_reference_training_and_validation_inputs_are_apart_and_complete_in_a_run(tmp_path: Path) -> None:
    data = HoldOutDataModule(Tables(), fraction=0.4)
    references = fit(TabularClassifier(), data, patience=None)
    sees = SeesInputs()
    trainer = quiet_trainer(tmp_path, callbacks=[sees], max_epochs=2, reload_dataloaders_every_n_epochs=1)
    trainer.fit(TabularClassifier(), datamodule=data)

    (seen,) = set(references.seen)
    assert sees.training[0] == sees.training[1]
    assert (len(seen), len(sees.training[0]), len(sees.validation)) == (12, 18, 10)
    assert set().union(seen, sees.training[0], sees.validation) == set(prints(2 * tabular_data(40).tensors[0]))


def test_the_data_module_is_set_up_once_and_torn_down(tmp_path: Path) -> None:
    inner = Tables()
    data = HoldOutDataModule(inner)
    fit(data=data, num_models=1, patience=None)
    assert inner.calls == ["prepare_data", "setup"]
    assert inner.trainer is None
    quiet_trainer(tmp_path, max_epochs=1).fit(TabularClassifier(), datamodule=data)
    assert inner.calls == ["prepare_data", "setup", "prepare_data", "teardown"]
    quiet_trainer(tmp_path, max_epochs=1).fit(TabularClassifier(), datamodule=data)
    assert inner.calls[-2:] == ["setup", "teardown"]


def test_hooks_see_the_trainer_of_the_run_while_it_is_measured(tmp_path: Path) -> None:
    class Looks(Tables):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            trainers.append(self.trainer)
            return super().on_after_batch_transfer(batch, dataloader_idx)

    trainers: list[Any] = []
    data = HoldOutDataModule(Looks())
    trainer = quiet_trainer(tmp_path, callbacks=[few()], max_epochs=2)
    trainer.fit(TabularClassifier(), datamodule=data)
    assert all(one is trainer for one in trainers)
    assert copy.copy(data).inner is not data.inner


def test_everything_else_is_the_inner_data_modules(tmp_path: Path) -> None:
    inner = Tables(width=4)
    data = HoldOutDataModule(inner)
    assert data.num_classes == 3
    assert dict(data.hparams) == {"width": 4}
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(TabularClassifier(), datamodule=data)
    assert inner.trainer is data.trainer is trainer
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert saved["HoldOutDataModule"] == {"calls": len(inner.calls)}
    assert saved["datamodule_hyper_parameters"] == {"width": 4}
    with pytest.raises(AttributeError, match="no_such_name"):
        data.no_such_name  # noqa: B018


def test_loaders_that_are_not_there_stay_missing(tmp_path: Path) -> None:
    class Untested(Tables):
        val_dataloader = LightningDataModule.val_dataloader

    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(PlainTabularClassifier(), datamodule=HoldOutDataModule(Untested()))
    assert trainer.num_val_batches == []
    with pytest.raises(MisconfigurationException, match="test_dataloader"):
        HoldOutDataModule(Tables()).test_dataloader()


def test_plain_loaders_are_split_too(tmp_path: Path) -> None:
    train, val = tabular_loader(30, shuffle=True), tabular_loader(8, seed=1)
    data = HoldOutDataModule(train, val, fraction=0.2)
    sees = SeesInputs()
    quiet_trainer(tmp_path, callbacks=[sees], max_epochs=1).fit(TabularClassifier(), datamodule=data)
    assert len(rows(data.reference_dataloader())) == 6
    assert sees.training[0] == rows(data.train_dataloader())
    assert sees.training[0] | rows(data.reference_dataloader()) == rows(train)
    assert sees.validation == rows(val)
    quiet_trainer(tmp_path, max_epochs=1).fit(PlainTabularClassifier(), datamodule=HoldOutDataModule(train))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))], ids=["copied", "pickled"])
def test_copies_hold_the_same_part_out(again: Any) -> None:
    data = HoldOutDataModule(tabular_loader(30, shuffle=True), tabular_loader(8), fraction=0.4)
    assert rows(again(data).reference_dataloader()) == rows(data.reference_dataloader())


def test_the_seed_decides_and_global_generators_do_not() -> None:
    state = torch.get_rng_state()
    loaders = [HoldOutDataModule(tabular_loader(30), fraction=0.4, seed=seed).reference_dataloader() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (rows(loader) for loader in loaders)
    assert first == same != other


def test_only_what_the_sampler_gives_is_split() -> None:
    data = HoldOutDataModule(
        DataLoader(tabular_data(30), batch_size=5, sampler=SubsetRandomSampler(range(10, 20))), fraction=0.5
    )
    training, reference = data.train_dataloader(), data.reference_dataloader()
    assert isinstance(training.sampler, RandomSampler)
    assert rows(training) | rows(reference) == set(prints(tabular_data(30).tensors[0][10:20]))
    assert len(rows(training)) == len(rows(reference)) == 5


def test_an_own_generator_still_decides_the_order() -> None:
    def order() -> list[Tensor]:
        loader = tabular_loader(30, shuffle=True, generator=torch.Generator().manual_seed(3))
        return [inputs for inputs, _ in HoldOutDataModule(loader).train_dataloader()]

    assert all(torch.equal(one, other) for one, other in zip(order(), order(), strict=True))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(MisconfigurationException, match=f"fraction.* got {fraction}"):
        HoldOutDataModule(tabular_loader(30), fraction=fraction)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_an_empty_part_is_refused(fraction: float) -> None:
    data = HoldOutDataModule(tabular_loader(4), fraction=fraction)
    with pytest.raises(MisconfigurationException, match=r"\d held out of 4.*fraction"):
        data.train_dataloader() if fraction > 0.5 else data.reference_dataloader()


def test_data_without_indices_is_refused() -> None:
    streamed = DataLoader(StreamedDataset(tabular_data(8), 8), batch_size=4)
    with pytest.raises(MisconfigurationException, match="got a DataLoader of StreamedDataset"):
        HoldOutDataModule(streamed).train_dataloader()


def test_several_training_loaders_are_refused() -> None:
    class Several(Tables):
        def train_dataloader(self) -> Any:
            return {"a": tabular_loader(8), "b": tabular_loader(8)}

    with pytest.raises(MisconfigurationException, match="got dict"):
        HoldOutDataModule(Several()).train_dataloader()


def test_validation_loaders_beside_a_data_module_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="val_dataloaders"):
        HoldOutDataModule(Tables(), tabular_loader(8))


def test_data_that_changes_its_length_is_refused() -> None:
    class Growing(Tables):
        length = 10

        def train_dataloader(self) -> DataLoader[Any]:
            self.length += 10
            return DataLoader(Subset(tabular_data(40), range(self.length)))

    data = HoldOutDataModule(Growing())
    data.train_dataloader()
    with pytest.raises(MisconfigurationException, match=r"20 training samples.* got 30"):
        data.reference_dataloader()


def test_a_data_module_without_reference_data_is_refused_with_a_way_out() -> None:
    with pytest.raises(MisconfigurationException, match=r"HoldOutDataModule\(Tables\(...\)\)"):
        fit_reference_models(PlainTabularClassifier(), Tables())


def test_a_data_module_with_a_reference_loader_of_its_own_needs_no_helper() -> None:
    class WithReferences(Tables):
        def reference_dataloader(self) -> DataLoader[Any]:
            return tabular_loader(8, batch_size=4, seed=5)

    references = fit(data=WithReferences(), num_models=1, patience=None)
    # The data module's transfer hook doubles them.
    assert references.seen == (frozenset(prints(2 * tabular_data(8, seed=5).tensors[0])),)
