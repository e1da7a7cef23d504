"""Data with a life of their own: open files, memories, generators, random splits, streams that go on, loaders that reload."""

import os
import random
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, get_worker_info, random_split

from tests.helpers.files import LazyFile
from tests.situations.loaders import case, held_out
from tests.situations.losses import Net, by_logits
from tests.situations.situation import Case, Situations, table

SITUATIONS = situation = Situations()

SHUFFLED = "shuffling enabled"
"""What Lightning says of validation data that are shuffled."""


class Zipped(Dataset[Any]):
    """Rows in an archive that is opened by whoever reads first, and not to be read by another process than that."""

    def __init__(self, rows: int = 24) -> None:
        # Archives know their names.
        self.path, self.data = Path(tempfile.gettempdir()) / f"rows-{os.getpid()}.zip", table(rows)
        self.archive: zipfile.ZipFile | None = None
        self.opened_by = 0
        with zipfile.ZipFile(self.path, "w") as archive:
            for index, row in enumerate(self.data.tensors[0]):
                archive.writestr(str(index), row.numpy().tobytes())

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        if self.archive is None:
            self.archive, self.opened_by = zipfile.ZipFile(self.path), os.getpid()
        if self.opened_by != os.getpid():
            raise RuntimeError("the archive is open in another process")
        return torch.from_numpy(np.frombuffer(self.archive.read(str(index)), np.float32).copy()), self.data[index][1]


def halves(data: Any) -> tuple[Any, Any]:
    """The first 16 rows, and the others."""
    return Subset(data, range(16)), Subset(data, range(16, len(data)))


@situation("an archive that is opened lazily, read by two workers")
def archive() -> Case:
    train, val = halves(Zipped())
    options: dict[str, Any] = {"batch_size": 8, "num_workers": 2}
    return case(DataLoader(train, shuffle=True, **options), DataLoader(val, **options))


@situation("an archive that workers read in training, and the main process in validation")
def archive_in_both() -> Case:
    train, val = halves(Zipped())
    # The first validation comes when the workers of all epochs have started.
    options = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}
    return case(DataLoader(train, batch_size=8, num_workers=1), DataLoader(val, batch_size=8), trainer=options)


@situation("a file that is opened lazily, read by a spawned worker")
def spawned() -> Case:
    # Once it is open it cannot be pickled.
    options: dict[str, Any] = {"batch_size": 8, "num_workers": 1, "multiprocessing_context": "spawn"}
    data = LazyFile(table(24))
    train, val = halves(data)
    return case(DataLoader(train, persistent_workers=True, **options), DataLoader(val, persistent_workers=True, **options))


class Remembering(Dataset[Any]):
    """Gives more noise the more often it was read, and keeps what it gave."""

    def __init__(self, rows: int = 16) -> None:
        self.data, self.reads, self.cache = table(rows), 0, dict[int, Any]()
        self.history: list[int] = []

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        self.history.append(index)
        x, y = self.data[index]
        self.cache.setdefault(index, x)
        return x + 0.001 * self.reads, y


@situation("a dataset that remembers what was read of it")
def remembering() -> Case:
    return case(DataLoader(Remembering(), batch_size=8, shuffle=True), held_out())


class Reordered(Sampler[int]):
    """Lets its dataset draw another order before each epoch."""

    def __init__(self, data: Any) -> None:
        self.data, self.epochs = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        self.epochs += 1
        self.data.order = torch.randperm(len(self.data)).tolist()
        return iter(range(len(self.data)))


class InOrder(Dataset[Any]):
    """Rows in the order that a sampler has chosen last."""

    def __init__(self) -> None:
        self.data, self.order = table(16), list(range(16))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[self.order[index]]


@situation("a sampler that changes its dataset")
def reordered() -> Case:
    data = InOrder()
    return case(DataLoader(data, batch_size=8, sampler=Reordered(data)), held_out())


class OneGenerator(Sampler[int]):
    """A shuffle from a generator that the dataset draws from, too."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(len(self.data), generator=self.data.generator).tolist())


class Noisy(Dataset[Any]):
    """Noise from every kind of generator: its own ones and the global ones."""

    def __init__(self, rows: int = 16) -> None:
        self.data = table(rows)
        self.generator, self.rng, self.python = torch.Generator().manual_seed(1), np.random.default_rng(2), random.Random(3)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        own = torch.rand(4, generator=self.generator) + self.rng.uniform() + self.python.random()
        return (x + 0.1 * (own + torch.rand(4) + np.random.uniform() + random.random())).float(), y


@situation("noise from all generators, one shared by dataset and sampler")
def one_generator() -> Case:
    data = Noisy()
    loader = DataLoader(data, batch_size=8, sampler=OneGenerator(data), generator=torch.Generator().manual_seed(5))
    return case(loader, held_out(shuffle=True), warned=SHUFFLED)


@situation("noise from all generators in two workers")
def noise_in_workers() -> Case:
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2)
    return case(loader, held_out(num_workers=2))


@situation("noise from all generators in workers that persist")
def noise_in_persistent_workers() -> Case:
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2, persistent_workers=True)
    return case(loader, held_out(num_workers=1, persistent_workers=True))


class SplitLate(pl.LightningDataModule):
    """Draws its validation part when the loader is asked for, and another training part every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.splits, self.data, self.val_data = 0, table(24), table(24, seed=1)

    def train_dataloader(self) -> DataLoader[Any]:
        self.splits += 1
        part, _ = random_split(self.data, [16, 8])
        return DataLoader(part, batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        self.splits += 1
        self.part, _ = random_split(self.val_data, [8, 16])
        return DataLoader(self.part, batch_size=8)


@situation("a validation part that is drawn when it is asked for, after the second epoch")
def split_late() -> Case:
    return Case(Net(), SplitLate(), by_logits, trainer={"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2})


@situation("loaders that are drawn anew every epoch")
def reloaded() -> Case:
    return Case(Net(), SplitLate(), by_logits, trainer={"reload_dataloaders_every_n_epochs": 1})


class Sharded(IterableDataset[Any]):
    """A stream of which each worker gives its share."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        self.data = table(rows, seed=seed)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from (self.data[index] for index in range(first, len(self.data), step))


@situation("a stream that workers share out")
def sharded() -> Case:
    train, val = (DataLoader(Sharded(rows, seed), batch_size=4, num_workers=2) for seed, rows in enumerate((16, 8)))
    return case(train, val, epochs=(1, 2))


class GoesOn(IterableDataset[Any]):
    """A stream that goes on in the next epoch where it was."""

    def __init__(self) -> None:
        self.data, self.position = table(40), 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(16):
            yield self.data[self.position % 40]
            self.position += 1


@situation("a stream that goes on where it was")
def goes_on() -> Case:
    return case(DataLoader(GoesOn(), batch_size=8), held_out(), epochs=(1, 2))


class Stateful(DataLoader[Any]):
    """A loader that can be saved, and counts what it has given."""

    given = 0

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


@situation("a loader with a state")
def stateful() -> Case:
    return case(Stateful(table(), batch_size=8, shuffle=True), held_out())


class OwnIterator(DataLoader[Any]):
    """A loader that keeps one iterator for ever."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        object.__setattr__(self, "kept", super().__iter__())

    def __iter__(self) -> Any:
        for _ in range(len(self)):
            try:
                batch = next(self.kept)
            except StopIteration:
                object.__setattr__(self, "kept", super().__iter__())
                batch = next(self.kept)
            yield batch


@situation("a loader that keeps its iterator")
def own_iterator() -> Case:
    return case(OwnIterator(table(), batch_size=8, shuffle=True), held_out(), epochs=(1, 2))


class Counting:
    """A collate function that counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, rows: list[Any]) -> Any:
        self.calls += 1
        xs, ys = zip(*rows, strict=True)
        return torch.stack(xs) + 0.01 * self.calls, torch.stack(ys)


@situation("a collate function with a memory")
def counting_collate() -> Case:
    return case(DataLoader(table(), batch_size=8, shuffle=True, collate_fn=Counting()), held_out())


class Counted(pl.LightningDataModule):
    """Hooks of transfer that keep what they see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.rows = list[int](), 0

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(table(), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return held_out()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.rows += len(batch[1])
        self.seen.append(len(batch[1]))
        return batch


@situation("a data module whose hooks of transfer have a memory")
def counted_transfer() -> Case:
    return Case(Net(), Counted(), by_logits)


@situation("a part of the batches, and validation within epochs")
def limits() -> Case:
    options = {"limit_train_batches": 3, "limit_val_batches": 1, "val_check_interval": 1}
    val = DataLoader(table(16, seed=1), batch_size=8, shuffle=True)
    return case(DataLoader(table(32), batch_size=8, shuffle=True), val, trainer=options, warned=SHUFFLED)


@situation("validation every second epoch, no sanity check")
def rare_validation() -> Case:
    options = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}
    return case(DataLoader(Noisy(), batch_size=8, shuffle=True), held_out(shuffle=True), trainer=options, warned=SHUFFLED)


@situation("one batch is overfitted")
def overfit() -> Case:
    return case(DataLoader(table(), batch_size=8), held_out(), trainer={"overfit_batches": 1})
