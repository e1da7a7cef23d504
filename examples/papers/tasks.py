"""Tasks on which small networks overfit within a minute: data, splits and architectures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from modules import PARTS, Classifier, cnn, digits, split
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_interactions import FeatureGroups, ImagePatches
from lightning_interactions.players import Players

__all__ = ["PARTS", "QUICK_TASKS", "TASKS", "Architecture", "Classifier", "Task", "make_parts"]


@dataclass(frozen=True)
class Architecture:
    """A network, and how long and how fast it is trained so that it overfits.

    Attributes:
        network: Makes a freshly initialised network.
        batch_size: Inputs in a training batch.
        learning_rate: Of Adam.
        epochs: Of the monitored run.
    """

    network: Callable[[], nn.Module]
    batch_size: int
    learning_rate: float
    epochs: int = 45

    def classifier(self) -> Classifier:
        return Classifier(self.network(), self.learning_rate)


@dataclass(frozen=True)
class Task:
    """Labelled data that are split into four parts.

    Attributes:
        draw: Makes inputs and labels from a seed; at least as many as the parts need.
        num_classes: Labels are 0 to ``num_classes - 1``.
        players: Input variables.
        sizes: Inputs in each of :data:`PARTS`.
        architectures: By name.
    """

    draw: Callable[[int], tuple[Tensor, Tensor]]
    num_classes: int
    players: Players
    sizes: tuple[int, int, int, int]
    architectures: dict[str, Architecture]


def make_parts(task: Task, seed: int, *, noise: float = 0.2, random_labels: bool = False) -> dict[str, TensorDataset]:
    """Draw and split a task's data, and spoil labels.

    Args:
        task: The task.
        seed: Seed of data, split and label noise.
        noise: Probability that a training label is flipped to another class; the other parts keep their labels.
        random_labels: Draw all labels of all parts at random instead, so that nothing can be learned.
    """
    return split(*task.draw(seed), task.sizes, task.num_classes, seed, noise=noise, random_labels=random_labels)


def draw_digits(_seed: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's 1797 digits, 8x8; the seed only splits them."""
    return digits()


def draw_shapes(seed: int, num_inputs: int = 1800) -> tuple[Tensor, Tensor]:
    """Draw noisy 12x12 images of six shapes at random places."""
    outlines = torch.zeros(6, 5, 5)
    outlines[0, 2] = outlines[1, :, 2] = outlines[2, 2] = outlines[2, :, 2] = 1  # bar, pole, cross
    outlines[3].fill_diagonal_(1)
    outlines[4, [0, 4]] = outlines[4, :, [0, 4]] = 1  # frame
    outlines[5, 1:4, 1:4] = 1  # block
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(outlines), (num_inputs,), generator=generator)
    images = torch.zeros(num_inputs, 1, 12, 12)
    places = torch.randint(2, 5, (num_inputs, 2), generator=generator).tolist()
    for image, label, (row, column) in zip(images, labels.tolist(), places, strict=True):
        image[0, row : row + 5, column : column + 5] = outlines[label]
    brightness = 0.6 + 0.4 * torch.rand(num_inputs, 1, 1, 1, generator=generator)
    return images * brightness + 0.25 * torch.randn(images.shape, generator=generator), labels


def draw_table(seed: int, num_inputs: int = 1800) -> tuple[Tensor, Tensor]:
    """Draw nine Gaussian features, of which five decide in which third a sum of a product, a term and a condition lies."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_inputs, 9, generator=generator)
    first, second, third, fourth, fifth = features[:, :5].unbind(dim=1)
    total = first * second + third + 0.7 * (fourth > 0) * fifth
    return features, (total[:, None] > total.quantile(torch.tensor([1 / 3, 2 / 3]))).sum(dim=1)


def draw_series(seed: int, num_inputs: int = 1800) -> tuple[Tensor, Tensor]:
    """Draw noisy series of 54 steps with a trend; the class is the sign of a bump and the half in which it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (num_inputs,), generator=generator)
    steps = torch.arange(54.0)
    place = torch.where(labels % 2 == 0, 10, 32) + 10 * torch.rand(num_inputs, generator=generator)
    sign = torch.where(labels < 2, 1.0, -1.0)[:, None]
    bump = 1.2 * sign * torch.exp(-(((steps - place[:, None]) / 3) ** 2))
    trend = 0.02 * (steps - 27) * torch.randn(num_inputs, 1, generator=generator)
    return bump + trend + 0.5 * torch.randn(num_inputs, 54, generator=generator), labels


def series_cnn(num_steps: int, num_classes: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, num_steps)),
        nn.Conv1d(1, width, 7, padding=3), nn.ReLU(), nn.Conv1d(width, 2 * width, 7, padding=3), nn.ReLU(), nn.MaxPool1d(3),
        nn.Flatten(), nn.Linear(2 * width * (num_steps // 3), 128), nn.ReLU(), nn.Linear(128, num_classes),
    )  # fmt: skip


def mlp(num_features: int, num_classes: int, width: int = 256) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(num_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, num_classes),
    )  # fmt: skip


class ResidualBlock(nn.Module):
    """Two layers after a layer norm, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.layers(inputs)


def residual_mlp(num_features: int, num_classes: int, width: int = 128) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(num_features, width), ResidualBlock(width), ResidualBlock(width), nn.LayerNorm(width),
        nn.Linear(width, num_classes),
    )  # fmt: skip


TASKS = {
    "digits": Task(
        draw_digits, 10, ImagePatches(3, 3), (600, 500, 200, 497),
        {
            "CNN": Architecture(lambda: cnn(8, 10, 32), 200, 3e-3),
            "MLP": Architecture(lambda: mlp(64, 10), 100, 3e-3),
        },
    ),
    "shapes": Task(
        draw_shapes, 6, ImagePatches(3, 3), (600, 500, 200, 500),
        {
            "CNN": Architecture(lambda: cnn(12, 6, 8), 100, 2e-3),
            "residual MLP": Architecture(lambda: residual_mlp(144, 6), 100, 3e-4),
        },
    ),
    "table": Task(
        draw_table, 3, FeatureGroups([[feature] for feature in range(9)]), (500, 500, 200, 600),
        {
            "MLP": Architecture(lambda: mlp(9, 3), 100, 1e-3, epochs=60),
            "residual MLP": Architecture(lambda: residual_mlp(9, 3), 100, 1e-3, epochs=60),
        },
    ),
    "series": Task(
        draw_series, 4, FeatureGroups([list(range(begin, begin + 6)) for begin in range(0, 54, 6)]), (600, 500, 200, 500),
        {
            "CNN": Architecture(lambda: series_cnn(54, 4, 16), 100, 1e-3),
            "MLP": Architecture(lambda: mlp(54, 4), 100, 1e-3),
        },
    ),
}  # fmt: skip
"""By name. All have nine players, and 20 % label noise makes all networks overfit."""

QUICK_TASKS = {
    "few digits": Task(
        draw_digits, 10, ImagePatches(2, 2), (150, 300, 100, 300),
        {
            "MLP": Architecture(lambda: mlp(64, 10), 25, 1e-2, epochs=12),
            "residual MLP": Architecture(lambda: residual_mlp(64, 10, 32), 25, 1e-2, epochs=12),
        },
    ),
}  # fmt: skip
"""Four players, and networks that overfit in seconds: to try things out."""
