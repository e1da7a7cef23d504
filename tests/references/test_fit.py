import copy
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn

from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.game.tasks import Classification
from lightning_interactions.references import ReferenceTraining, fit_reference_models
from tests.helpers.models import (
    DictDataset,
    PlainTabularClassifier,
    TabularClassifier,
    UnvalidatedClassifier,
    tabular_loader,
)
from tests.helpers.trainers import TINY_SET_UP
from tests.references.fits import DATA, MadeInSetup, assert_same, fit, prints, shuffled

pytestmark = TINY_SET_UP


class DictBatches(Classification):
    def unpack(self, batch: Any) -> tuple[Any, Any]:
        return batch["x"], batch["y"]


class TwoInputs(Classification):
    """The model takes a tree of two tensors."""

    def unpack(self, batch: Any) -> tuple[Any, Any]:
        return {"left": batch[0][:, :2], "right": batch[0][:, 2:]}, batch[1]

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        return model(torch.cat([inputs["left"], inputs["right"]], dim=1))


def states() -> list[Any]:
    numpy = np.random.get_state(legacy=False)["state"]
    return [random.getstate(), numpy["key"].tolist(), numpy["pos"], torch.get_rng_state().tolist()]


def test_the_model_the_data_and_the_random_states_stay_as_they_are() -> None:
    model, generator = UnvalidatedClassifier(), torch.Generator().manual_seed(3)
    loader = tabular_loader(60, shuffle=True, generator=generator)
    kept, before, own = copy.deepcopy(model.state_dict()), states(), generator.get_state()
    fit(model, loader)
    assert states() == before
    assert torch.equal(generator.get_state(), own)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_random_states_come_back_after_an_error() -> None:
    def broken() -> LightningModule:
        torch.rand(5)
        raise KeyError("in the factory")

    model = PlainTabularClassifier()
    before = states()
    with pytest.raises(KeyError, match="in the factory"):
        fit(model, factory=broken)
    assert states() == before


def test_a_seed_gives_the_same_models_whatever_was_drawn_before() -> None:
    first = fit(UnvalidatedClassifier())
    torch.rand(7)
    assert_same(fit(UnvalidatedClassifier()), first)
    other = fit(UnvalidatedClassifier(), seed=10)
    weights = [next(references.models[0].parameters()) for references in (first, other)]
    assert not torch.equal(*weights)


def test_models_are_trained_apart_and_in_evaluation_mode() -> None:
    references = fit(num_models=3, vote="majority")
    vectors = [nn.utils.parameters_to_vector(model.parameters()) for model in references.models]
    assert len({tuple(vector.tolist()) for vector in vectors}) == 3
    assert not any(module.training for model in references.models for module in model.modules())
    assert (references.vote, references.num_raters) == ("majority", 3)


@pytest.mark.parametrize(("data", "task"), [(DATA, TwoInputs()), (DictDataset(DATA), DictBatches())], ids=["two", "dict"])
def test_a_task_finds_the_inputs(data: Any, task: Classification) -> None:
    references = fit(data=shuffled(data), task=task, num_models=1)
    (seen,) = references.seen
    assert len(seen) == 60
    if isinstance(data, DictDataset):
        assert seen == frozenset(prints(DATA.tensors[0]))


def test_nothing_is_written_and_nothing_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The '.*' does not have many workers|GPU available|.*LeafSpec|.* are no better after")
        fit(TabularClassifier())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_factory_makes_the_modules() -> None:
    made: list[LightningModule] = []

    def factory() -> LightningModule:
        made.append(PlainTabularClassifier(num_classes=4))
        return made[-1]

    references = fit(factory=factory, num_models=3)
    assert len(made) == len(references.models) == 3


@pytest.mark.parametrize("which", ["the model", "the same twice"])
def test_a_factory_that_makes_nothing_new_is_refused(which: str) -> None:
    model, other = PlainTabularClassifier(), PlainTabularClassifier()
    with pytest.raises(MisconfigurationException, match="factory"):
        fit(model, factory=lambda: model if which == "the model" else other)


def test_layers_may_be_made_in_setup() -> None:
    model = MadeInSetup(5)
    references = fit(model)
    assert isinstance(model.network, nn.Identity)
    assert [reference(DATA.tensors[0]).shape for reference in references.models] == [(60, 3), (60, 3)]


def test_trainer_arguments_and_one_callback_reach_the_trainer() -> None:
    steps: list[int] = []

    class Counts(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            steps.append(trainer.global_step)

    fit(max_epochs=3, limit_train_batches=1, callbacks=Counts())
    assert steps == [3, 3]


def test_every_model_gets_the_callbacks_in_their_first_state() -> None:
    class LogsTheSame(PlainTabularClassifier):
        def training_step(self, batch: Any, batch_index: int) -> Tensor:
            self.log("nothing", 1.0, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_index)

    epochs: list[int] = []

    class Counts(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            epochs.append(trainer.current_epoch)

    stopping = EarlyStopping("nothing", patience=2, check_on_train_epoch_end=True)
    fit(LogsTheSame(), max_epochs=5, patience=None, callbacks=[stopping, Counts()])
    assert epochs == [3, 3]


@pytest.mark.parametrize("number", ["max_epochs", "patience"])
def test_settings_of_a_training_are_checked(number: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"{number} of at least 1.* got 0"):
        replace(ReferenceTraining(), **{number: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_models": 0}, "num_models=0"),
        ({"folds": 1}, "folds=1"),
        ({"vote": "most"}, "'most'"),
        ({"vote": 3}, "from 1 to 2"),
        ({"folds": 2, "vote": 3}, "from 1 to 2"),
    ],
    ids=str,
)
def test_impossible_settings_are_named_before_any_training(options: dict[str, Any], named: str) -> None:
    class Untrainable(PlainTabularClassifier):
        def training_step(self, batch: Any, _batch_index: int) -> Tensor:
            raise AssertionError("trained")

    with pytest.raises(MisconfigurationException, match=named):
        fit(Untrainable(), **options)


def test_defaults_are_three_models_and_any_vote() -> None:
    references = fit_reference_models(
        PlainTabularClassifier(), shuffled(), training=ReferenceTraining(1, trainer={"accelerator": "cpu"})
    )
    assert (len(references.models), references.vote) == (3, "any")


def test_trained_models_are_saved_and_loaded(tmp_path: Path) -> None:
    references = fit(folds=2, patience=None)
    references.save(tmp_path / "references.pt")
    loaded = ReferenceModels.load(tmp_path / "references.pt", PlainTabularClassifier())
    assert loaded.num_raters == references.num_raters == 2
    assert_same(loaded, references)
