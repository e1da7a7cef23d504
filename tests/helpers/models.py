"""Tiny modules and generated data, on which a training run takes a fraction of a second."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

NUM_FEATURES = 4
NUM_CLASSES = 3
IMAGE_SIZE = 6


class Classifier(LightningModule):
    """Cross-entropy and plain SGD around a network; a batch is ``(x, y)`` or ``{"x": x, "y": y}``.

    Args:
        network: Gives logits ``[inputs, classes]``, or one logit ``[inputs, 1]``.
        learning_rate: Step size of SGD.
    """

    def __init__(self, network: nn.Module, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def forward(self, inputs: Tensor) -> Any:
        return self.network(inputs)

    def training_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)

    def loss(self, batch: Any) -> Tensor:
        inputs, targets = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        outputs = self(inputs)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        if logits.shape[1] == 1:
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits))
        return nn.functional.cross_entropy(logits, targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class PlainTabularClassifier(Classifier):
    """One hidden layer; no validation, nothing random."""

    def __init__(self, num_features: int = NUM_FEATURES, num_classes: int = NUM_CLASSES, learning_rate: float = 0.1) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(num_features, 8), nn.Tanh(), nn.Linear(8, num_classes)), learning_rate=learning_rate
        )
        self.save_hyperparameters()


class DeterministicClassifier(PlainTabularClassifier):
    """The same with a validation step: a resumed run, which cannot know the random state, trains as an unbroken one."""

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


class UnvalidatedClassifier(Classifier):
    """Dropout and batch norm, whose random state and buffers a measurement must not touch; no validation."""

    def __init__(self, num_features: int = NUM_FEATURES, num_classes: int = NUM_CLASSES, learning_rate: float = 0.1) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(num_features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, num_classes)),
            learning_rate=learning_rate,
        )
        self.save_hyperparameters()


class TabularClassifier(UnvalidatedClassifier):
    """The same with a validation step."""

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


class UncountedSteps(Classifier):
    """Steps its optimizer past the Trainer, whose global step stays 0; to be mixed into a classifier."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[call-arg] # of the classifier
        self.automatic_optimization = False
        self.optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    def training_step(self, batch: Any, _batch_index: int) -> None:
        self.optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.optimizer.step()

    def configure_optimizers(self) -> None:
        return None


class TwoOptimizers(PlainTabularClassifier):
    """Steps both optimizers in every batch, and so counts two global steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, _batch_index: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.network[layer].parameters(), lr=self.learning_rate) for layer in (0, 2)]


class ImageClassifier(Classifier):
    """A convolution, batch norm and global pooling."""

    def __init__(self, num_classes: int = NUM_CLASSES, learning_rate: float = 0.1) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(16, num_classes),
            ),
            learning_rate=learning_rate,
        )
        self.save_hyperparameters()

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


class OneLogitClassifier(Classifier):
    """Two classes, one logit ``[inputs, 1]``."""

    def __init__(self, num_features: int = NUM_FEATURES, learning_rate: float = 0.1) -> None:
        super().__init__(nn.Sequential(nn.Linear(num_features, 8), nn.Tanh(), nn.Linear(8, 1)), learning_rate=learning_rate)
        self.save_hyperparameters()

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


class DictOutputClassifier(TabularClassifier):
    """Returns ``{"logits": logits}``."""

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(inputs)}


def tabular_data(
    num_inputs: int,
    num_features: int = NUM_FEATURES,
    num_classes: int = NUM_CLASSES,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> TensorDataset:
    """Generate distinct rows, and labels that depend on the first two features."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_inputs, num_features, generator=generator, dtype=torch.float64)
    targets = ((inputs[:, 0] * inputs[:, 1]).abs() * num_classes).long() % num_classes
    return TensorDataset(inputs.to(dtype), targets)


def image_data(num_inputs: int, size: int = IMAGE_SIZE, seed: int = 0) -> TensorDataset:
    """Generate one-channel images whose brightest column says the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num_inputs, 1, size, size, generator=generator)
    return TensorDataset(images, images.mean(dim=(1, 2)).argmax(dim=1) % NUM_CLASSES)


def tabular_loader(num_inputs: int = 24, batch_size: int = 8, seed: int = 0, **options: Any) -> DataLoader[Any]:
    """Load generated rows, in order unless ``shuffle=True``; other options go to :func:`tabular_data`."""
    names = ("num_features", "num_classes", "dtype")
    data = tabular_data(num_inputs, seed=seed, **{name: options.pop(name) for name in names if name in options})
    return DataLoader(data, batch_size=batch_size, **options)


class DictDataset(Dataset[dict[str, Tensor]]):
    """Samples ``{"x": input, "y": target}`` of another dataset."""

    def __init__(self, pairs: TensorDataset) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        inputs, targets = self.pairs[index]
        return {"x": inputs, "y": targets}


class StreamedDataset(IterableDataset[Any]):
    """The samples of another dataset, in order and without an index."""

    def __init__(self, samples: Dataset[Any], size: int) -> None:
        self.samples = samples
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[index] for index in range(self.size))


class GloballyAugmentedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Rows with noise from the global generators of NumPy and torch, drawn anew at every access."""

    def __init__(self, rows: TensorDataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, target = self.rows[index]
        return inputs * (1 + 0.1 * torch.rand(1)) + float(0.1 * np.random.standard_normal()), target


class SelfAugmentedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Rows with noise from a generator that belongs to the dataset."""

    def __init__(self, rows: TensorDataset, seed: int = 0) -> None:
        self.rows = rows
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, target = self.rows[index]
        return inputs + float(0.1 * self.random.standard_normal()), target
