import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from lightning_interactions import ReferenceModels, fit_reference_models
from lightning_interactions.evidence import fingerprints
from lightning_interactions.game.losses import CrossEntropy
from lightning_interactions.game.scores import log_odds, prediction
from lightning_interactions.measuring.probes import input_target_pair
from lightning_interactions.references.watching import KeepBestWeights
from tests.callbacks.runs import TINY_SET_UP
from tests.helpers.models import (
    DictDataset,
    DictOutputClassifier,
    GloballyAugmentedDataset,
    PlainTabularClassifier,
    SelfAugmentedDataset,
    StreamedDataset,
    TabularClassifier,
    UnvalidatedClassifier,
    tabular_data,
    tabular_loader,
)

pytestmark = TINY_SET_UP

DATA = tabular_data(60, seed=2)


class Watches(Callback):
    """Notes weights, and inputs trained on, at each epoch's end."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.trained_on: set[str] = set()
        self.random: list[Any] = []

    def __deepcopy__(self, _memo: Any) -> "Watches":
        return self

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.trained_on.update(fingerprints(batch[0]))
        self.random.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
        assert all(module.training for module in pl_module.modules())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append(copy.deepcopy(pl_module.state_dict()))


def fit(model: LightningModule | None = None, data: Any = None, **options: Any) -> ReferenceModels:
    settings: dict[str, Any] = {"num_models": 1, "accelerator": "cpu", "max_epochs": 4}
    loader = DataLoader(DATA, batch_size=8, shuffle=True) if data is None else data
    return fit_reference_models(PlainTabularClassifier() if model is None else model, loader, **{**settings, **options})


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_fifth_is_kept_from_the_training_and_counts_as_seen() -> None:
    watches = Watches()
    references = fit(callbacks=[watches])
    assert references.seen == (frozenset(fingerprints(DATA.tensors[0])),)
    assert len(watches.trained_on) == 48


def test_each_model_keeps_another_part() -> None:
    class PerModel(Callback):
        parts: tuple[set[str], ...] = ()

        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            PerModel.parts = (*PerModel.parts, set())

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
            PerModel.parts[-1].update(fingerprints(batch[0]))

    fit(num_models=2, max_epochs=1, callbacks=PerModel())
    first, second = PerModel.parts
    assert len(first) == len(second) == 48
    assert first != second


def test_the_best_weights_are_kept() -> None:
    watches = Watches()
    # Steps so large that the loss jumps about.
    references = fit(PlainTabularClassifier(learning_rate=2.0), callbacks=[watches], max_epochs=6)
    kept = [index for index, inputs in enumerate(fingerprints(DATA.tensors[0])) if inputs not in watches.trained_on]
    losses = []
    for weights in watches.weights:
        model = PlainTabularClassifier()
        model.load_state_dict(weights)
        losses.append(nn.functional.cross_entropy(model(DATA.tensors[0][kept]), DATA.tensors[1][kept]).item())
    best = losses.index(min(losses))
    assert best < len(losses) - 1
    assert same_weights(references.models[0].state_dict(), watches.weights[best])


def test_training_stops_when_patience_is_over() -> None:
    class Standing(PlainTabularClassifier):
        """Is best after one epoch, because it never changes."""

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    for options, epochs in (({}, 6), ({"patience": 2}, 3), ({"early_stopping": False}, 15), ({"max_epochs": 4}, 4)):
        watches = Watches()
        fit(Standing(), callbacks=[watches], **{"max_epochs": None, **options})  # type: ignore[arg-type]
        assert len(watches.weights) == epochs


@pytest.mark.parametrize("model", [UnvalidatedClassifier, TabularClassifier])
@pytest.mark.parametrize("augmented", [None, GloballyAugmentedDataset, SelfAugmentedDataset])
def test_the_training_is_the_same_as_without(model: Any, augmented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DATA if augmented is None else augmented(DATA)
    with_stopping, without = Watches(), Watches()
    fit(model(), DataLoader(data, batch_size=8, shuffle=True), callbacks=[with_stopping], max_epochs=2)
    # The same part is kept from the training, and nobody looks at it.
    for hook in ("on_train_start", "on_train_epoch_end"):
        monkeypatch.setattr(KeepBestWeights, hook, getattr(Callback, hook))
    with pytest.warns(UserWarning, match="never finite"):
        fit(model(), DataLoader(data, batch_size=8, shuffle=True), callbacks=[without], max_epochs=2)
    assert len(with_stopping.weights) == 2
    assert all(same_weights(one, other) for one, other in zip(with_stopping.weights, without.weights, strict=True))
    assert with_stopping.random == without.random


def test_the_loss_is_the_cross_entropy_of_the_adapter() -> None:
    loader = DataLoader(DictDataset(DATA), batch_size=8)
    adapter = {"unpack": lambda batch: (batch["x"], batch["y"]), "forward": lambda model, inputs: model(inputs)["logits"]}
    references = fit(DictOutputClassifier(), loader, **adapter)
    assert references.seen == (frozenset(fingerprints(DATA.tensors[0])),)
    with pytest.raises(
        MisconfigurationException, match=r"when to stop cannot be computed: .*forward, score and loss .*early_stopping=False"
    ):
        fit(DictOutputClassifier(), loader, unpack=adapter["unpack"])


def test_a_regression_stops_on_its_squared_error() -> None:
    class Regression(PlainTabularClassifier):
        def loss(self, batch: Any) -> Tensor:
            return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1].float())

    references = fit(Regression(num_classes=1), score=prediction)
    assert references.seen == (frozenset(fingerprints(DATA.tensors[0])),)


def test_a_loss_with_class_weights_decides() -> None:
    weighted = [fit(loss=CrossEntropy(class_weights=weights), max_epochs=8) for weights in ((1, 0, 0), (0, 0, 1))]
    one, other = (references.models[0].state_dict() for references in weighted)
    assert not same_weights(one, other)


def test_a_score_without_a_loss_is_trained_on_without_stopping_and_says_so() -> None:
    with pytest.warns(UserWarning, match=r"no early stopping, because no loss is known for this score; pass loss="):
        fit(score=lambda outputs, _targets: outputs[:, 0], max_epochs=1)


def test_another_score_decides() -> None:
    asked = []

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        asked.append(len(targets))
        return outputs[:, 0] - targets

    fit(score=score, loss=lambda score, _targets: score.square(), max_epochs=1)
    assert asked == [8, 4, 8, 4]


def test_samples_of_the_sampler_alone_are_used() -> None:
    references = fit(data=DataLoader(DATA, batch_size=8, sampler=SubsetRandomSampler(range(5, 60))))
    assert references.seen == (frozenset(fingerprints(DATA.tensors[0][5:])),)


def test_too_little_data_is_trained_on_without_stopping_and_says_so() -> None:
    with pytest.warns(
        UserWarning, match=r"no early stopping, because a fifth of 49 inputs is fewer than 10; use more data, or pass"
    ):
        references = fit(data=tabular_loader(49), max_epochs=1)
    assert len(references.seen[0]) == 49


def test_iterable_data_is_trained_on_without_stopping_and_says_so() -> None:
    streamed = DataLoader(StreamedDataset(DATA, 60), batch_size=8)
    with pytest.warns(UserWarning, match=r"no early stopping, because the data has no indices"):
        references = fit(data=streamed, max_epochs=1)
    assert len(references.seen[0]) == 60


def test_a_loss_that_is_never_finite_is_reported() -> None:
    inputs = torch.full((60, 4), math.nan)
    with pytest.warns(UserWarning, match="loss of a reference model was never finite, so its last weights are kept"):
        fit(data=DataLoader(TensorDataset(inputs, DATA.tensors[1]), batch_size=8), max_epochs=1)


def test_a_patience_below_one_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="patience of at least 1, got 3, None and 0"):
        fit_reference_models(PlainTabularClassifier(), tabular_loader(60), patience=0)


def test_a_number_of_votes_is_checked_before_any_training() -> None:
    assert fit(num_models=2, vote=2, max_epochs=1).vote == 2
    with pytest.raises(MisconfigurationException, match=r"a number from 1 to 2, how .* got 3; lower it, or train more"):
        fit(num_models=2, vote=3)


def test_the_callback_alone_finds_the_mean_loss() -> None:
    loader = DataLoader(DATA, batch_size=7)

    class Compares(KeepBestWeights):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            expected = nn.functional.cross_entropy(pl_module(DATA.tensors[0]), DATA.tensors[1])
            assert self._mean_loss(trainer, pl_module) == pytest.approx(expected.item(), rel=1e-6)

    watcher = Compares(loader, input_target_pair, lambda model, inputs: model(inputs), log_odds, CrossEntropy(), 5)
    fit(early_stopping=False, callbacks=[watcher])
