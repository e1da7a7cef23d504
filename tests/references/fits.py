"""What the tests of reference models share: short fits, and comparing what they give."""

from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, random_split

from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.records import Rows, fingerprints
from lightning_interactions.references import ReferenceTraining, fit_reference_models
from tests.helpers.models import Classifier, PlainTabularClassifier, tabular_data

DATA = tabular_data(60, seed=2)
TRAINING = {field.name for field in fields(ReferenceTraining)}


def trained(**options: Any) -> ReferenceTraining:
    """Make settings for one epoch on the CPU; arguments of the Trainer may be mixed in."""
    settings: dict[str, Any] = {"max_epochs": 1, **{name: options[name] for name in options.keys() & TRAINING}}
    return ReferenceTraining(
        **settings, trainer={"accelerator": "cpu", **{name: options[name] for name in options.keys() - TRAINING}}
    )


def fit(model: LightningModule | None = None, data: Any = None, **options: Any) -> ReferenceModels:
    """Fit two models; options are those of the fit, of the training and of the Trainer."""
    own = ("task", "folds", "num_models", "vote", "resume_from")
    of_fit = {"num_models": 2, **{name: options.pop(name) for name in own if name in options}}
    loader = shuffled() if data is None else data
    return fit_reference_models(
        PlainTabularClassifier() if model is None else model, loader, **of_fit, training=trained(**options)
    )


def shuffled(data: Any = DATA) -> DataLoader[Any]:
    return DataLoader(data, batch_size=8, shuffle=True)


def prints(inputs: Tensor) -> list[str]:
    return fingerprints(Rows.of(inputs))


def all_seen(references: ReferenceModels) -> frozenset[str]:
    return frozenset().union(*references.seen)


def assert_same(one: ReferenceModels, other: ReferenceModels) -> None:
    assert one.seen == other.seen
    assert one._learned_epochs == other._learned_epochs
    assert len(one.models) == len(other.models)
    for model, expected in zip(one.models, other.models, strict=True):
        weights = expected.state_dict()
        assert model.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class MadeInSetup(Classifier):
    """Makes its layers in ``setup``.

    Args:
        width: Of the hidden layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__(nn.Identity())
        self.width = width
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        if isinstance(self.network, nn.Identity):
            self.network = nn.Sequential(nn.Linear(4, self.width), nn.Tanh(), nn.Linear(self.width, 3))


class Tables(LightningDataModule):
    """Splits in setup without a seed, and doubles every input after the transfer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.calls: list[str] = []
        self.num_classes = 3

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append("setup")
        self.training, self.validation = random_split(tabular_data(40), [30, 10])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.training, batch_size=5, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, batch_size=5)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        inputs, targets = batch
        return 2 * inputs, targets

    def teardown(self, stage: str) -> None:
        self.calls.append("teardown")

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}
