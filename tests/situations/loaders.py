"""Loaders: files opened lazily or in workers, streams, several loaders, data modules, samplers."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from tests.helpers.files import LazyFile, open_file
from tests.situations.batches import Stepped
from tests.situations.losses import Net, by_logits
from tests.situations.situation import Answer, Case, Situations, classified, mlp, normal, table, zero

SITUATIONS = situation = Situations()


def case(train: Any, val: Any, module: Any = None, **options: Any) -> Case:
    return Case(Net() if module is None else module, train, by_logits, val, **{"empty": zero(0), **options})


def held_out(**options: Any) -> DataLoader[Any]:
    return DataLoader(table(8, seed=1), batch_size=8, **options)


@situation("a file that is opened lazily, read by two workers")
def lazy_file() -> Case:
    train, val = LazyFile(table()), LazyFile(table(8, seed=1))
    return case(
        DataLoader(train, batch_size=8, shuffle=True, num_workers=2, persistent_workers=True),
        DataLoader(val, batch_size=8, num_workers=2, persistent_workers=True),
    )


@situation("a file that is opened in worker_init_fn")
def opened_in_workers() -> Case:
    options: dict[str, Any] = {"batch_size": 8, "num_workers": 2, "worker_init_fn": open_file}
    train, val = LazyFile(table(), in_workers=True), LazyFile(table(8, seed=1), in_workers=True)
    return case(DataLoader(train, shuffle=True, **options), DataLoader(val, **options))


@situation("validation on training rows first, on others second")
def training_rows_in_validation() -> Case:
    class Module(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            name = ["train_eval", "val"][dataloader_idx]
            self.log(f"{name}_loss", self.loss(*batch), add_dataloader_idx=False)

    data = table()
    loaders = [DataLoader(data, batch_size=8), held_out()]
    return case(DataLoader(data, batch_size=8, shuffle=True), loaders, Module(), step_loss=None)


@situation("a dict of validation loaders")
def dict_of_validation() -> Case:
    class Module(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self.loss(*batch))

    other = DataLoader(table(8, seed=2), batch_size=8)
    return case(DataLoader(table(), batch_size=8), {"easy": held_out(), "hard": other}, Module(), step_loss=None)


class Both(Stepped):
    """Labelled and unlabelled rows in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch["labelled"]
        (other,) = batch["unlabelled"]
        consistent = F.mse_loss(self.net(other + 0.1 * torch.randn_like(other)), self.net(other).detach())
        return F.cross_entropy(self.net(x), y) + 0.1 * consistent

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


def two_loaders() -> dict[str, DataLoader[Any]]:
    unlabelled = TensorDataset(normal(16, 4, seed=5))
    return {
        "labelled": DataLoader(table(), batch_size=8, shuffle=True),
        "unlabelled": DataLoader(unlabelled, batch_size=8, shuffle=True),
    }


def of_both(module: Any, batch: Any) -> Answer:
    """Training batches have another shape than those of validation."""
    x, y = batch["labelled"] if isinstance(batch, dict) else batch
    return classified(module.net(x), y)


@situation("a dict of training loaders")
def dict_of_training() -> Case:
    return Case(Both(), two_loaders(), of_both, held_out())


@situation("a CombinedLoader for training")
def combined() -> Case:
    return Case(Both(), CombinedLoader(two_loaders(), mode="max_size_cycle"), of_both, held_out())


class Stream(IterableDataset[Any]):
    """Rows that only pass.

    Args:
        data: The rows.
    """

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        yield from (self.data[index] for index in torch.randperm(len(self.data)).tolist())


@situation("a stream of rows")
def stream() -> Case:
    return case(DataLoader(Stream(table()), batch_size=8), DataLoader(Stream(table(8, seed=1)), batch_size=8), epochs=(1, 2))


class Buckets(IterableDataset[Any]):
    """Whole batches, each of another length.

    Args:
        count: How many batches.
        seed: What they are made of.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.count):
            yield normal(4, 6 + number % 2, 2, seed=self.seed + number), torch.arange(4) % 3


@situation("a stream of batches of different lengths")
def stream_of_lengths() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.net = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.rnn(x)[1][0])

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(torch.stack([module.rnn(one[None])[0][0, -1] for one in batch[0]])), batch[1])

    train, val = (DataLoader(Buckets(count, seed), batch_size=None) for count, seed in ((4, 0), (2, 50)))
    return Case(Module(), train, oracle, val, empty=zero(0), epochs=(1, 2))


@situation("a data module that splits and normalises")
def data_module() -> Case:
    class Data(pl.LightningDataModule):
        def __init__(self, batch_size: int = 8) -> None:
            super().__init__()
            self.batch_size = batch_size

        def setup(self, stage: str) -> None:
            generator = torch.Generator().manual_seed(1)
            self.train, self.val = random_split(table(24), [16, 8], generator=generator)

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True)

        def val_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.val, self.batch_size)

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            if self.trainer.training:
                x = x + 0.1 * torch.randn_like(x)
            return x / 2, y

    return Case(Net(), Data(), by_logits)


@situation("no validation loader, and a validation step")
def no_validation() -> Case:
    return case(DataLoader(table(), batch_size=8, shuffle=True), None, warned="no validation loader")


@situation("a weighted sampler and rows left over")
def weighted_sampler() -> Case:
    sampler = WeightedRandomSampler(torch.rand(21).tolist(), 21, generator=torch.Generator().manual_seed(2))
    return case(DataLoader(table(21), batch_size=8, sampler=sampler), held_out())


class Balanced(Sampler[list[int]]):
    """Batches of even numbers, then of odd ones, in another order each time."""

    def __init__(self) -> None:
        self.epochs = 0

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[list[int]]:
        self.epochs += 1
        for odd in range(2):
            yield [2 * index + odd for index in torch.randperm(8).tolist()]


@situation("a batch sampler that counts its epochs")
def batch_sampler() -> Case:
    return case(DataLoader(table(), batch_sampler=Balanced()), held_out())


@situation("one row a batch")
def one_row() -> Case:
    return case(DataLoader(table(8), batch_size=1, shuffle=True), held_out())


class ByLists(Dataset[Any]):
    """Takes a list of numbers and gives a whole batch.

    Args:
        data: The rows.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Any) -> Any:
        rows = [self.data[index] for index in indices]
        return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


@situation("a dataset that gives whole batches for lists of numbers")
def by_lists() -> Case:
    data = ByLists(Subset(ConcatDataset([table(12), table(12, seed=3)]), list(range(4, 20))))
    train = DataLoader(data, sampler=BatchSampler(RandomSampler(data), 8, drop_last=False), batch_size=None)
    return case(train, held_out())
