import copy
import math
import random
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from lightning_interactions.game.tasks import Classification, Regression, Task
from lightning_interactions.references.watching import KeepBestWeights, has_fallen
from tests.helpers.models import (
    DictOutputClassifier,
    GloballyAugmentedDataset,
    PlainTabularClassifier,
    SelfAugmentedDataset,
    StreamedDataset,
    TabularClassifier,
    tabular_loader,
)
from tests.helpers.trainers import TINY_SET_UP
from tests.references.fits import DATA, fit, prints, shuffled

pytestmark = TINY_SET_UP

INPUTS, TARGETS = DATA.tensors


class Watches(Callback):
    """Notes weights, and inputs trained on, at each epoch's end."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.trained_on: set[str] = set()
        self.random: list[Any] = []

    def __deepcopy__(self, _memo: Any) -> "Watches":
        return self

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.trained_on.update(prints(batch[0]))
        numpy = np.random.get_state(legacy=False)["state"]["key"]
        self.random.append([random.getstate(), numpy.tolist(), torch.get_rng_state().tolist()])
        assert all(module.training for module in pl_module.modules())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append(copy.deepcopy(pl_module.state_dict()))


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_best_weights_on_a_fifth_kept_from_the_training_are_taken() -> None:
    watches = Watches()
    # Steps so large that the loss jumps about.
    references = fit(PlainTabularClassifier(learning_rate=2.0), num_models=1, callbacks=[watches], max_epochs=6)
    kept = [index for index, inputs in enumerate(prints(INPUTS)) if inputs not in watches.trained_on]
    losses = []
    for weights in watches.weights:
        model = PlainTabularClassifier()
        model.load_state_dict(weights)
        losses.append(nn.functional.cross_entropy(model(INPUTS[kept]), TARGETS[kept]).item())
    best = losses.index(min(losses))
    assert len(kept) == 12
    assert best < len(losses) - 1
    assert same_weights(references.models[0].state_dict(), watches.weights[best])
    # What was kept counts as seen.
    assert references.seen == (frozenset(prints(INPUTS)),)


@pytest.mark.parametrize(
    ("options", "losses", "epochs"),
    [
        ({}, [1.0, 0.5], 6),
        ({"patience": 2}, [1.0, 0.5], 3),
        ({"patience": None}, [1.0, 0.5], 15),
        ({"max_epochs": 4}, [1.0, 0.5], 4),
        # Before the loss has clearly fallen, patience does not count.
        ({"patience": 2}, [1.0], 50),
        ({"patience": 2}, [1.0, 0.995], 50),
        ({"patience": 2}, [1.0, 1.1, 1.2, 1.3, 1.2, 0.9], 7),
        ({"patience": 2}, [-1.0, -1.1], 3),
        ({"patience": 2}, [math.nan, 3.0], 3),
    ],
    ids=str,
)
@pytest.mark.slow
def test_training_stops_when_patience_is_over(
    options: dict[str, Any], losses: list[float], epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Standing(PlainTabularClassifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    left = iter(losses)
    # The last one stays.
    monkeypatch.setattr(KeepBestWeights, "_mean_loss", lambda *_given: next(left, losses[-1]))
    watches = Watches()
    fit(Standing(), num_models=1, callbacks=[watches], **{"max_epochs": None, **options})
    assert len(watches.weights) == epochs


class SlowToBegin(PlainTabularClassifier):
    """Learns nothing in its first epochs, as under a schedule that warms up."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: float(epoch >= 6))
        return [optimizer], [schedule]


def test_a_slow_beginning_does_not_use_patience_up(caplog: pytest.LogCaptureFixture) -> None:
    watches = Watches()
    with caplog.at_level("INFO"), warnings.catch_warnings():
        warnings.filterwarnings("error", ".* are no better after")
        references = fit(SlowToBegin(), num_models=1, callbacks=[watches], max_epochs=15, patience=2)
    assert len(watches.weights) > 8
    weights = references.models[0].state_dict()
    assert not same_weights(weights, watches.weights[0])
    (said,) = [text for record in caplog.records if " trained, for " in (text := record.getMessage())]
    model, *numbers = map(float, re.findall(r"\d+(?:\.\d+)?", said))
    assert (model, numbers[0]) == (1, len(watches.weights))
    assert numbers[2] < 0.99 * numbers[1]


def test_models_that_learn_nothing_are_warned_of() -> None:
    torch.manual_seed(0)
    noise = TensorDataset(INPUTS.repeat(2, 1) + torch.randn(120, 4), torch.randint(0, 3, (120,)))
    with pytest.warns(UserWarning, match=r"^twins: 2 of 2 .*evidence=Twins\(training=ReferenceTraining\(max_epochs="):
        fit(PlainTabularClassifier(learning_rate=1e-6), shuffled(noise), folds=2, num_models=1, max_epochs=2)
    with pytest.warns(UserWarning, match="^reference models: 1 of 1 "):
        fit(PlainTabularClassifier(learning_rate=1e-6), shuffled(noise), num_models=1, max_epochs=1)


@pytest.mark.parametrize(
    ("loss", "before", "expected"),
    [
        (0.98, 1.0, True),
        (0.995, 1.0, False),
        (-1.02, -1.0, True),
        (-0.9, -1.0, False),
        (0.0, 0.0, False),
        (5.0, math.nan, True),
        (5.0, math.inf, True),
        (math.inf, 1.0, False),
        (math.nan, 1.0, False),
    ],
)
def test_a_loss_has_fallen_if_clearly(loss: float, before: float, expected: bool) -> None:
    assert has_fallen(loss, before) == expected


@pytest.mark.parametrize("augmented", [None, GloballyAugmentedDataset, SelfAugmentedDataset])
def test_the_training_is_the_same_as_without(augmented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DATA if augmented is None else augmented(DATA)
    with_stopping, without = Watches(), Watches()
    fit(TabularClassifier(), shuffled(data), num_models=1, callbacks=[with_stopping], max_epochs=2)
    # The same part is kept from the training, and nobody looks at it.
    for hook in ("on_train_start", "on_train_epoch_end"):
        monkeypatch.setattr(KeepBestWeights, hook, getattr(Callback, hook))
    with pytest.warns(UserWarning, match="never finite"):
        fit(TabularClassifier(), shuffled(data), num_models=1, callbacks=[without], max_epochs=2)
    assert len(with_stopping.weights) == 2
    assert all(same_weights(one, other) for one, other in zip(with_stopping.weights, without.weights, strict=True))
    assert with_stopping.random == without.random


def test_the_mean_loss_is_that_of_all_inputs_at_once() -> None:
    weights = (1.0, 2.0, 5.0)

    class Compares(KeepBestWeights):
        def __deepcopy__(self, _memo: Any) -> "Compares":
            return self

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            expected = nn.functional.cross_entropy(pl_module(INPUTS), TARGETS, torch.tensor(weights))
            assert self._mean_loss(trainer, pl_module) == pytest.approx(expected.item(), rel=1e-6)
            compared.append(expected)

    compared: list[Tensor] = []
    watcher = Compares(DataLoader(DATA, batch_size=7), Classification(class_weights=weights), patience=5)
    fit(num_models=1, patience=None, callbacks=[watcher])
    assert len(compared) == 1
    assert watcher.fingerprints == set(prints(INPUTS))


def test_the_tasks_forward_and_loss_decide() -> None:
    class Logits(Classification):
        def forward(self, model: nn.Module, inputs: Any) -> Any:
            return model(inputs)["logits"]

    assert len(fit(DictOutputClassifier(), num_models=1, task=Logits()).seen[0]) == 60
    assert len(fit(DictOutputClassifier(), num_models=1).seen[0]) == 60
    with pytest.raises(MisconfigurationException, match=r"ReferenceTraining\(patience=None\)"):
        fit(DictOutputClassifier(), num_models=1, task=Classification())
    one, other = (
        fit(num_models=1, task=Classification(class_weights=weights), max_epochs=8).models[0].state_dict()
        for weights in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    )
    assert not same_weights(one, other)


def test_a_regression_stops_on_its_squared_error() -> None:
    class Regressor(PlainTabularClassifier):
        def loss(self, batch: Any) -> Tensor:
            return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1].float())

    assert len(fit(Regressor(num_classes=1), num_models=1, task=Regression()).seen[0]) == 60


def test_a_task_without_a_loss_is_trained_to_the_end_and_says_so() -> None:
    class Output(Task):
        def score(self, outputs: Any, targets: Any) -> Tensor:
            score: Tensor = outputs[:, 0]
            return score

    watches = Watches()
    with pytest.warns(UserWarning, match=r"loss\(score, targets\)"):
        fit(num_models=1, task=Output(), max_epochs=None, callbacks=[watches])
    assert len(watches.weights) == 15
    assert len(watches.trained_on) == 60


def test_samples_of_the_sampler_alone_are_used() -> None:
    references = fit(data=DataLoader(DATA, batch_size=8, sampler=SubsetRandomSampler(range(5, 60))), num_models=1)
    assert references.seen == (frozenset(prints(INPUTS[5:])),)


@pytest.mark.parametrize(
    ("loader", "reason", "seen"),
    [
        (tabular_loader(49), "49 inputs", 49),
        (DataLoader(StreamedDataset(DATA, 60), batch_size=8), "no indices", 60),
    ],
    ids=["too few", "streamed"],
)
def test_data_of_which_nothing_can_be_kept_is_trained_on_to_the_end_and_says_so(
    loader: DataLoader[Any], reason: str, seen: int
) -> None:
    with pytest.warns(UserWarning, match=reason):
        assert [len(own) for own in fit(data=loader, num_models=1).seen] == [seen]


def test_a_loss_that_is_never_finite_is_reported() -> None:
    inputs = torch.full((60, 4), math.nan)
    with pytest.warns(UserWarning, match="never finite"):
        fit(data=DataLoader(TensorDataset(inputs, TARGETS), batch_size=8), num_models=1)
