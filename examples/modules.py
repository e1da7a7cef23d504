"""The small modules and data modules of the examples and of ``configs/``, and a callback that keeps a run's true curves."""

from collections.abc import Sequence
from functools import cached_property

import lightning as L
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import DataLoader, TensorDataset

__all__ = [
    "PARTS",
    "CancerClassifier",
    "CancerData",
    "Classifier",
    "Curve",
    "DigitsClassifier",
    "DigitsData",
    "FineTunedDigits",
    "cnn",
    "digits",
    "split",
]

PARTS = ("training", "reference", "validation", "test")


class Classifier(L.LightningModule):
    """Any network that gives one logit a class, trained with cross-entropy and Adam."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Sequence[Tensor]) -> None:
        self.log("validation_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class DigitsClassifier(Classifier):
    """A CNN with two convolutions for 8x8 images.

    Args:
        width: Channels of the first convolution; the second one has twice as many.
        learning_rate: Of Adam.
    """

    def __init__(self, width: int = 32, learning_rate: float = 3e-3) -> None:
        super().__init__(cnn(8, 10, width), learning_rate)


class FineTunedDigits(DigitsClassifier):
    """The same CNN, pretrained: it has learned on the reference part of the digits which of them are even.

    Its last layer is new, and learns alone at first; then all others follow more slowly.

    Args:
        width: Channels of the first convolution.
        learning_rate: Of the last layer.
        frozen_epochs: Epochs in which only the last layer learns; then the others learn with a tenth of its rate.
        pretraining_steps: Of Adam on all reference digits.
    """

    def __init__(
        self, width: int = 32, learning_rate: float = 3e-3, frozen_epochs: int = 5, pretraining_steps: int = 60
    ) -> None:
        super().__init__(width, learning_rate)
        self.frozen_epochs = frozen_epochs
        *body, _ = self.network
        inputs, labels = DigitsData().parts["reference"].tensors
        pretrained = nn.Sequential(*body, nn.Linear(128, 1))
        optimizer = torch.optim.Adam(pretrained.parameters(), lr=learning_rate)
        with torch.enable_grad():
            for _ in range(pretraining_steps):
                optimizer.zero_grad()
                binary_cross_entropy_with_logits(pretrained(inputs)[:, 0], 1.0 - labels % 2).backward()
                optimizer.step()
        self.network.requires_grad_(True).zero_grad()

    def on_train_epoch_start(self) -> None:
        self.network[:-1].requires_grad_(self.current_epoch >= self.frozen_epochs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        slow = {"params": self.network[:-1].parameters(), "lr": self.learning_rate / 10}
        return torch.optim.Adam([slow, {"params": self.network[-1].parameters()}], lr=self.learning_rate)


class CancerClassifier(Classifier):
    """An MLP with a single logit for tables of 30 features, trained with binary cross-entropy.

    Args:
        width: Units of the hidden layer.
        learning_rate: Of Adam.
    """

    def __init__(self, width: int = 64, learning_rate: float = 3e-3) -> None:
        super().__init__(nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, 1)), learning_rate)

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].float())


class _PartsData(L.LightningDataModule):
    """Labelled data in four parts, with flipped training labels.

    Args:
        batch_size: Inputs in a training batch.
        label_noise: Probability that a training label is flipped to another class.
        seed: Seed of split and label noise.
    """

    sizes: tuple[int, int, int, int]
    num_classes: int

    def __init__(self, batch_size: int, label_noise: float, seed: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.label_noise = label_noise
        self.seed = seed

    def draw(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    @cached_property
    def parts(self) -> dict[str, TensorDataset]:
        return split(*self.draw(), self.sizes, self.num_classes, self.seed, noise=self.label_noise)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.parts["training"], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.parts["validation"], 200)

    def reference_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Load what reference models are trained on."""
        return DataLoader(self.parts["reference"], 32, shuffle=True)


class DigitsData(_PartsData):
    """scikit-learn's 1797 digits of 8x8 pixels: 600 to train on, 500 for reference models, 200 to validate, 497 to test.

    Args:
        batch_size: Inputs in a training batch.
        label_noise: Probability that a training label is flipped to another class.
        seed: Seed of split and label noise.
    """

    sizes = (600, 500, 200, 497)
    num_classes = 10

    def __init__(self, batch_size: int = 200, label_noise: float = 0.2, seed: int = 1) -> None:
        super().__init__(batch_size, label_noise, seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        return digits()


class CancerData(_PartsData):
    """scikit-learn's 569 breast tumours with 30 standardised features: 250, 129, 90 and 100 of them.

    The features are mean, standard error and worst value of ten measurements: columns ``i``, ``i + 10`` and ``i + 20``.

    Args:
        batch_size: Inputs in a training batch.
        label_noise: Probability that a training label is flipped.
        seed: Seed of split and label noise.
    """

    sizes = (250, 129, 90, 100)
    num_classes = 2

    def __init__(self, batch_size: int = 50, label_noise: float = 0.2, seed: int = 1) -> None:
        super().__init__(batch_size, label_noise, seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        tumours = load_breast_cancer()
        features = torch.tensor(tumours.data, dtype=torch.float32)
        return (features - features.mean(dim=0)) / features.std(dim=0), torch.tensor(tumours.target)


class Curve(L.Callback):
    """Keeps loss and accuracy on some data after 0, 1, 2 … epochs; training never sees them.

    Args:
        inputs: As the module takes them.
        labels: Their classes.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    @property
    def best_epoch(self) -> int:
        """The epoch with the smallest loss."""
        return min(range(len(self.losses)), key=self.losses.__getitem__)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.eval()
        with torch.no_grad():
            logits = pl_module(self.inputs.to(pl_module.device)).cpu()
        pl_module.train()
        self.losses.append(cross_entropy(logits, self.labels).item())
        self.accuracies.append((logits.argmax(dim=1) == self.labels).float().mean().item())


def cnn(size: int, num_classes: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * width * (size // 2) ** 2, 128), nn.ReLU(), nn.Linear(128, num_classes),
    )  # fmt: skip


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, ``[1797, 1, 8, 8]``, and their classes."""
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def split(
    inputs: Tensor,
    labels: Tensor,
    sizes: Sequence[int],
    num_classes: int,
    seed: int,
    *,
    noise: float = 0.2,
    random_labels: bool = False,
) -> dict[str, TensorDataset]:
    """Split data into :data:`PARTS`, and spoil labels.

    Args:
        inputs: At least as many as the parts need.
        labels: Their classes.
        sizes: Inputs in each part.
        num_classes: Labels are 0 to ``num_classes - 1``.
        seed: Seed of split and label noise.
        noise: Probability that a training label is flipped to another class; the other parts keep their labels.
        random_labels: Draw all labels of all parts at random instead, so that nothing can be learned.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)[: sum(sizes)]
    inputs, labels = inputs[order], labels[order]
    flipped = torch.rand(sizes[0], generator=generator) < noise
    shift = torch.randint(1, num_classes, (sizes[0],), generator=generator)
    labels[: sizes[0]] = (labels[: sizes[0]] + flipped * shift) % num_classes
    if random_labels:
        labels = torch.randint(0, num_classes, labels.shape, generator=generator)
    parts = zip(PARTS, inputs.split(list(sizes)), labels.split(list(sizes)), strict=True)
    return {name: TensorDataset(part_inputs, part_labels) for name, part_inputs, part_labels in parts}
