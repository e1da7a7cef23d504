import math
import random
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.benchmarks.stopping.competitors import (
    Accuracy,
    CalibratedLoss,
    EvidenceCriterion,
    GradientDisparity,
    PredictionChanges,
    Rule,
    RuleStopping,
    Stop,
    ValidationLoss,
    best_epoch,
    evidence_criterion,
    gradient_disparity,
    stop_by_evidence_criterion,
    stop_by_gradient_disparity,
    stop_by_label_wave,
    stop_by_patience,
)
from tests.callbacks.runs import TINY_SET_UP, quiet_trainer
from tests.helpers.models import NUM_CLASSES, PlainTabularClassifier, UnvalidatedClassifier, tabular_data, tabular_loader

pytestmark = TINY_SET_UP

NAN = math.nan
INPUTS, LABELS = tabular_data(20).tensors
CURVES = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, math.inf, NAN]), min_size=1, max_size=25)
RULES: dict[str, Rule] = {
    **{f"patience {number}": partial(stop_by_patience, patience=number) for number in (1, 3, 5, 10)},
    "label wave": stop_by_label_wave,
    "label wave, no average": partial(stop_by_label_wave, window=1),
    "label wave, confirmed": partial(stop_by_label_wave, window=2, patience=3),
    "evidence-based criterion": stop_by_evidence_criterion,
    "gradient disparity": stop_by_gradient_disparity,
    "gradient disparity, in a row": partial(stop_by_gradient_disparity, increases=2, consecutive=True),
}


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([3, 2, 1, 2, 2, 2], 3, Stop(6, 3)),
        ([3, 2, 1, 2, 2], 3, Stop(None, 3)),  # one epoch too short
        ([3, 2, 3, 3, 1, 2], 3, Stop(None, 5)),  # the wait starts again
        ([3, 4, 4, 4, 1], 3, Stop(4, 1)),  # a better epoch after the stop comes too late
        ([3, 2, 1], 1, Stop(None, 3)),
        ([2, 2], 1, Stop(2, 1)),  # equal is not better
        ([5], 1, Stop(None, 1)),
        ([3, NAN, 2, NAN, NAN], 2, Stop(5, 3)),
        ([NAN, NAN, 2], 2, Stop(2, 2)),  # nothing to prefer: the last weights
        ([NAN], 3, Stop(None, 1)),
        ([math.inf, 1], 2, Stop(None, 2)),
    ],
)
def test_patience(losses: list[float], patience: int, expected: Stop) -> None:
    assert stop_by_patience(losses, patience) == expected


@pytest.mark.parametrize(
    ("changes", "window", "patience", "expected"),
    [
        ([NAN, 9, 7, 5, 6], 1, 1, Stop(5, 4)),
        ([NAN, 9, 7, 5, 6, 4], 1, 2, Stop(None, 6)),  # a wave of one epoch is no minimum that lasts
        ([NAN, 9, 7, 5, 6, 6, 4], 1, 2, Stop(6, 4)),
        ([NAN, 9, 7, 5, 6, 3, 9, 9], 2, 1, Stop(7, 6)),  # averages 8, 6, 5.5, 4.5, 6 from epoch 3 on
        ([NAN, 9, 6, 3, 9, 9], 3, 1, Stop(5, 4)),  # averages 6, 6: equal is not smaller
        ([NAN, 9, 6, 3, 6, 9], 3, 1, Stop(6, 5)),  # averages 6, 5, 6
        ([NAN, 9, 8, 7, 6, 5], 3, 1, Stop(None, 6)),
        ([NAN, 9, 6], 3, 1, Stop(None, 3)),  # no full window yet: the last weights
        ([NAN], 1, 1, Stop(None, 1)),
        ([0, 9, 8, 7], 1, 1, Stop(None, 4)),  # whatever the first number is
        ([NAN, 9, NAN, 5, 6], 1, 2, Stop(None, 4)),
        ([NAN, 9, NAN, 5, 6], 1, 1, Stop(3, 2)),
    ],
)
def test_label_wave(changes: list[float], window: int, patience: int, expected: Stop) -> None:
    assert stop_by_label_wave(changes, window, patience) == expected


@pytest.mark.parametrize(
    ("disparities", "consecutive", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], False, Stop(6, 6)),
        ([1, 2, 3, 4, 5, 6], True, Stop(6, 6)),
        ([1, 2, 3, 4, 5], False, Stop(None, 5)),
        ([1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 9], False, Stop(10, 10)),  # over the epoch before, not over the largest one
        ([1, 2, 3, 4, 5, 4, 5], False, Stop(7, 7)),
        ([1, 2, 3, 4, 5, 4, 5], True, Stop(None, 7)),
        ([1, 2, 3, 4, 5, 5, 6], True, Stop(None, 7)),  # equal is no increase
        ([9, 8, 7, 6, 5, 4, 3], False, Stop(None, 7)),
        ([1, 2, NAN, 9, 10, 11, 12], False, Stop(None, 7)),  # from and to NaN nothing increases
        ([1], False, Stop(None, 1)),
    ],
)
def test_gradient_disparity_stops_at_the_fifth_increase(disparities: list[float], consecutive: bool, expected: Stop) -> None:
    assert stop_by_gradient_disparity(disparities, consecutive=consecutive) == expected


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [([-1, -0.5, 0.1, -1], Stop(3, 3)), ([-1, 0, -1], Stop(None, 3)), ([NAN, 2], Stop(2, 2)), ([-1, NAN], Stop(None, 2))],
)
def test_the_evidence_based_criterion_stops_above_zero(criteria: list[float], expected: Stop) -> None:
    assert stop_by_evidence_criterion(criteria) == expected


@pytest.mark.parametrize(
    ("curve", "smallest", "largest"), [([3, 1, 1, 2, 3], 2, 1), ([NAN, 2, NAN], 2, 2), ([7], 1, 1), ([NAN, NAN], 2, 2)]
)
def test_the_oracle_sees_the_whole_curve(curve: list[float], smallest: int, largest: int) -> None:
    assert best_epoch(curve) == Stop(None, smallest)
    assert best_epoch(curve, largest=True) == Stop(None, largest)


@pytest.mark.parametrize("name", RULES)
@given(curve=CURVES)
@pytest.mark.slow
def test_a_rule_fires_once_and_the_future_changes_nothing(name: str, curve: list[float]) -> None:
    stops = [RULES[name](curve[:length]) for length in range(1, len(curve) + 1)]
    for length, stop in enumerate(stops, start=1):
        assert 1 <= stop.kept <= (stop.stopped or length)
        # It fires with the last number that it sees, and then says the same forever.
        fired_before = length > 1 and stops[length - 2].stopped is not None
        assert stop == stops[length - 2] if fired_before else stop.stopped in (None, length)


class Scripted(PlainTabularClassifier):
    """Logs given losses, whatever it learns."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__()
        self.losses = losses

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        self.log("loss", self.losses[self.current_epoch], on_step=False, on_epoch=True)
        return super().training_step(batch, batch_index)


def fit(root: Path, model: LightningModule, *callbacks: Callback, epochs: int, **options: Any) -> Trainer:
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=list(callbacks))
    trainer.fit(model, tabular_loader(20, **options))
    return trainer


def epochs_of(early_stopping: EarlyStopping) -> int | None:
    """Completed epochs; Lightning counts from 0, and says 0 if it has not stopped."""
    return early_stopping.stopped_epoch + 1 if early_stopping.stopped_epoch else None


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("losses", [[3, 2, 2, 3, 1, 4, 4, 4], [1, NAN, 2, 3], [NAN, NAN, NAN, 1], [4, 3, 2, 1], [2, 1, 1, 1]])
def test_patience_stops_where_lightning_stops(tmp_path: Path, losses: list[float], patience: int) -> None:
    stock = EarlyStopping("loss", patience=patience, check_finite=False)
    expected = fit(tmp_path, Scripted(losses), stock, epochs=len(losses))
    ours = RuleStopping(lambda model: losses[model.current_epoch], partial(stop_by_patience, patience=patience), log_only=False)
    actual = fit(tmp_path, Scripted(losses), ours, epochs=len(losses))
    assert ours.curve == pytest.approx(losses[: actual.current_epoch], nan_ok=True)
    assert actual.current_epoch == expected.current_epoch
    if not (patience == 1 and math.isnan(losses[0])):  # Lightning has no number for a stop after one epoch
        assert ours.stop.stopped == epochs_of(stock)


class Validated(UnvalidatedClassifier):
    def validation_step(self, batch: Any, _batch_index: int) -> None:
        self.log("loss", self.loss(batch))


def test_patience_stops_where_lightning_stops_on_real_losses(tmp_path: Path) -> None:
    held_out = tabular_data(16, seed=1)
    stock = EarlyStopping("loss", patience=3)
    ours = RuleStopping(ValidationLoss(*held_out.tensors), stop_by_patience)
    seed_everything(3, verbose=False)
    trainer = quiet_trainer(tmp_path, max_epochs=40, callbacks=[stock, ours], num_sanity_val_steps=0)
    trainer.fit(Validated(), tabular_loader(20), torch.utils.data.DataLoader(held_out, batch_size=16))
    assert trainer.current_epoch < 40
    assert ours.stop == Stop(trainer.current_epoch, trainer.current_epoch - 3)
    assert min(ours.curve) == stock.best_score.item()


def slow_disparity(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """The definition: a backward a batch, and a loop over pairs."""
    vectors = []
    for inputs, labels in batches:
        model.zero_grad()
        losses = torch.stack([cross_entropy(logits, label) for logits, label in zip(model(inputs), labels, strict=True)])
        deviation = ((losses - losses.mean()).square().sum() / (len(losses) - 1)).sqrt()
        (losses / deviation).mean().backward()
        vectors.append(np.concatenate([parameter.grad.flatten().numpy() for parameter in model.parameters()]))
    return float(np.mean([np.linalg.norm(one - other) for one, other in combinations(vectors, 2)]))


@pytest.mark.parametrize("model", [PlainTabularClassifier(), UnvalidatedClassifier()])
def test_gradient_disparity_is_that_of_a_backward_per_batch(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    slow, inputs, labels = deepcopy(model), INPUTS.view(5, 4, -1), LABELS.view(5, 4)
    expected = slow_disparity(slow, list(zip(inputs, labels, strict=True)))
    assert gradient_disparity(model, inputs, labels) == pytest.approx(expected, rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_equal_batches_have_no_disparity_and_equal_losses_no_scale() -> None:
    model = PlainTabularClassifier()
    inputs, labels = INPUTS[:4].expand(2, 4, -1), LABELS[:4].expand(2, 4)
    assert gradient_disparity(model, inputs, labels) == 0
    assert math.isnan(gradient_disparity(model, inputs[:, :1].expand(2, 4, -1), labels[:, :1].expand(2, 4)))


def test_parameters_that_are_frozen_or_unused_do_not_disturb() -> None:
    model = PlainTabularClassifier()
    inputs, labels = INPUTS.view(5, 4, -1), LABELS.view(5, 4)
    whole = gradient_disparity(model, inputs, labels)
    model.unused = nn.Linear(2, 2)
    assert gradient_disparity(model, inputs, labels) == pytest.approx(whole)
    model.network[0].requires_grad_(False)
    assert 0 < gradient_disparity(model, inputs, labels) < whole


def slow_criterion(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """The definition: a backward an input."""
    rows = []
    for one, label in zip(inputs, labels, strict=True):
        model.zero_grad()
        cross_entropy(model(one[None]), label[None]).backward()
        rows.append(np.concatenate([parameter.grad.flatten().numpy() for parameter in model.parameters()]).astype(float))
    gradients = np.array(rows)
    variance = gradients.var(axis=0, ddof=1)
    ratios = gradients.mean(axis=0)[variance > 0] ** 2 / variance[variance > 0]
    return 1 - len(inputs) * ratios.mean()


def test_the_evidence_based_criterion_is_that_of_a_backward_per_input() -> None:
    model = PlainTabularClassifier()
    expected = slow_criterion(deepcopy(model), INPUTS[:12], LABELS[:12])
    assert evidence_criterion(model, INPUTS[:12], LABELS[:12]) == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_that_are_all_noise_say_stop_and_equal_ones_say_nothing() -> None:
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    inputs = torch.tensor([[1.0], [1.0], [1.0], [1.0]])
    assert evidence_criterion(model, inputs, torch.tensor([0, 1, 0, 1])) == pytest.approx(1.0)
    assert math.isnan(evidence_criterion(model, inputs, torch.tensor([0, 0, 0, 0])))


def test_the_evidence_based_criterion_is_not_measured_after_it_has_fired() -> None:
    measure = EvidenceCriterion(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]), batch_size=4)
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    assert measure(model) == pytest.approx(1.0)
    assert math.isnan(measure(model))


class Seen(list[tuple[Tensor, bool, bool]]):
    """What a module and its copies are given, and in which mode."""

    def __deepcopy__(self, _memo: Any) -> "Seen":
        return self


class Spy(PlainTabularClassifier):
    """Remembers what it is given, and in which mode, also as a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()

    def forward(self, inputs: Tensor) -> Any:
        self.seen.append((inputs, self.training, torch.is_grad_enabled()))
        return super().forward(inputs)


def test_batches_are_disjoint_fresh_and_those_of_the_seed() -> None:
    def rows_of(seed: int) -> list[list[int]]:
        measure, model = GradientDisparity(INPUTS, LABELS, batch_size=3, seed=seed), Spy()
        measure(model), measure(model)
        return [[INPUTS.tolist().index(row) for row in inputs.tolist()] for inputs, _, _ in model.seen]

    rows = rows_of(seed=7)
    assert [len(batch) for batch in rows] == [3] * 10
    first, second = list(chain(*rows[:5])), list(chain(*rows[5:]))
    assert len(set(first)) == len(set(second)) == 15
    assert first != second
    assert rows == rows_of(seed=7) != rows_of(seed=8)


@pytest.mark.parametrize(("batch_size", "num_batches"), [(1, 5), (10, 1), (5, 5)])
def test_too_few_data_for_a_disparity_are_refused(batch_size: int, num_batches: int) -> None:
    with pytest.raises(ValueError, match=f"20 inputs are enough for, got {num_batches} batches of {batch_size}"):
        GradientDisparity(INPUTS, LABELS, batch_size, num_batches)


def test_loss_accuracy_and_changes_are_those_of_known_logits() -> None:
    model = PlainTabularClassifier(num_features=NUM_CLASSES)
    model.network = nn.Sequential(nn.Identity())
    logits, labels = torch.eye(3)[[0, 1, 2, 2]] * 5, torch.tensor([0, 1, 2, 0])
    right, wrong = math.log(1 + 2 * math.exp(-5)), math.log(2 + math.exp(5))
    assert ValidationLoss(logits, labels)(model) == pytest.approx((3 * right + wrong) / 4)
    assert Accuracy(logits, labels)(model) == 0.75
    assert CalibratedLoss(logits, labels[[0, 1, 2, 2]])(model) < 1e-9  # The sharper, the better, where all are right.
    assert CalibratedLoss(logits, labels)(model) < ValidationLoss(logits, labels)(model)
    changes = PredictionChanges(logits)
    assert math.isnan(changes(model))
    assert changes(model) == 0
    model.network = nn.Linear(3, 3, bias=False)
    model.network.weight.data = torch.eye(3)[[0, 2, 1]]
    assert changes(model) == 3  # classes 1 and 2 have changed places
    assert changes(model) == 0


def recorders() -> list[RuleStopping]:
    return [
        RuleStopping(ValidationLoss(*tabular_data(12, seed=1).tensors), stop_by_patience),
        RuleStopping(PredictionChanges(INPUTS), stop_by_label_wave),
        RuleStopping(GradientDisparity(INPUTS, LABELS, batch_size=4), stop_by_gradient_disparity),
        RuleStopping(ValidationLoss(*tabular_data(12, seed=2).tensors), best_epoch),
        RuleStopping(Accuracy(*tabular_data(12, seed=2).tensors), partial(best_epoch, largest=True)),
    ]


def trained(root: Path, *callbacks: Callback) -> tuple[dict[str, Tensor], list[Any]]:
    """Return weights, buffers and gradients, and the global random states, after a training with dropout and batch norm."""
    seed_everything(1, verbose=False)
    model = UnvalidatedClassifier()
    fit(root, model, *callbacks, epochs=4, shuffle=True)
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    assert all(module.training for module in model.modules())
    return {**model.state_dict(), **gradients}, [random.getstate(), np.random.random(), torch.get_rng_state().tolist()]


def test_recorders_leave_no_trace_in_the_training(tmp_path: Path) -> None:
    callbacks = recorders()
    (tensors, random_states), expected = trained(tmp_path, *callbacks), trained(tmp_path)
    assert random_states == expected[1]
    assert tensors.keys() == expected[0].keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[0][name]), name
    for callback in callbacks:
        assert [type(number) for number in callback.curve] == [float] * 4
        assert callback.seconds > 0
    again = recorders()
    trained(tmp_path, *again)
    for one, other in zip(callbacks, again, strict=True):
        assert one.curve == pytest.approx(other.curve, rel=0, abs=0, nan_ok=True)


def test_only_gradient_disparity_is_measured_in_training_mode_and_with_gradients(tmp_path: Path) -> None:
    for callback in recorders():
        model = Spy()
        fit(tmp_path, model, callback, epochs=1)
        modes = {(training, gradients) for _, training, gradients in model.seen[3:]}  # after the three training steps
        as_in_training = isinstance(callback.measure, GradientDisparity)
        assert modes == {(as_in_training, as_in_training)}


@pytest.mark.parametrize(("log_only", "epochs"), [(True, 6), (False, 4)])
def test_a_rule_ends_the_training_only_if_asked_to(tmp_path: Path, log_only: bool, epochs: int) -> None:
    losses = [2, 1, 3, 4, 0, 0]
    callback = RuleStopping(lambda model: losses[model.current_epoch], partial(stop_by_patience, patience=2), log_only=log_only)
    assert fit(tmp_path, PlainTabularClassifier(), callback, epochs=6).current_epoch == epochs
    assert callback.stop == Stop(4, 2)
    assert len(callback.curve) == epochs
