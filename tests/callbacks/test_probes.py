from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, get_worker_info

from lightning_interactions import ProbeSampling, tasks
from lightning_interactions.callbacks.probes import ProbeKeeper
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import shadowed
from lightning_interactions.measuring.meter import HELD_OUT, TRAINING
from lightning_interactions.records import ProbeGroup, Probes, Rows
from tests.callbacks.runs import TINY_SET_UP, few, quiet_trainer
from tests.helpers.models import PlainTabularClassifier, TabularClassifier, tabular_data, tabular_loader

pytestmark = TINY_SET_UP


class Idle(LightningModule):
    """Takes any batch and learns nothing from it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, _batch: Any, _batch_index: int) -> Tensor:
        return 0 * self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validated(Idle):
    def validation_step(self, _batch: Any, _batch_index: int, dataloader_idx: int = 0) -> None:
        pass


class WholeBatches(tasks.Classification):
    """The whole batch is the input, as it is for a module's own step."""

    def read(self, model: torch.nn.Module, batch: Rows) -> Probes:
        return Probes.joined(ProbeGroup(batch, Rows.of(torch.zeros(len(batch)))))


class Pairs(tasks.Classification):
    """Batches ``(inputs, targets)``, for modules without a ``forward``."""

    def forward(self, model: torch.nn.Module, inputs: Any) -> Tensor:
        return torch.zeros(len(inputs), 3)

    def loss(self, score: Tensor, targets: Any) -> Tensor:
        return torch.full_like(score, torch.nan)


class Keeps(Callback):
    """Looks for probes when training starts, and watches what passes.

    Args:
        training: Number of training probes.
        held_out: Number of held-out probes.
        task: Finds inputs and targets.
        sample_size: How many inputs baseline values are chosen by.
    """

    def __init__(self, training: int = 6, held_out: int = 4, task: Task | None = None, sample_size: int = 0) -> None:
        self.keeper = ProbeKeeper(ProbeSampling(training, held_out), WholeBatches() if task is None else task)
        self.sample_size = sample_size
        self.at_start: dict[str, Probes] = {}
        self.after_find: Callable[[], object] = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with shadowed(pl_module, pl_module.device, 0, trainer) as shadow:
            self.keeper.find(trainer, shadow, self.sample_size)
        self.at_start = dict(self.keeper.probes)
        self.after_find()
        assert trainer.training

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.keeper.watch(TRAINING, batch)
        if self.keeper.unchecked:
            with shadowed(pl_module, pl_module.device, 0, trainer) as shadow:
                self.keeper.check_first(shadow)
        self.keeper.take_complete(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking:
            self.keeper.watch_sanity_check(batch, dataloader_idx)
        else:
            self.keeper.watch(HELD_OUT, batch, dataloader_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keeper.take_passed(trainer, pl_module)


def keep(
    root: Path,
    train: Any,
    val: Any = None,
    *,
    callback: Keeps | None = None,
    model: LightningModule | None = None,
    fit: dict[str, Any] | None = None,
    **options: Any,
) -> Keeps:
    """Train for an epoch with a keeper of probes."""
    keeps = Keeps(**{**options, **({} if val is not None else {"held_out": 0})}) if callback is None else callback
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, **(fit or {})}
    module = (Idle() if val is None else Validated()) if model is None else model
    quiet_trainer(root, callbacks=[keeps], **settings).fit(module, train, val)
    return keeps


class Numbers(Dataset[tuple[Tensor, int]]):
    """Sample ``index`` is a row of that number; it counts how often it is read, and where it may be."""

    def __init__(self, size: int, first: int = 0, *, in_workers: bool = False) -> None:
        self.size = size
        self.first = first
        self.in_workers = in_workers
        self.note = list[int]().append  # Where nobody finds it who puts back what hangs on a dataset.

    @property
    def reads(self) -> list[int]:
        own: Any = self.note
        found: list[int] = own.__self__
        return found

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        assert self.in_workers is (get_worker_info() is not None)
        self.note(index)
        return torch.full((3,), float(self.first + index)), index % 3


def numbers_of(probes: Probes) -> list[int]:
    """The numbers of the rows of :class:`Numbers`."""
    (leaf, *_) = zip(*(group.inputs.leaves.values() for group in probes.groups), strict=True)
    return [int(number) for part in leaf for number in part.reshape(len(part), -1)[:, 0]]


# How many samples are read, and where


def test_as_many_samples_are_read_as_there_are_probes(tmp_path: Path) -> None:
    train, val = Numbers(40), Numbers(30, 100)
    reads = []
    keeps = Keeps()
    keeps.after_find = lambda: reads.append((list(train.reads), list(val.reads)))
    keep(tmp_path, DataLoader(train, 16, shuffle=True), DataLoader(val, 16), callback=keeps)
    ((of_training, of_held_out),) = reads
    assert (len(of_training), len(of_held_out)) == (6, 4)
    assert sorted(numbers_of(keeps.at_start[TRAINING])) == sorted(of_training)
    assert sorted(numbers_of(keeps.at_start[HELD_OUT])) == sorted(100 + index for index in of_held_out)


def test_more_samples_are_read_for_baseline_values_alone(tmp_path: Path) -> None:
    train = Numbers(40)
    keeps = Keeps(held_out=0, sample_size=30)
    reads: list[int] = []
    keeps.after_find = lambda: reads.extend(train.reads)
    keep(tmp_path, DataLoader(train, 16, shuffle=True), callback=keeps)
    assert len(reads) == len(set(reads)) == 30
    assert len(keeps.at_start[TRAINING]) == 6
    assert keeps.keeper.sample is not None
    assert sorted(numbers_of(keeps.keeper.sample)) == sorted(reads)
    alone = keep(tmp_path, DataLoader(Numbers(40), 16, shuffle=True))
    assert numbers_of(keeps.at_start[TRAINING]) == numbers_of(alone.at_start[TRAINING])


def test_samples_are_read_in_workers_where_the_loaders_read_there(tmp_path: Path) -> None:
    train, val = Numbers(40, in_workers=True), Numbers(30, 100, in_workers=True)
    keeps = keep(tmp_path, DataLoader(train, 16, num_workers=2), DataLoader(val, 16, num_workers=1))
    assert {split: len(probes) for split, probes in keeps.at_start.items()} == {TRAINING: 6, HELD_OUT: 4}
    assert train.reads == val.reads == []


def test_inputs_that_reference_models_have_seen_are_replaced(tmp_path: Path) -> None:
    keeps = Keeps(held_out=0)
    seen = Rows(tree := [torch.arange(30.0)[:, None].expand(30, 3), torch.arange(30) % 3], 30, {"0": 0, "1": 0})
    keeps.keeper.refused = frozenset(Probes.joined(ProbeGroup(seen, Rows.of(tree[1]))).fingerprints)
    with pytest.warns(UserWarning, match="trained on .* none of these becomes a probe"):
        keep(tmp_path, DataLoader(Numbers(40), 16), callback=keeps)
    assert len(keeps.at_start[TRAINING]) == 6
    assert min(numbers_of(keeps.at_start[TRAINING])) >= 30


class Noisy(Numbers):
    """Draws from a generator of its own, and from a global one."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.random = np.random.default_rng(0)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((4,), float(self.random.random())) + torch.rand(4), index % 3


def test_training_is_the_same_to_the_bit_whether_probes_are_drawn_or_not(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [Keeps(held_out=0, task=tasks.Classification())]):
        torch.manual_seed(0)
        model = PlainTabularClassifier()
        loader = DataLoader(Noisy(24), 8, shuffle=True, generator=torch.Generator().manual_seed(4))
        quiet_trainer(tmp_path, callbacks=callbacks).fit(model, loader)
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


# The hooks of transfer


class Augments:
    """Adds 1000 in training, and 1 always."""

    trainer: Any

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + (1000 if self.trainer.training else 0) + 1, batch[1]


class AugmentingModule(Augments, Validated):
    trainer: Any


class AugmentingData(Augments, LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(Numbers(40), 16)

    def val_dataloader(self) -> Any:
        return DataLoader(Numbers(30, 100), 16)


@pytest.mark.parametrize("of_data", [False, True], ids=["module", "data module"])
def test_both_splits_are_moved_as_in_validation(tmp_path: Path, of_data: bool) -> None:
    keeps, data = Keeps(), AugmentingData()
    trainer = quiet_trainer(tmp_path, callbacks=[keeps], max_epochs=1)
    if of_data:
        trainer.fit(Validated(), datamodule=data)
    else:
        trainer.fit(AugmentingModule(), data.train_dataloader(), data.val_dataloader())
    assert set(numbers_of(keeps.at_start[TRAINING])) <= set(range(1, 41))
    assert set(numbers_of(keeps.at_start[HELD_OUT])) <= set(range(101, 131))


# Shapes


def ragged(samples: list[Any]) -> Any:
    inputs, targets = zip(*samples, strict=True)
    return pad_sequence(list(inputs), batch_first=True), torch.tensor(targets)


class Words(Dataset[tuple[Tensor, int]]):
    def __init__(self, size: int = 40, first: int = 0) -> None:
        self.size = size
        self.first = first

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((2 + index % 3,), float(self.first + index)), index % 3


def test_samples_of_different_sizes_one_by_one_are_groups(tmp_path: Path) -> None:
    probes = keep(tmp_path, DataLoader(Words(), 1), training=12).at_start[TRAINING]
    assert sorted(group.inputs.leaves["0"].shape[1] for group in probes.groups) == [2, 3, 4]
    assert len(probes) == 12
    # A sample stays with its length.
    assert all((2 + group.inputs.leaves["0"][:, 0] % 3 == group.inputs.leaves["0"].shape[1]).all() for group in probes.groups)


def test_samples_of_buckets_stay_in_their_bucket(tmp_path: Path) -> None:
    buckets = [list(range(kind, 40, 3)) for kind in range(3)]
    probes = keep(tmp_path, DataLoader(Words(), batch_sampler=buckets), training=12).at_start[TRAINING]
    assert len(probes) == 12
    assert sorted(group.inputs.leaves["0"].shape[1] for group in probes.groups) == [2, 3, 4]


def test_padded_samples_are_rows_of_their_batches(tmp_path: Path) -> None:
    probes = keep(tmp_path, DataLoader(Words(), 8, collate_fn=ragged), training=12).at_start[TRAINING]
    assert len(probes) == 12
    assert all(dict(group.inputs.axes) == {"0": 0, "1": 0} for group in probes.groups)


def test_validation_data_may_have_another_size(tmp_path: Path) -> None:
    val = TensorDataset(torch.rand(30, 5, 5), torch.zeros(30))
    keeps = keep(tmp_path, DataLoader(Numbers(40), 16), DataLoader(val, 7))
    assert [group.inputs.leaves["0"].shape for group in keeps.at_start[HELD_OUT].groups] == [(4, 5, 5)]


def test_time_major_batches_have_their_rows_on_the_second_axis(tmp_path: Path) -> None:
    def time_major(samples: list[Any]) -> Any:
        return {"x": torch.stack([inputs for inputs, _ in samples], dim=1), "weights": torch.ones(6)}

    (group,) = keep(tmp_path, DataLoader(Numbers(40), 16, collate_fn=time_major)).at_start[TRAINING].groups
    assert dict(group.inputs.axes) == {"x": 1}
    assert group.inputs.leaves["x"].shape == (6, 3)
    assert set(group.inputs.shared) == {"weights"}


def test_a_sample_that_is_a_batch_gives_its_rows(tmp_path: Path) -> None:
    class Batches(Dataset[Any]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> Any:
            return torch.full((4, 3), float(index)), torch.zeros(4)

    probes = keep(tmp_path, DataLoader(Batches(), batch_size=None), training=10).at_start[TRAINING]
    assert len(probes) == 10
    assert len(set(numbers_of(probes))) == 3


def test_batches_without_rows_are_an_error_before_training(tmp_path: Path) -> None:
    loader = DataLoader(Numbers(40), 16, collate_fn=lambda samples: {"sum": sum(inputs for inputs, _ in samples)})
    with pytest.raises(ValueError, match=r"expected batches with a tensor that has a row for each sample.* sum: "):
        keep(tmp_path, loader)


def test_a_task_that_unpacks_batches_needs_no_rows_of_them(tmp_path: Path) -> None:
    class Boxed:
        def __init__(self, samples: list[Any]) -> None:
            self.x = torch.stack([inputs for inputs, _ in samples])

    class Unboxes(Pairs):
        def unpack(self, batch: Any) -> Any:
            return batch.x, torch.zeros(len(batch.x), dtype=torch.long)

    probes = keep(tmp_path, DataLoader(Numbers(40), 16, collate_fn=Boxed), task=Unboxes()).at_start[TRAINING]
    assert len(probes) == 6


# Several training loaders


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_samples_of_several_loaders_go_along(tmp_path: Path, mode: Any) -> None:
    loaders = CombinedLoader({"a": DataLoader(Numbers(40), 16), "b": [DataLoader(Numbers(5, 100), 16)]}, mode)
    (group,) = keep(tmp_path, loaders).at_start[TRAINING].groups
    assert dict(group.inputs.axes) == {"a.0": 0, "a.1": 0, "b.0.0": 0, "b.0.1": 0}
    assert group.inputs.leaves["a.0"].shape == group.inputs.leaves["b.0.0"].shape == (6, 3)
    assert bool((group.inputs.leaves["b.0.0"] >= 100).all())


def test_a_batch_of_another_size_is_shared(tmp_path: Path) -> None:
    loaders = [DataLoader(Numbers(40), 16), DataLoader(Numbers(50, 100), 7)]
    (group,) = keep(tmp_path, loaders).at_start[TRAINING].groups
    assert list(group.inputs.axes) == ["0.0", "0.1"]
    assert group.inputs.shared["1.0"].shape == (7, 3)


# Streams


class Stream(IterableDataset[Any]):
    """Batches as they are given."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def streamed(*batches: Any) -> DataLoader[Any]:
    return DataLoader(Stream(*batches), batch_size=None)


def test_batches_of_a_stream_are_kept_as_they_pass(tmp_path: Path) -> None:
    batches = [(torch.full((4, 2 + index % 2), float(index)), torch.zeros(4)) for index in range(5)]
    keeps = keep(tmp_path, streamed(*batches), training=10)
    assert not keeps.at_start
    probes = keeps.keeper.probes[TRAINING]
    assert [group.inputs.leaves["0"].shape for group in probes.groups] == [(8, 2), (2, 3)]
    assert numbers_of(probes)[:8] == [0] * 4 + [2] * 4
    assert not keeps.keeper.waiting


def test_a_last_batch_of_a_stream_may_be_smaller(tmp_path: Path) -> None:
    stream = DataLoader(Stream(*torch.arange(20.0)[:, None].expand(20, 8)), batch_size=8)
    (group,) = keep(tmp_path, stream, training=20).keeper.probes[TRAINING].groups
    assert group.inputs.leaves[""][:, 0].tolist() == list(range(20))


def test_a_validation_stream_shows_errors_in_the_sanity_check(tmp_path: Path) -> None:
    keeps = Keeps(task=Pairs())
    x, y = tabular_data(8).tensors
    with pytest.raises(ValueError, match="got dict of 2"):
        keep(tmp_path, tabular_loader(), streamed({"x": x, "y": y}), callback=keeps, fit={"num_sanity_val_steps": 1})
    assert list(keeps.keeper.probes) == [TRAINING]


def test_a_stream_of_one_loader_makes_all_of_them_be_watched(tmp_path: Path) -> None:
    loaders = {"a": DataLoader(Numbers(40), 4), "b": DataLoader(Stream(*(torch.zeros(2),) * 40), 4)}
    keeps = keep(tmp_path, loaders)
    assert not keeps.at_start
    assert set(keeps.keeper.probes[TRAINING].groups[0].inputs.axes) == {"a.0", "a.1", "b"}


def test_loaders_that_give_something_else_are_watched(tmp_path: Path) -> None:
    class Reversed(DataLoader[Any]):
        def __iter__(self) -> Any:
            return reversed(list(super().__iter__()) * 2)

    keeps = keep(tmp_path, Reversed(Numbers(8), 4))
    assert not keeps.at_start
    assert len(keeps.keeper.probes[TRAINING]) == 6


def test_the_first_batch_of_a_stream_shows_errors_before_the_first_optimizer_step(tmp_path: Path) -> None:
    model = PlainTabularClassifier()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    x, y = tabular_data(8).tensors
    monitor = few(held_out=0, task=tasks.Classification())
    trainer = quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1)
    with pytest.raises(ValueError, match="got dict of 2"):
        trainer.fit(model, streamed({"x": x, "y": y}))
    assert trainer.global_step == 0
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), before)


# Validation loaders


def test_held_out_inputs_come_from_the_first_loader_that_does_not_repeat_training(tmp_path: Path) -> None:
    data = Numbers(40)
    train, val = Subset(data, range(30)), Subset(data, range(30, 40))
    loaders = [DataLoader(train, 16), DataLoader(Subset(data, [3]), 16), DataLoader(val, 16), DataLoader(Numbers(9, 100), 16)]
    keeps = keep(tmp_path, DataLoader(train, 16, shuffle=True), loaders)
    assert keeps.keeper.dataloader_idx == 2
    assert set(numbers_of(keeps.at_start[HELD_OUT])) <= set(range(30, 40))
    saved = ProbeKeeper(ProbeSampling(), WholeBatches())
    saved.load_state_dict(keeps.keeper.state_dict())
    assert saved.dataloader_idx == 2


def test_a_stream_is_watched_by_its_number(tmp_path: Path) -> None:
    data = Numbers(40)
    batch = torch.full((4, 3), 100.0), torch.zeros(4)
    keeps = keep(tmp_path, DataLoader(data, 16), {"train": DataLoader(data, 16), "val": streamed(batch)})
    assert keeps.keeper.dataloader_idx == 1
    assert numbers_of(keeps.keeper.probes[HELD_OUT]) == [100] * 4


@pytest.mark.parametrize("second", [False, True], ids=["same", "second instance"])
@pytest.mark.parametrize("number", [1, 2])
def test_validation_on_training_data_alone_is_refused(tmp_path: Path, second: bool, number: int) -> None:
    train = tabular_data(24)
    val = tabular_data(24) if second else train
    loaders = [DataLoader(val, 8) for _ in range(number)]
    with pytest.raises(MisconfigurationException, match=r"held_out=0"):
        keep(tmp_path, DataLoader(train, 8, shuffle=True), loaders)


def test_equal_inputs_of_other_datasets_are_warned_of(tmp_path: Path) -> None:
    x, y = torch.eye(3), torch.arange(3)
    train, val = TensorDataset(x.repeat(8, 1), y.repeat(8)), TensorDataset(x, y)
    with pytest.warns(UserWarning, match="all 3 held-out probes are training probes"):
        keep(tmp_path, DataLoader(train, 8), DataLoader(val, 8), training=24, held_out=3)


def test_a_loader_of_which_no_batch_is_used_is_left_out(tmp_path: Path) -> None:
    loaders = [DataLoader(Stream(), batch_size=None), DataLoader(Numbers(30, 100), 4), DataLoader(Numbers(31, 200), 4)]
    fit = {"limit_val_batches": 2}
    keeps = keep(tmp_path, DataLoader(Numbers(40), 16), loaders[1:], held_out=8, fit=fit)
    assert keeps.keeper.dataloader_idx == 0
    assert set(numbers_of(keeps.at_start[HELD_OUT])) == set(range(100, 108))


def test_loaders_that_come_together_are_one(tmp_path: Path) -> None:
    # What goes along with the rows may be seen in training.
    train = {"a": DataLoader(Numbers(40), 16), "b": DataLoader(Numbers(31, 200), 16)}
    loaders = CombinedLoader({"a": DataLoader(Numbers(30, 100), 16), "b": train["b"]}, "min_size")
    (group,) = keep(tmp_path, train, loaders).at_start[HELD_OUT].groups
    assert set(group.inputs.axes) == {"a.0", "a.1", "b.0", "b.1"}


def test_a_monitor_measures_the_loader_that_is_held_out(tmp_path: Path) -> None:
    class Several(TabularClassifier):
        def validation_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> Tensor:
            return super().validation_step(batch, batch_index)

    train = tabular_loader(24)
    monitor = few()
    trainer = quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1)
    trainer.fit(Several(), train, [DataLoader(train.dataset, 8), tabular_loader(12, seed=1)])
    assert monitor._preparation.keeper.dataloader_idx == 1
    assert monitor.history.measurements[0].held_out is not None
