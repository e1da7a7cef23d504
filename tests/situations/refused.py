"""What cannot be measured and must be said before training: losses by hand, scripted modules, scores of whole batches."""

import warnings
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F

from tests.situations.losses import Net
from tests.situations.situation import Answer, Case, Situations, classified, loaders, mlp, tables, zero
from tests.situations.tables import regression

SITUATIONS = situation = Situations()

ERRORS = (ValueError, MisconfigurationException)


def unknown(_module: Any, _batch: Any) -> Answer:
    return None, None


def refused(module: Any, words: str) -> Case:
    return Case(module, **tables(), oracle=unknown, step_loss=None, refused=(ERRORS, words))


@situation("a focal loss by hand")
def focal_by_hand() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            log_p = self(x).log_softmax(1).gather(1, y[:, None])[:, 0]
            return -((1 - log_p.exp()) ** 2 * log_p).mean()

    return refused(Module(), "Task")


@situation("a quantile loss by hand")
def quantile_by_hand() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            error = y[:, None] - self(x)
            quantiles = torch.tensor([0.1, 0.5, 0.9])
            return torch.maximum(quantiles * error, (quantiles - 1) * error).mean()

    return regression(Module(), unknown, step_loss=None, refused=(ERRORS, "Task"))


@situation("a Dice loss by hand")
def dice_by_hand() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            p, hot = self(x).softmax(1), F.one_hot(y, 3)
            return 1 - (2 * (p * hot).sum() + 1) / (p.sum() + hot.sum() + 1)

    return refused(Module(), "Task")


class ScriptedLoss(nn.Module):
    """A loss that is compiled with the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self.net(x), y)


@situation("a scripted module that computes its loss")
def scripted() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Scripting is deprecated, and used.
                self.net = torch.jit.script(ScriptedLoss())

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net(x, y)

    return refused(Module(), "Task")


@situation("a contrastive loss over the batch, cross-entropy of similarities")
def contrastive() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            first, second = (F.normalize(self.net(x + shift)) for shift in (0.1, -0.1))
            return F.cross_entropy(first @ second.T / 0.1, torch.arange(len(x)))

    return refused(Module(), "row|batch")


@situation("a contrastive loss over two directions of pairs")
def pairs() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other, self.scale = mlp(features=3), nn.Parameter(torch.tensor(1.0))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            similar = self.scale.exp() * F.normalize(self(x)) @ F.normalize(self.other(F.one_hot(y, 3).float())).T
            own = torch.arange(len(x))
            return (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2

    return refused(Module(), "row|batch")


@situation("batch norm without running statistics")
def no_running_statistics() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))

    return refused(Module(), "row|batch")


@situation("attention over the rows of a batch")
def attention_over_rows() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.net(x)
            return hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]

    def oracle(module: Any, batch: Any) -> Answer:
        # Each row is measured alone, which is said.
        return classified(torch.cat([module(row[None]) for row in batch[0]]), batch[1])

    def together(module: Any, batch: Any) -> Tensor:
        return classified(module(batch[0]), batch[1])[1].mean()  # type: ignore[union-attr]

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0), step_loss=together, warned="one by one")


@situation("no tensor of the batch can be masked")
def strings() -> Case:
    class Module(Net):
        def loss(self, words: list[str], y: Tensor) -> Tensor:  # type: ignore[override]
            x = torch.tensor([[float(len(word)), word.count("a"), word.count("b"), 1.0] for word in words])
            return F.cross_entropy(self(x), y)

    rows = [("ab" * index + "c", index % 3) for index in range(24)]
    return Case(Module(), **loaders(rows[:16], rows[16:]), oracle=unknown, step_loss=None, refused=(ERRORS, "players"))
