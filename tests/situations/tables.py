"""Regression, several terms of a loss, and where a module has its parts."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests.situations.losses import Net, by_logits
from tests.situations.situation import (
    Answer,
    Base,
    Case,
    Situations,
    classified,
    entropies,
    integers,
    loaders,
    log_odds,
    mlp,
    normal,
    tables,
    zero,
)

SITUATIONS = situation = Situations()


def numbers(rows: int, seed: int, outputs: int | None = None) -> TensorDataset:
    inputs = normal(rows, 4, seed=seed)
    targets = inputs @ normal(4, outputs or 1, seed=9)
    return TensorDataset(inputs, targets if outputs else targets[:, 0])


def regression(module: Any, oracle: Any, outputs: int | None = None, **options: Any) -> Case:
    return Case(module, **loaders(numbers(16, 0, outputs), numbers(8, 1, outputs)), oracle=oracle, **options)


@situation("squared error of one number")
def squared_error() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(self(x).squeeze(-1), y)

    def oracle(module: Any, batch: Any) -> Answer:
        predicted = module.net(batch[0])[:, 0].double()
        return predicted, (predicted - batch[1]) ** 2

    return regression(Module(out=1), oracle, empty=zero(0))


@situation("absolute error of one number, targets [rows, 1]")
def absolute_error() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(out=1)
            self.criterion = nn.L1Loss()

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return self.criterion(self(x), y)

    def oracle(module: Any, batch: Any) -> Answer:
        predicted = module.net(batch[0]).double()
        return predicted[:, 0], (predicted - batch[1]).abs()[:, 0]

    return regression(Module(), oracle, outputs=1, empty=zero(0))


@situation("Huber loss")
def huber() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.huber_loss(self(x).flatten(), y, delta=0.5)

    def oracle(module: Any, batch: Any) -> Answer:
        predicted = module.net(batch[0])[:, 0].double()
        error = (predicted - batch[1]).abs()
        return predicted, torch.where(error < 0.5, error**2 / 2, 0.5 * (error - 0.25))

    return regression(Module(out=1), oracle, empty=zero(0))


@situation("targets are standardised in the step")
def standardised_targets() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(out=1)
            self.register_buffer("mean", torch.tensor(0.4))
            self.register_buffer("std", torch.tensor(2.5))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(self(x)[:, 0], (y - self.mean) / self.std)

    def oracle(module: Any, batch: Any) -> Answer:
        predicted = module.net(batch[0])[:, 0].double()
        return predicted, (predicted - (batch[1].double() - 0.4) / 2.5) ** 2

    return regression(Module(), oracle, empty=zero(0))


@situation("several outputs, smooth L1")
def several_outputs() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.smooth_l1_loss(self(x), y)

    def oracle(module: Any, batch: Any) -> Answer:
        error = (module.net(batch[0]).double() - batch[1]).abs()
        return None, torch.where(error < 1, error**2 / 2, error - 0.5).mean(1)

    return regression(Module(out=2), oracle, outputs=2)


@situation("forward gives features, the head is in the step")
def head_in_step() -> Case:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            """Embed, for retrieval."""
            return F.normalize(self.encoder(x), dim=-1)

        def _shared_step(self, batch: Any, stage: str) -> Tensor:
            x, y = batch
            logits = self.head(self(x))
            loss = F.cross_entropy(logits, y)
            self.log_dict({f"{stage}_loss": loss, f"{stage}_acc": (logits.argmax(1) == y).float().mean()})
            return loss

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self._shared_step(batch, "train")

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self._shared_step(batch, "val")

    def oracle(module: Any, batch: Any) -> Answer:
        features = module.encoder(batch[0])
        features = features / features.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return classified(module.head(features), batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("no forward")
def no_forward() -> Case:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()
            self.criterion = nn.CrossEntropyLoss()

        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            loss = self.criterion(self.net(batch[0]), batch[1])
            return {"loss": loss, "batch_size": torch.tensor(len(batch[0]))}

        def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            logits = self.net(batch[0])
            return {"loss": self.criterion(logits, batch[1]), "predicted": logits.argmax(1)}

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0))


@situation("inputs are standardised in the step")
def standardised_inputs() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.5, -1.0, 0.0, 2.0]))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self((x - self.mean) / 3), y)

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net((batch[0] - torch.tensor([0.5, -1.0, 0.0, 2.0])) / 3), batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("cross-entropy and a tenth of a reconstruction")
def auxiliary() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(3, 4)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            logits = self(x)
            return F.cross_entropy(logits, y) + 0.1 * F.mse_loss(self.decoder(logits), x)

    def total(module: Any, batch: Any) -> Tensor:
        logits = module.net(batch[0])
        return entropies(logits, batch[1]).mean() + 0.1 * (module.decoder(logits) - batch[0]).pow(2).mean()

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0), step_loss=total)


@situation("two heads, the second one at a tenth")
def two_heads() -> Case:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.kind, self.size = mlp(out=6), nn.Linear(6, 3), nn.Linear(6, 2)

        def loss(self, batch: Any) -> Tensor:
            hidden = self.trunk(batch["x"]).relu()
            of_size = F.cross_entropy(self.size(hidden), batch["size"])
            return F.cross_entropy(self.kind(hidden), batch["kind"]) + 0.1 * of_size

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch), batch_size=len(batch["x"]))

    def rows(count: int, seed: int) -> list[dict[str, Tensor]]:
        x, kind, size = normal(count, 4, seed=seed), integers(3, count, seed=seed), integers(2, count, seed=seed + 1)
        return [{"x": x[row], "kind": kind[row], "size": size[row]} for row in range(count)]

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.kind(module.trunk(batch["x"]).relu()), batch["kind"])

    def total(module: Any, batch: Any) -> Tensor:
        hidden = module.trunk(batch["x"]).relu()
        of_kind, of_size = entropies(module.kind(hidden), batch["kind"]), entropies(module.size(hidden), batch["size"])
        return of_kind.mean() + 0.1 * of_size.mean()

    return Case(Module(), **loaders(rows(16, 0), rows(8, 1)), oracle=oracle, empty=zero("x"), step_loss=total)


@situation("a penalty on the weights")
def penalty() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self(x), y) + 1e-2 * sum(p.abs().sum() for p in self.parameters())

    def total(module: Any, batch: Any) -> Tensor:
        return entropies(module.net(batch[0]), batch[1]).mean() + 1e-2 * sum(p.abs().sum() for p in module.parameters())

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0), step_loss=total)


@situation("a variational autoencoder: squared error and KL divergence")
def variational() -> Case:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(out=4), nn.Linear(2, 4)

        def loss(self, x: Tensor) -> Tensor:
            mean, log_variance = self.encoder(x).chunk(2, dim=1)
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
            kl = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(1).mean()
            return F.mse_loss(self.decoder(z), x) + 0.01 * kl

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch[0])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch[0]))

    def oracle(module: Any, batch: Any) -> Answer:
        return None, (module.decoder(module.encoder(batch[0])[:, :2]) - batch[0]).double().pow(2).mean(1)

    def total(module: Any, batch: Any) -> Tensor:
        mean, log_variance = module.encoder(batch[0]).chunk(2, dim=1)
        kl = (mean.pow(2) + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return oracle(module, batch)[1].mean() + 0.01 * kl.mean()  # type: ignore[union-attr]

    data = [TensorDataset(normal(rows, 4, seed=rows)) for rows in (16, 8)]
    return Case(Module(), **loaders(*data), oracle=oracle, step_loss=total)


@situation("distilled from a frozen teacher")
def distilled() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = mlp().requires_grad_(False)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            logits = self(x)
            with torch.no_grad():
                taught = self.teacher(x).softmax(1)
            return F.cross_entropy(logits, y) + 0.5 * F.kl_div(logits.log_softmax(1), taught, reduction="batchmean")

    def total(module: Any, batch: Any) -> Tensor:
        logits, taught = module.net(batch[0]).double(), module.teacher(batch[0]).double().log_softmax(1)
        divergence = (taught.exp() * (taught - logits.log_softmax(1))).sum(1)
        return entropies(logits, batch[1]).mean() + 0.5 * divergence.mean()

    return Case(Module(), **tables(), oracle=by_logits, empty=zero(0), step_loss=total)


@situation("focal loss on top of an unreduced cross-entropy")
def focal() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            losses = F.cross_entropy(self(x), y, reduction="none")
            return ((1 - (-losses).exp()) ** 2 * losses).mean()

    def oracle(module: Any, batch: Any) -> Answer:
        return log_odds(module.net(batch[0]), batch[1]), None

    def own(module: Any, batch: Any) -> Tensor:
        losses = entropies(module.net(batch[0]), batch[1])
        return ((1 - (-losses).exp()) ** 2 * losses).mean()

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0), step_loss=own, warned="own loss is")
