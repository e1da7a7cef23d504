"""A situation: a module as somebody wrote it, its data, and what scores and losses must be."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Answer = tuple[Tensor | None, Tensor | None]
"""Scores ``[rows]`` and losses ``[rows]``; ``None`` where nothing independent of the package can be said."""


def mean_loss(case: "Case", module: Any, batch: Any) -> Tensor:
    """The step's own loss where it is the plain mean of the rows' losses."""
    losses = case.oracle(module, batch)[1]
    assert losses is not None
    return losses.mean()


@dataclass
class Case:
    """One fresh copy of a situation.

    Attributes:
        module: Untrained.
        train: Training loader or loaders, or a data module.
        val: Validation loader or loaders; ``None`` if there are none.
        oracle: What score and loss of each row of a batch are, from the trained module in evaluation mode. The batch is as the
            step gets it.
        empty: A batch with all players at zero; ``None`` where that is not plain to say.
        step_loss: The value that the validation step returns or logs as ``"val_loss"``, in evaluation mode, from module and
            batch; the mean of the rows' losses if left out. ``None`` where it returns and logs none.
        means_only: Only the mean of the rows' losses is determined, such as by a mean over tokens or by class weights.
        monitor: Keyword arguments of the monitor.
        trainer: Keyword arguments of the Trainer.
        callbacks: Callbacks beside the monitor.
        framework: Whose Trainer.
        epochs: After how many epochs there are measurements.
        refused: Kinds of errors before training, and words in them.
        warned: Words of a warning.
        then: What is done after the first fit, with this case, its Trainer and a function that makes another Trainer; the
            Trainer of the last fit.
    """

    module: Any
    train: Any
    oracle: Callable[[Any, Any], Answer]
    val: Any = None
    empty: Callable[[Any], Any] | None = None
    step_loss: Callable[[Any, Any], Tensor] | str | None = "mean"
    means_only: bool = False
    monitor: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)
    framework: Any = pl
    epochs: tuple[int, ...] = (0, 1, 2)
    refused: tuple[tuple[type[Exception], ...], str] | None = None
    warned: str | None = None
    then: Callable[["Case", Any, Callable[[], Any]], Any] | None = None

    def fit(self, trainer: Any) -> None:
        """Train with the loaders or the data module."""
        if hasattr(self.train, "prepare_data"):
            trainer.fit(self.module, datamodule=self.train)
        else:
            trainer.fit(self.module, self.train, self.val)


@dataclass(frozen=True)
class Situation:
    """A name, and what makes a fresh copy.

    Attributes:
        name: What is special.
        build: Makes module and data, the same ones after the same seed.
    """

    name: str
    build: Callable[[], Case]


class Situations(list[Situation]):
    """Collects the situations of a file."""

    def __call__(self, name: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
        def added(build: Callable[[], Case]) -> Callable[[], Case]:
            self.append(Situation(name, build))
            return build

        return added


class Base(pl.LightningModule):
    """Saves the situations the same three lines."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


# Data.


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 0, low: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed + 100))


def table(rows: int = 16, features: int = 4, classes: int = 3, seed: int = 0) -> TensorDataset:
    """Features and classes that follow from them."""
    inputs = normal(rows, features, seed=seed)
    return TensorDataset(inputs, (inputs @ normal(features, classes, seed=9)).argmax(dim=1))


def tables(classes: int = 3, features: int = 4, **options: Any) -> dict[str, Any]:
    """Training and validation loaders of a table."""
    return loaders(table(classes=classes, features=features), table(8, classes=classes, features=features, seed=1), **options)


def loaders(train: Any, val: Any, **options: Any) -> dict[str, Any]:
    return {
        "train": DataLoader(train, batch_size=8, shuffle=True, **options),
        "val": DataLoader(val, batch_size=8, **options),
    }


def images(rows: int = 16, channels: int = 1, size: int = 6, classes: int = 3, seed: int = 0) -> TensorDataset:
    return TensorDataset(normal(rows, channels, size, size, seed=seed), integers(classes, rows, seed=seed))


def mlp(features: int = 4, out: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, out))


def zero(*path: str | int) -> Callable[[Any], Any]:
    """Make what copies a batch with zeros at one place of it."""

    def zeroed(batch: Any, path: tuple[str | int, ...] = path) -> Any:
        if not path:
            return torch.zeros_like(batch)
        first, *rest = path
        if isinstance(batch, (tuple, list)):
            return type(batch)(zeroed(part, tuple(rest)) if at == first else part for at, part in enumerate(batch))
        return {key: zeroed(part, tuple(rest)) if key == first else part for key, part in batch.items()}

    return zeroed


# Scores and losses, by hand and in float64.


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """``log p/(1-p)`` of the class, ``[...]`` of logits ``[..., classes]``."""
    logits = logits.double()
    own = torch.nn.functional.one_hot(classes, logits.shape[-1]).bool()
    return logits[own].reshape(classes.shape) - logits.masked_fill(own, -math.inf).logsumexp(-1)


def entropies(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy ``[...]`` of logits ``[..., classes]``."""
    logits = logits.double()
    return logits.logsumexp(-1) - logits.gather(-1, classes[..., None])[..., 0]


def classified(logits: Tensor, classes: Tensor) -> Answer:
    return log_odds(logits, classes), entropies(logits, classes)


def probable(probabilities: Tensor, classes: Tensor) -> Answer:
    """The same of probabilities."""
    own = probabilities.double().gather(1, classes[:, None])[:, 0]
    return own.log() - (1 - own).log(), -own.log()


def binary(logits: Tensor, targets: Tensor) -> Answer:
    """One logit a row."""
    scores = logits.double().reshape(-1) * (2 * targets.double().reshape(-1) - 1)
    return scores, (1 + (-scores).exp()).log()


def several_labels(logits: Tensor, targets: Tensor) -> Answer:
    """Joint log-odds and mean loss of labels ``[rows, labels]``."""
    losses = (1 + (-logits.double() * (2 * targets.double() - 1)).exp()).log()
    return -(losses.sum(1).exp() - 1).log(), losses.mean(1)


def tokens(logits: Tensor, targets: Tensor, ignored: int = -100) -> Answer:
    """Sum of the log-odds of the target tokens; mean loss over them. Logits ``[rows, ..., classes]``."""
    kept = targets != ignored
    classes = targets.masked_fill(~kept, 0)
    sums = [torch.where(kept, of_tokens, 0).flatten(1).sum(1) for of_tokens in classified(logits, classes)]
    return sums[0], sums[1] / kept.flatten(1).sum(1)


def mean_over_tokens(logits: Tensor, targets: Tensor, ignored: int = -100) -> Tensor:
    """Mean loss over all tokens of a batch."""
    kept = targets != ignored
    return entropies(logits, targets.masked_fill(~kept, 0))[kept].mean()
