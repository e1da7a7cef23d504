"""Losses of classifiers: probabilities, weights, smoothing, margins, soft and several labels, several terms."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests.situations.situation import (
    Answer,
    Base,
    Case,
    Situations,
    binary,
    classified,
    entropies,
    integers,
    loaders,
    log_odds,
    mlp,
    normal,
    probable,
    several_labels,
    tables,
    zero,
)

SITUATIONS = situation = Situations()


class Net(Base):
    """The usual skeleton, of which each situation overrides what is special."""

    def __init__(self, out: int = 3) -> None:
        super().__init__()
        self.net = mlp(out=out)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(*batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(*batch), prog_bar=True)


def by_logits(module: Any, batch: Any) -> Answer:
    return classified(module.net(batch[0]), batch[1])


@situation("softmax in forward, NLL of its logarithm")
def softmax_in_forward() -> Case:
    class Module(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).softmax(dim=1)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.nll_loss(torch.log(self(x)), y)

    return Case(Module(), **tables(), oracle=lambda m, b: probable(m.net(b[0]).softmax(1), b[1]), empty=zero(0))


@situation("softmax in forward, NLL of its logarithm clamped from below")
def softmax_with_epsilon() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(mlp(), nn.Softmax(dim=-1))
            self.criterion = nn.NLLLoss()

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return self.criterion((self(x) + 1e-8).log(), y)

    return Case(Module(), **tables(), oracle=lambda m, b: probable(m.net(b[0]), b[1]), empty=zero(0))


@situation("sigmoid in forward, BCE on probabilities")
def sigmoid_in_forward() -> Case:
    class Module(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.net(x)).squeeze(1)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy(self(x), y.float())

    return Case(Module(out=1), **tables(classes=2), oracle=lambda m, b: binary(m.net(b[0]), b[1]), empty=zero(0))


@situation("log_softmax in forward, NLL")
def log_softmax() -> Case:
    class Module(Net):
        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.net(x), dim=1)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.nll_loss(self(x), y)

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0))


@situation("class weights")
def class_weights() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 4.0]))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return self.criterion(self(x), y)

    def weighted(module: Any, batch: Any) -> Tensor:
        weights = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)[batch[1]]
        return (weights * entropies(module.net(batch[0]), batch[1])).sum() / weights.sum()

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0), step_loss=weighted, means_only=True)


@situation("label smoothing")
def label_smoothing() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self(x), y, label_smoothing=0.2)

    def oracle(module: Any, batch: Any) -> Answer:
        logits, y = module.net(batch[0]).double(), batch[1]
        minus_logs = logits.logsumexp(1, keepdim=True) - logits
        return log_odds(logits, y), 0.8 * entropies(logits, y) + 0.2 * minus_logs.mean(1)

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("one logit with pos_weight, targets of another shape")
def pos_weight() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(out=1)
            self.register_buffer("ratio", torch.tensor([3.0]))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(x), y[:, None].float(), pos_weight=self.ratio)

    def oracle(module: Any, batch: Any) -> Answer:
        scores, losses = binary(module.net(batch[0]), batch[1])
        return scores, losses * (1 + 2 * batch[1].double())

    return Case(Module(), **tables(classes=2), oracle=oracle, empty=zero(0))


@situation("additive margin in training and validation")
def margin_everywhere() -> Case:
    return _margin(only_in_training=False)


@situation("additive margin in training alone")
def margin_in_training() -> Case:
    return _margin(only_in_training=True)


def _margin(only_in_training: bool) -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(out=5)
            self.prototypes = nn.Parameter(torch.randn(3, 5))

        def cosines(self, x: Tensor) -> Tensor:
            return F.normalize(self(x)) @ F.normalize(self.prototypes).T

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            cosines = self.cosines(x)
            if self.training or not only_in_training:
                cosines = cosines - 0.3 * F.one_hot(y, 3)
            return F.cross_entropy(8 * cosines, y)

    def oracle(module: Any, batch: Any) -> Answer:
        features, own = module.net(batch[0]), module.prototypes
        cosines = (features / features.norm(dim=1, keepdim=True)) @ (own / own.norm(dim=1, keepdim=True)).T
        margin = 0.0 if only_in_training else 0.3
        return classified(8 * (cosines - margin * torch.eye(3)[batch[1]]), batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("one-hot targets")
def one_hot() -> Case:
    def hot(rows: int, seed: int) -> TensorDataset:
        return TensorDataset(normal(rows, 4, seed=seed), torch.eye(3)[integers(3, rows, seed=seed)])

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(batch[0]), batch[1].argmax(1))

    return Case(Net(), **loaders(hot(16, 0), hot(8, 1)), oracle=oracle, empty=zero(0))


@situation("soft targets, several opinions a row")
def soft_targets() -> Case:
    def opinions(rows: int, seed: int) -> TensorDataset:
        return TensorDataset(normal(rows, 4, seed=seed), (2 * normal(rows, 3, seed=seed + 7)).softmax(1))

    def oracle(module: Any, batch: Any) -> Answer:
        logits = module.net(batch[0]).double()
        return None, (batch[1] * (logits.logsumexp(1, keepdim=True) - logits)).sum(1)

    return Case(Net(), **loaders(opinions(16, 0), opinions(8, 1)), oracle=oracle)


@situation("mixed-up inputs and targets in training")
def mixed_up() -> Case:
    class Module(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            share = torch.distributions.Beta(0.4, 0.4).sample().item()
            order = torch.randperm(len(x), device=x.device)
            logits = self(share * x + (1 - share) * x[order])
            return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0))


@situation("rows without a label, -100")
def unlabelled() -> Case:
    def some(rows: int, seed: int) -> TensorDataset:
        labels = integers(3, rows, seed=seed).masked_fill(torch.arange(rows) % 4 == 3, -100)
        return TensorDataset(normal(rows, 4, seed=seed), labels)

    def oracle(module: Any, batch: Any) -> Answer:
        known = batch[1] >= 0
        found = classified(module.net(batch[0]), batch[1].clamp(min=0))
        scores, losses = (torch.where(known, part, torch.nan) for part in found if part is not None)
        return scores, losses

    def over_known(module: Any, batch: Any) -> Tensor:
        return oracle(module, batch)[1].nanmean()  # type: ignore[union-attr]

    return Case(Net(), **loaders(some(16, 0), some(8, 1)), oracle=oracle, step_loss=over_known, means_only=True)


def labels(rows: int, seed: int) -> TensorDataset:
    return TensorDataset(normal(rows, 4, seed=seed), integers(2, rows, 5, seed=seed).float())


@situation("several labels, logits")
def several_logits() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(x), y)

    def oracle(module: Any, batch: Any) -> Answer:
        return several_labels(module.net(batch[0]), batch[1])

    return Case(Module(out=5), **loaders(labels(16, 0), labels(8, 1)), oracle=oracle, empty=zero(0))


@situation("several labels, probabilities, sum over labels")
def several_probabilities() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy(torch.sigmoid(self(x)), y, reduction="none").sum(dim=1).mean()

    def oracle(module: Any, batch: Any) -> Answer:
        return several_labels(module.net(batch[0]), batch[1])[0], None

    def summed(module: Any, batch: Any) -> Tensor:
        return 5 * several_labels(module.net(batch[0]), batch[1])[1].mean()  # type: ignore[union-attr]

    return Case(Module(out=5), **loaders(labels(16, 0), labels(8, 1)), oracle=oracle, empty=zero(0), step_loss=summed)


@situation("sum over rows instead of the mean")
def reduction_sum() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self(x), y, reduction="sum")

    def summed(module: Any, batch: Any) -> Tensor:
        return entropies(module.net(batch[0]), batch[1]).sum()

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0), step_loss=summed)


@situation("weights of rows, reduction none")
def weights_of_rows() -> Case:
    def weighted(rows: int, seed: int) -> TensorDataset:
        return TensorDataset(normal(rows, 4, seed=seed), integers(3, rows, seed=seed), 0.5 + normal(rows, seed=seed).abs())

    class Module(Net):
        def loss(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
            return (F.cross_entropy(self(x), y, reduction="none") * w).sum() / w.sum()

    def by_hand(module: Any, batch: Any) -> Tensor:
        return (batch[2] * entropies(module.net(batch[0]), batch[1])).sum() / batch[2].sum()

    def oracle(module: Any, batch: Any) -> Answer:
        return log_odds(module.net(batch[0]), batch[1]), None

    return Case(Module(), **loaders(weighted(16, 0), weighted(8, 1)), oracle=oracle, step_loss=by_hand)
