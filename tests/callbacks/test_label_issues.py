from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import InteractionMonitor
from lightning_interactions.evidence import InputAgreement, ReferenceModels
from lightning_interactions.records import LabelIssues, SplitMeasurement
from lightning_interactions.tasks import Classification, Task
from tests.callbacks.runs import TINY_SET_UP, SinglePlayers, few, other_references, prints_of_pairs, quiet_trainer
from tests.helpers.models import TabularClassifier, tabular_data, tabular_loader

pytestmark = TINY_SET_UP


class Asks(Callback):
    """Asks a monitor about its own training probes at each of its measurements."""

    def __init__(self) -> None:
        self.answers: list[LabelIssues] = []
        self.changed: list[str] = []

    def on_interactions_measured(self, trainer: Trainer, pl_module: LightningModule, monitor: InteractionMonitor) -> None:
        before = state_of(pl_module)
        self.answers.append(ask(monitor, pl_module))
        self.changed += [name for name, value in state_of(pl_module).items() if not torch.equal(value, before[name])]


def ask(monitor: InteractionMonitor, model: LightningModule) -> LabelIssues:
    (group,) = monitor.state_dict()["probes"]["training"]
    return monitor.label_issues(model, *group["inputs"]["tree"])


def state_of(model: LightningModule) -> dict[str, torch.Tensor]:
    """Copy weights, buffers, training flags and the random state."""
    flags = {f"training of {name}": torch.tensor(module.training) for name, module in model.named_modules()}
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {**tensors, **flags, "random state": torch.get_rng_state(), "gradients": torch.tensor(torch.is_grad_enabled())}


def watched_run(root: Path, evidence: Any) -> tuple[InteractionMonitor, TabularClassifier, Asks]:
    torch.manual_seed(0)
    model, asks = TabularClassifier(), Asks()
    monitor = few(evidence=evidence, held_out=5)
    trainer = quiet_trainer(root, callbacks=[asks, monitor], max_epochs=2)
    trainer.fit(model, tabular_loader(24, shuffle=True), tabular_loader(10, seed=1))
    return monitor, model, asks


def assert_measured(found: LabelIssues, split: SplitMeasurement) -> None:
    g, u = (part.sum(dim=(1, 2, 3)) for part in (split.strength.generalizable, split.strength.non_generalizable))
    torch.testing.assert_close(found.share, u / (g + u))
    torch.testing.assert_close(found.loss, split.loss)
    torch.testing.assert_close(found.explained_loss, split.explained_loss)


@pytest.mark.parametrize("evidence", [SinglePlayers(), InputAgreement(), other_references()], ids=["single", "means", "models"])
@pytest.mark.slow
def test_the_answer_about_the_probes_is_what_was_measured_on_them(tmp_path: Path, evidence: Any) -> None:
    monitor, model, asks = watched_run(tmp_path, evidence)
    assert len(asks.answers) == len(monitor.history) == 3
    for answer, measurement in zip(asks.answers, monitor.history.measurements, strict=True):
        assert_measured(answer, measurement.training)
    assert_measured(ask(monitor, model), monitor.history.measurements[-1].training)
    assert 0 < asks.answers[-1].share.min() < asks.answers[-1].share.max() <= 1


def test_asking_leaves_no_trace(tmp_path: Path) -> None:
    monitor, model, asks = watched_run(tmp_path, SinglePlayers())
    assert asks.changed == []
    model.train()
    before, saved, history = state_of(model), monitor.state_dict(), monitor.history
    ask(monitor, model)
    assert [name for name, value in state_of(model).items() if not torch.equal(value, before[name])] == []
    assert monitor.history is history
    assert monitor.state_dict()["digests"] == saved["digests"]


def test_any_inputs_can_be_asked_about_one_by_one(tmp_path: Path) -> None:
    monitor, model, _ = watched_run(tmp_path, SinglePlayers())
    inputs, targets = tabular_data(7, seed=5).tensors
    found = monitor.label_issues(model, inputs, targets)
    assert sorted(found.ranking.tolist()) == list(range(7))
    alone = monitor.label_issues(model, inputs[3:4], targets[3:4])
    torch.testing.assert_close(alone.share, found.share[3:4], rtol=1e-3, atol=1e-4)


def test_a_question_before_any_run_says_what_is_missing() -> None:
    inputs, targets = tabular_data(3).tensors
    with pytest.raises(ValueError, match="expected a run that this monitor has watched, got none; train with it first"):
        few().label_issues(TabularClassifier(), inputs, targets)


def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    monitor, model, _ = watched_run(tmp_path, SinglePlayers())
    inputs, targets = tabular_data(3).tensors
    with pytest.raises(ValueError, match=r"inputs .*\(3, 4\) and targets .*\(2,\)"):
        monitor.label_issues(model, inputs, targets[:2])
    with pytest.raises(ValueError, match="input"):
        monitor.label_issues(model, inputs[:0], targets[:0])
    with pytest.raises(ValueError, match="expected labels from 0 to 2"):
        monitor.label_issues(model, inputs, targets + 3)


@pytest.mark.slow
def test_a_module_without_a_trainer_can_be_asked_about(tmp_path: Path) -> None:
    monitor, model, _ = watched_run(tmp_path, SinglePlayers())
    rebuilt = TabularClassifier()
    rebuilt.load_state_dict(model.state_dict())
    inputs, targets = tabular_data(5, seed=5).tensors
    expected, found = (monitor.label_issues(each, inputs, targets) for each in (model, rebuilt))
    torch.testing.assert_close(found.explained_loss, expected.explained_loss)


@pytest.mark.slow
def test_inputs_that_no_reference_model_may_rate_are_nan(tmp_path: Path) -> None:
    inputs, targets = tabular_data(5, seed=5).tensors
    references = ReferenceModels(other_references().models, seen=prints_of_pairs(inputs[1:2], targets[1:2]))
    monitor, model, _ = watched_run(tmp_path, references)
    found = monitor.label_issues(model, inputs, targets)
    assert found.share.isnan().tolist() == [False, True, False, False, False]
    assert found.ranking[-1] == 1


class Tagger(LightningModule):
    """A class for each token; tokens of the class -100 do not count.

    Args:
        ragged: Whether the loss gets the tokens that count alone, so that rows have other numbers of elements.
    """

    def __init__(self, ragged: bool) -> None:
        super().__init__()
        self.ragged = ragged
        self.net = nn.Linear(3, 6)

    def training_step(self, batch: list[Tensor], _batch_index: int) -> Tensor:
        inputs, labels = batch
        logits = self.net((inputs + inputs[:, [0, 0, 0]] * inputs.roll(1, 1)).tanh()).reshape(-1, 3, 2)
        if self.ragged:
            logits, labels = logits[labels >= 0], labels[labels >= 0]
        return nn.functional.cross_entropy(logits.reshape(-1, 2), labels.reshape(-1))

    def validation_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        return self.training_step(batch, batch_index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Weighing(TabularClassifier):
    """Class 0 does not count at all."""

    def loss(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self(inputs), targets, weight=torch.tensor([0.0, 1.0, 3.0]))


def tagged(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs, and labels of which other numbers count in each row."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_rows, 3, generator=generator)
    labels = torch.randint(0, 2, (num_rows, 3), generator=generator)
    labels[torch.arange(3) > torch.arange(num_rows)[:, None] % 4 - 1] = -100
    return inputs, labels


def of_classes(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs, labels = tabular_data(num_rows, seed=seed).tensors
    return inputs, torch.where(torch.arange(num_rows) % 3 == 1, -100, labels)


def of_weights(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    return tabular_data(num_rows, seed=seed).tensors


Make = Callable[[int, int], tuple[Tensor, Tensor]]

SOME_IGNORED: dict[str, tuple[Callable[[], LightningModule], Make, Callable[[Tensor], Tensor]]] = {
    "classes": (TabularClassifier, of_classes, lambda labels: (labels >= 0).double()),
    "class weights": (Weighing, of_weights, lambda labels: torch.tensor([0.0, 1.0, 3.0]).double()[labels]),
    "tokens": (partial(Tagger, ragged=False), tagged, lambda labels: (labels >= 0).sum(1).double()),
    "ragged tokens": (partial(Tagger, ragged=True), tagged, lambda labels: (labels >= 0).sum(1).double()),
}


@pytest.mark.parametrize("kind", SOME_IGNORED)
@pytest.mark.slow
def test_each_row_gets_its_own_numbers_whatever_is_ignored_in_the_others(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    module, make, weights_of = SOME_IGNORED[kind]
    model, monitor = module(), few(training=make(8, 0), held_out=0)
    loaders = [DataLoader(TensorDataset(*make(16, seed)), batch_size=8) for seed in (1, 2)]
    quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(model, *loaders)

    inputs, labels = make(6, 3)
    weights = weights_of(labels)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(4))
    found = monitor.label_issues(model, inputs[order], labels[order])
    assert found.loss.isnan().tolist() == (weights[order] == 0).tolist()
    assert 0 < int(found.loss.isnan().sum()) < 5
    mean = weights[weights > 0].mean()
    for place, row in enumerate(order.tolist()):
        alone = monitor.label_issues(model, inputs[[row]], labels[[row]])
        options = {"rtol": 1e-3, "atol": 1e-4, "equal_nan": True}
        torch.testing.assert_close(found.share[[place]], alone.share, **options)
        for name in ("loss", "explained_loss"):
            own = getattr(found, name)[[place]] * mean / weights[row].clamp(min=1)
            torch.testing.assert_close(own, getattr(alone, name), **options)
    judged = found.explained_loss[found.ranking][: int((weights > 0).sum())]
    assert bool((judged.diff() <= 0).all())
    assert (weights[order][found.ranking] == 0).tolist() == sorted((weights == 0).tolist())


class OfDicts(LightningModule):
    """Takes dict batches in which other things lie as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(4, 3)

    def training_step(self, batch: dict[str, Any]) -> Tensor:
        return cross_entropy(self.layers(batch["features"]), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_batch_as_the_loader_gives_it_is_asked_about(tmp_path: Path) -> None:
    inputs, labels = of_classes(12, 0)
    samples = [
        {"name": f"row {row}", "index": row, "features": inputs[row], "label": max(int(labels[row]), 0)} for row in range(12)
    ]
    model, monitor = OfDicts(), few(training=6, held_out=0)
    loader = DataLoader(samples, batch_size=6)  # type: ignore[arg-type]
    quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(model, loader)
    batch = next(iter(loader))
    found = monitor.label_issues(model, batch)
    assert found.loss.shape == (6,)
    expected = cross_entropy(model.layers(batch["features"]), batch["label"], reduction="none").detach()
    judged = found.loss.isfinite()
    assert bool(judged.any())
    torch.testing.assert_close(found.loss[judged], expected[judged].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", [None, Classification()])
def test_a_batch_and_its_two_parts_give_the_same(tmp_path: Path, task: Task | None) -> None:
    model, monitor = TabularClassifier(), few(task=task, held_out=5)
    quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(model, tabular_loader(24), tabular_loader(10, seed=1))
    inputs, targets = tabular_data(6, seed=5).tensors
    parts, batch = monitor.label_issues(model, inputs, targets), monitor.label_issues(model, [inputs, targets])
    assert len(parts.loss) == 6
    torch.testing.assert_close(batch.explained_loss, parts.explained_loss, equal_nan=True)


@pytest.mark.slow
def test_where_no_target_counts_no_label_can_be_judged(tmp_path: Path) -> None:
    monitor, model, _ = watched_run(tmp_path, SinglePlayers())
    inputs, targets = tabular_data(4, seed=5).tensors
    found = monitor.label_issues(model, inputs, torch.full_like(targets, -100))
    assert all(bool(numbers.isnan().all()) for numbers in vars(found).values())
    assert found.ranking.tolist() == [0, 1, 2, 3]


def test_inputs_are_taken_in_the_dtype_of_the_model(tmp_path: Path) -> None:
    monitor, model, _ = watched_run(tmp_path, SinglePlayers())
    inputs, targets = tabular_data(4, seed=5).tensors
    expected, found = (monitor.label_issues(model, each, targets) for each in (inputs, inputs.double()))
    torch.testing.assert_close(found.explained_loss, expected.explained_loss)
