"""Batches of many kinds: dicts, dataclasses, several inputs, lengths, time first, sequences of different lengths."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_interactions import players
from tests.situations.losses import Net
from tests.situations.situation import (
    Answer,
    Base,
    Case,
    Situations,
    binary,
    classified,
    integers,
    loaders,
    mlp,
    normal,
    table,
    tokens,
    zero,
)

SITUATIONS = situation = Situations()


class Rows(Dataset[Any]):
    """Any function of a row's number."""

    def __init__(self, count: int, row: Any) -> None:
        self.count, self.row = count, row

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.row(index)


def of_rows(row: Any, collate: Any = None) -> dict[str, Any]:
    return loaders(Rows(16, row), Rows(8, lambda index: row(index + 50)), **({"collate_fn": collate} if collate else {}))


class Stepped(Base):
    """A loss of a batch, the same in both steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch)

    def step(self, batch: Any) -> Tensor:
        raise NotImplementedError


@situation("nested dicts with names and numbers of rows")
def nested_dicts() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def step(self, batch: Any) -> Tensor:
            out = {"logits": self.model(batch["inputs"]["measured"])}
            loss = F.cross_entropy(out["logits"], batch["target"])
            self.log("loss", loss, batch_size=len(batch["name"]))
            return loss

    def row(index: int) -> Any:
        x = normal(4, seed=index)
        return {"name": f"row {index}", "inputs": {"measured": x}, "target": int(x[:3].argmax()), "index": index}

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.model(batch["inputs"]["measured"]), batch["target"])

    return Case(Module(), **of_rows(row), oracle=oracle, empty=zero("inputs", "measured"))


@dataclass
class Graded:
    """A batch of one's own, with its own transfer to a device."""

    features: Tensor
    grades: Tensor

    def to(self, *args: Any, **options: Any) -> "Graded":
        return Graded(self.features.to(*args, **options), self.grades.to(*args, **options))


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@situation("named tuples with the target in a column of a table")
def named_tuple() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp(out=1)

        def step(self, batch: Any) -> Tensor:
            return nn.BCEWithLogitsLoss()(self.model(batch.x).view(-1), (batch.y[:, 1] > 0).float())

    def oracle(module: Any, batch: Any) -> Answer:
        return binary(module.model(batch[0]), batch[1][:, 1] > 0)

    return Case(Module(), **of_rows(lambda i: Pair(normal(4, seed=i), normal(3, seed=i + 300))), oracle=oracle)


@situation("a list of number, row and label")
def with_index() -> Case:
    class Module(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            _number, x, y = batch
            return self.loss(x, y)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            _number, x, y = batch
            self.log("val_loss", self.loss(x, y), batch_size=len(x))

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(batch[1]), batch[2])

    return Case(Module(), **of_rows(lambda i: (i, *table()[i % 16])), oracle=oracle, empty=zero(1))


@situation("categorical and continuous features in one dict")
def categorical_and_continuous() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.ModuleList([nn.Embedding(5, 3), nn.Embedding(4, 2)])
            self.head = mlp(features=8)

        def step(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["categorical"], batch["continuous"]), batch["target"])

        def forward(self, categorical: Tensor, continuous: Tensor) -> Tensor:
            embedded = [embed(categorical[:, at]) for at, embed in enumerate(self.embeddings)]
            return self.head(torch.cat([*embedded, continuous], dim=1))

    def row(index: int) -> Any:
        continuous, categorical = normal(3, seed=index), integers(4, 2, seed=index)
        return {"continuous": continuous, "categorical": categorical, "target": int(continuous.argmax())}

    def oracle(module: Any, batch: Any) -> Answer:
        first, second = (embed.weight[batch["categorical"][:, at]] for at, embed in enumerate(module.embeddings))
        return classified(module.head(torch.cat([first, second, batch["continuous"]], 1)), batch["target"])

    return Case(Module(), **of_rows(row), oracle=oracle)


@situation("two tables as inputs, a bilinear head")
def two_tables() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Bilinear(4, 4, 3)

        def step(self, batch: Any) -> Tensor:
            (first, second), target = batch
            return F.cross_entropy(self.head(self.left(first).tanh(), self.right(second).tanh()), target)

    def row(index: int) -> Any:
        return (normal(3, seed=index), normal(2, seed=index + 300)), int(integers(3, 1, seed=index))

    def oracle(module: Any, batch: Any) -> Answer:
        (first, second), target = batch
        left, right = module.left(first).tanh(), module.right(second).tanh()
        logits = torch.einsum("ri,oij,rj->ro", left, module.head.weight, right) + module.head.bias
        return classified(logits, target)

    both: Any = players.FeatureGroups(leaf=("0.0", "0.1"))
    return Case(Module(), **of_rows(row), oracle=oracle, monitor={"players": both})


@situation("the label is a column of the only tensor")
def label_column() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(features=4)

        def step(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.net(batch[:, :-1]), batch[:, -1].long())

    def row(index: int) -> Any:
        x = normal(4, seed=index)
        return torch.cat([x, x[:3].argmax()[None]])

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(batch[:, :4]), batch[:, 4].long())

    return Case(Module(), **of_rows(row), oracle=oracle)


def padded(batch: Any) -> Any:
    """Pad sequences of a batch, and say how long they are."""
    series, labels = zip(*batch, strict=True)
    lengths = torch.tensor([len(one) for one in series])
    return nn.utils.rnn.pad_sequence(list(series), batch_first=True), lengths, torch.tensor(labels)


def series(index: int) -> Any:
    return normal(3 + index % 4, 2, seed=index), index % 3


@situation("lengths with packed sequences")
def packed() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3)

        def step(self, batch: Any) -> Tensor:
            x, lengths, y = batch
            together = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            _, hidden = self.rnn(together)
            return F.cross_entropy(self.head(hidden[-1]), y)

    def oracle(module: Any, batch: Any) -> Answer:
        x, lengths, y = batch
        last = [module.rnn(one[None, :length])[0][0, -1] for one, length in zip(x, lengths.tolist(), strict=True)]
        return classified(module.head(torch.stack(last)), y)

    return Case(Module(), **of_rows(series, padded), oracle=oracle, empty=zero(0))


@situation("key_padding_mask in a transformer, batches of different lengths")
def key_padding_mask() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(2, 8)
            layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=8, dropout=0.1, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(8, 3)

        def step(self, batch: Any) -> Tensor:
            x, lengths, y = batch
            mask = torch.arange(x.size(1), device=x.device)[None] >= lengths[:, None]
            hidden = self.encoder(self.embed(x), src_key_padding_mask=mask).masked_fill(mask[..., None], 0.0)
            return F.cross_entropy(self.head(hidden.sum(1) / lengths[:, None]), y)

    def oracle(module: Any, batch: Any) -> Answer:
        x, lengths, y = batch
        rows = zip(x, lengths.tolist(), strict=True)
        means = [module.encoder(module.embed(one[None, :length]))[0].mean(0) for one, length in rows]
        return classified(module.head(torch.stack(means)), y)

    data = loaders(Rows(16, series), Rows(8, lambda i: series(i + 3)), collate_fn=padded)
    data["train"] = DataLoader(Rows(16, series), batch_size=4, collate_fn=padded)  # type: ignore[arg-type]
    return Case(Module(), **data, oracle=oracle)


@situation("time first, the batch on the second axis")
def time_first() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(2, 5), nn.Linear(5, 3)

        def step(self, batch: Any) -> Tensor:
            outputs, _ = self.rnn(batch["x"])
            return F.cross_entropy(self.head(outputs[-1]), batch["y"])

    def collate(rows: Any) -> Any:
        xs, ys = zip(*rows, strict=True)
        return {"x": torch.stack(xs, dim=1), "y": torch.tensor(ys)}

    def oracle(module: Any, batch: Any) -> Answer:
        last = [module.rnn(one[:, None])[0][-1, 0] for one in batch["x"].unbind(1)]
        return classified(module.head(torch.stack(last)), batch["y"])

    return Case(Module(), **of_rows(lambda i: (normal(6, 2, seed=i), i % 3), collate), oracle=oracle, empty=zero("x"))


@situation("signals with channels, one label")
def signals() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
            )

    def oracle(module: Any, batch: Any) -> Answer:
        hidden = F.conv1d(batch[0], module.net[0].weight, module.net[0].bias, padding=1).clamp(min=0).mean(2)
        return classified(hidden @ module.net[4].weight.T + module.net[4].bias, batch[1])

    return Case(Module(), **of_rows(lambda i: (normal(2, 20, seed=i), i % 3)), oracle=oracle, empty=zero(0))


@situation("a label for each step of a series, masked mean of unreduced losses")
def masked_mean() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3)

        def step(self, batch: Any) -> Tensor:
            x, y, mask = batch
            logits = self.head(self.rnn(x)[0])
            losses = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")
            return (losses * mask).sum() / mask.sum()

    def oracle(module: Any, batch: Any) -> Answer:
        return tokens(module.head(module.rnn(batch[0])[0]), batch[1].where(batch[2] > 0, -100))

    return Case(Module(), **of_rows(labelled_steps), oracle=oracle, empty=zero(0), step_loss=over_steps, means_only=True)


@situation("a label for each step of a series, logits[mask]")
def logits_of_mask() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3)

        def step(self, batch: Any) -> Tensor:
            x, y, mask = batch
            kept = mask.bool()
            return F.cross_entropy(self.head(self.rnn(x)[0])[kept], y[kept])

    def oracle(module: Any, batch: Any) -> Answer:
        return tokens(module.head(module.rnn(batch[0])[0]), batch[1].where(batch[2] > 0, -100))

    return Case(Module(), **of_rows(labelled_steps), oracle=oracle, empty=zero(0), step_loss=over_steps, means_only=True)


def labelled_steps(index: int) -> Any:
    mask = (torch.arange(5) < 2 + index % 4).float()
    return normal(5, 2, seed=index), integers(3, 5, seed=index), mask


def over_steps(module: Any, batch: Any) -> Tensor:
    x, y, mask = batch
    logits = module.head(module.rnn(x)[0]).double()
    losses = logits.logsumexp(-1) - logits.gather(-1, y[..., None])[..., 0]
    return (losses * mask).sum() / mask.sum()


@situation("labels as floats [rows, 1] in a dataclass")
def in_dataclass() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(out=1)

        def step(self, batch: Any) -> Tensor:
            loss = F.binary_cross_entropy_with_logits(self.net(batch.features), batch.grades)
            self.log("loss", loss, batch_size=len(batch.grades))
            return loss

    def collate(rows: Any) -> Graded:
        return Graded(*map(torch.stack, zip(*rows, strict=True)))

    def oracle(module: Any, batch: Any) -> Answer:
        return binary(module.net(batch.features), batch.grades)

    row = lambda i: (normal(4, seed=i), torch.tensor([float(i % 2)]))  # noqa: E731
    return Case(Module(), **of_rows(row, collate), oracle=oracle)
