from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_interactions import InteractionMonitor
from lightning_interactions.evidence import InputAgreement, ReferenceModels
from lightning_interactions.records import LabelIssues, SplitMeasurement
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


def test_a_module_without_a_trainer_can_be_asked_about(tmp_path: Path) -> None:
    monitor, model, _ = watched_run(tmp_path, SinglePlayers())
    rebuilt = TabularClassifier()
    rebuilt.load_state_dict(model.state_dict())
    inputs, targets = tabular_data(5, seed=5).tensors
    expected, found = (monitor.label_issues(each, inputs, targets) for each in (model, rebuilt))
    torch.testing.assert_close(found.explained_loss, expected.explained_loss)


def test_inputs_that_no_reference_model_may_rate_are_nan(tmp_path: Path) -> None:
    inputs, targets = tabular_data(5, seed=5).tensors
    references = ReferenceModels(other_references().models, seen=prints_of_pairs(inputs[1:2], targets[1:2]))
    monitor, model, _ = watched_run(tmp_path, references)
    found = monitor.label_issues(model, inputs, targets)
    assert found.share.isnan().tolist() == [False, True, False, False, False]
    assert found.ranking[-1] == 1
