"""The benchmark's own arithmetic, and that it measures what the callbacks measure."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_interactions import Extraction, History, InteractionMonitor, Logging, PhaseEarlyStopping, ProbeSampling
from lightning_interactions.analysis import detect_phases, summarise
from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.records import Estimate, Probes, TimePoint
from tests.callbacks.runs import TINY_SET_UP, assert_same_history, script_phases
from tests.helpers.histories import history_from_strengths, with_phases

sys.path.insert(0, str(Path(__file__).parent))
from competitors import Stop
from rules import (
    ALONE,
    HELD_OUT,
    RULES,
    Record,
    at_onset,
    delay,
    ends_high,
    late,
    outcome,
    overfits,
    premature,
    rises,
)
from runs import TWINS, TWINS_HELD_OUT, Run, Watch, first
from tasks import TASKS, Setting, make_model, make_parts
from trainings import Trainings

pytestmark = TINY_SET_UP

SECONDS = {
    "training": 10.0, "validation_loss": 2.0, "twin losses before": 4.0, f"{TWINS} before": 5.0, f"{TWINS} measurement": 0.25,
    f"{TWINS_HELD_OUT} before": 30.0, f"{TWINS_HELD_OUT} measurement": 0.5,
}  # fmt: skip
CANCER = Setting("cancer", "MLP", 0.2, 0)


def history(numbers: list[int]) -> History:
    ones = torch.ones(len(numbers), 4, dtype=torch.float64)
    return with_phases(history_from_strengths(ones, ones), numbers)


def made_up(losses: list[float], accuracies: list[float], numbers: list[int], **known: Any) -> Run:
    """Make a run with these test and validation losses, test accuracies, and phases after 0, 1, 2 … epochs."""
    curves = {"test_loss": losses, "test_accuracy": accuracies, "validation_loss": losses, "probe_loss": losses}
    own = history(numbers)
    given = {"twin_losses": [], "predictions": torch.empty(0), "salient": torch.empty(0), "salient_effects": torch.empty(0)}
    histories = {TWINS: own, TWINS_HELD_OUT: own}
    return Run(Setting("made up", "none", 0.2, 0), histories, curves, **{**given, "ratings": {}, "seconds": SECONDS, **known})


@pytest.mark.parametrize(("onset", "kept"), [(2, 2), (0, 1)])  # The curves begin after the first epoch.
def test_the_weights_of_the_onset_are_returned_at_the_detection(onset: int, kept: int) -> None:
    detected = history([1, 1, 1, 1, 3, 3])
    phases = tuple(replace(one, onset=TimePoint(onset, 0)) if one.number == 3 else one for one in detected.phases)
    assert at_onset(replace(detected, phases=phases)) == Stop(4, kept)


def test_without_a_detection_the_last_weights_are_returned() -> None:
    assert at_onset(history([1, 1, 2, 2])) == Stop(None, 3)


def test_an_outcome_compares_with_the_best_epoch_and_counts_all_costs() -> None:
    record = Record(made_up([1.0, 0.5, 0.6, 0.8], [0.6, 0.8, 0.9, 0.7], [1, 1, 1, 3, 3]))
    found = outcome(RULES[HELD_OUT], record)
    assert (found.stop, found.epochs, found.epoch_error) == (Stop(3, 3), 3, 1)
    assert found.loss == pytest.approx(0.2)
    assert found.accuracy == pytest.approx(0.0)
    # Three quarters of the training, what comes before it, and measurements after 0, 1, 2, 3 epochs.
    assert found.compute == pytest.approx((7.5 + 30 + 4 * 0.5) / 10)
    alone = outcome(RULES[ALONE], record)
    assert (alone.compute, alone.trainings) == pytest.approx(((7.5 + 5 + 4 * 0.25) / 10, (7.5 + 4) / 10))
    with_checkpoint = outcome(RULES[f"{HELD_OUT}, best validation loss"], record)
    assert (with_checkpoint.stop, with_checkpoint.loss) == (Stop(3, 2), 0.0)
    patient = outcome(RULES["validation loss, patience 5"], record)
    assert patient.stop == Stop(None, 2)
    assert (patient.compute, patient.trainings) == pytest.approx(((10 + 2) / 10, 1.0))
    assert outcome(RULES["evidence-based criterion"], record) is None
    assert outcome(RULES["phase 3, references, held-out probes"], record) is None


FALLING = [0.9] * 3 + [0.5] + [0.6] * 6
"""Waits until epoch 9, and was best at epoch 4."""


def test_rivals_that_train_besides_count_their_trainings() -> None:
    losses = [1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    other = {"loss": FALLING, "test_loss": [2.0] * 3 + [0.55] + [2.0] * 6, "test_accuracy": [0.1] * 10}
    curves = {
        "validation split": other,
        "flipped": {**other, "accuracy": [-one for one in FALLING]},
        "halves": {"loss 0": FALLING, "loss 1": FALLING},
        "fifths": {f"loss {fold}": FALLING for fold in range(5)},
    }
    # Two classes; the networks disagree on what is best predicted as class 1 by one of them.
    disagreement = torch.tensor([[one > place / 10 for place in range(10)] for one in FALLING])
    logits = torch.stack([~disagreement, disagreement], dim=2).float()
    agreed = torch.stack([torch.ones(10, 10), torch.zeros(10, 10)], dim=2)
    trainings = Trainings(curves, {"second": logits, "half 0": logits, "half 1": agreed})
    run = made_up(losses, [0.9] * 10, [1] * 11, predictions=agreed, twin_losses=[[0.9, 0.4, 0.7], [0.9, 0.8, 0.7, 0.1]])
    expected = {
        "a fifth of the training data, patience 5": (Stop(9, 4), 0.1, 0.8 * 0.9),
        "5 % of labels changed": (Stop(9, 4), 0.1, 0.9),
        "cross-validation in 2 folds": (Stop(4, 4), 0.0, 0.9 + 0.4),
        "cross-validation in 2 folds, equal steps": (Stop(2, 2), 0.8, 0.9 + 0.2),
        "cross-validation in 5 folds": (Stop(4, 4), 0.0, 4 * 0.9 + 0.4),
        "agreement with a second run": (Stop(9, 4), 0.0, 2 * 0.9),
        "agreement of two halves": (Stop(4, 4), 0.0, 0.9 + 0.4),
        # Of the twins three epochs are known of both.
        "loss of the twins on the other half": (Stop(2, 2), 0.8, 0.4 + 0.2),
        "loss of the twins on the other half, equal steps": (Stop(1, 1), 1.0, 0.4 + 0.1),
    }
    for name, (stop, loss, compute) in expected.items():
        found = outcome(RULES[name], Record(run, trainings))
        assert found.stop == stop, name
        assert found.loss == pytest.approx(loss), name
        assert found.compute == pytest.approx(compute), name
        assert outcome(RULES[name], Record(replace(run, twin_losses=[]))) is None, name
    # The weights are those of the other training, whose accuracy is another.
    assert outcome(RULES["5 % of labels changed"], Record(run, trainings)).accuracy == pytest.approx(0.8)


def test_the_expected_test_loss_alone_waits_for_a_smaller_one() -> None:
    cost = torch.tensor([9.0, *FALLING], dtype=torch.float64)[:, None].expand(11, 4)
    ones = torch.ones(11, 4, dtype=torch.float64)
    own = with_phases(history_from_strengths(ones, ones, expected_test_loss=cost), [1] * 11)
    run = replace(made_up([0.5] * 10, [0.9] * 10, [1] * 11), histories={TWINS: own})
    found = outcome(RULES["expected test loss, twins, patience 5"], Record(run))
    assert found.stop == Stop(9, 4)
    assert found.compute == pytest.approx(0.9 + (5 + 10 * 0.25) / 10)


@pytest.mark.parametrize(
    ("losses", "rising"), [([1.0, 0.5, 0.524], False), ([1.0, 0.5, 0.526, 0.5], True), ([0.9, 0.8, 0.5], False)]
)
def test_a_loss_rises_if_it_ever_gets_five_per_cent_above_its_best(losses: list[float], rising: bool) -> None:
    assert rises(made_up(losses, [0.5] * len(losses), [1] * (len(losses) + 1))) is rising


@pytest.mark.parametrize(("last", "high"), [(0.624, False), (0.626, True)])
def test_a_loss_ends_high_a_quarter_above_its_best(last: float, high: bool) -> None:
    assert ends_high(made_up([0.9, 0.5, 0.9, last], [0.5] * 4, [1] * 5)) is high


@pytest.mark.parametrize(("numbers", "expected"), [([1, 1, 1, 1, 3, 3], 1), ([1, 1, 2, 2], None)])
def test_a_delay_is_counted_in_measurements(numbers: list[int], expected: int | None) -> None:
    own = history(numbers)
    phases = tuple(replace(one, onset=own.measurements[3].time) if one.number == 3 else one for one in own.phases)
    assert delay(replace(own, phases=phases)) == expected


@pytest.mark.parametrize(
    ("losses", "stopped", "early"),
    [
        ([1.0, 0.9, 0.92, 0.8, 0.5], 3, True),
        ([1.0, 0.9, 0.95, 0.8, 0.5], 3, False),
        ([1.0, 0.9, 0.92, 0.8, 0.5], 5, False),
        ([1.0, 0.9, 0.92, 0.8, 0.5], None, False),
    ],
)
def test_a_stop_is_premature_before_the_best_epoch_and_any_rise(losses: list[float], stopped: int | None, early: bool) -> None:
    assert premature(made_up(losses, [0.5] * 5, [1] * 6), Stop(stopped, 1)) is early


def test_a_run_overfits_if_accuracy_falls_by_a_point_as_well() -> None:
    losses = [0.5] + [0.6] * 11
    falling, steady = [0.9] * 6 + [0.88] * 6, [0.9] * 6 + [0.895] * 6
    assert overfits(made_up(losses, falling, [1] * 13))
    assert not overfits(made_up(losses, steady, [1] * 13))
    assert not overfits(made_up([0.5] * 12, falling, [1] * 13))


def test_online_onsets_are_compared_with_change_points() -> None:
    cost = torch.tensor([1.0, 0.8, 0.5, 0.6, 0.7, 0.8], dtype=torch.float64)[:, None].expand(6, 4)
    ones = torch.ones(6, 4, dtype=torch.float64)
    measurements = history_from_strengths(ones, ones, expected_test_loss=cost)
    assert late([with_phases(measurements, [1, 1, 1, 1, 3, 3]), with_phases(measurements, [1] * 6)]) == [2.0]


@pytest.mark.slow
def test_the_benchmark_measures_what_a_monitor_measures(tmp_path: Path) -> None:
    task, parts = TASKS["cancer"], make_parts(CANCER)
    probes = {
        name: tuple(column[:number] for column in parts[part].tensors)
        for name, part, number in (("training", "training", 12), ("held_out", "validation", 6))
    }
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(make_model(CANCER, 2))
    references = ReferenceModels(models)
    watch = Watch({TWINS: references}, {name: Probes.of(pair) for name, pair in probes.items()}, "cancer", 1e-2)
    beside = ProbeSampling(training=tuple(column[:6] for column in probes["training"]), held_out=probes["held_out"])
    monitor = InteractionMonitor(
        players=task.players,
        evidence=references,
        probes=beside,
        extraction=Extraction(tolerance=1e-2),
        logging=Logging(figures=None),
    )
    trainer = L.Trainer(
        max_epochs=2, callbacks=[watch, monitor], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    loaders = [DataLoader(parts[part], 50) for part in ("training", "validation")]
    trainer.fit(make_model(CANCER, 2), *loaders)
    interactions = {split: watch.interactions(split) for split in probes}
    measured = watch.measurements(interactions)
    both = measured[TWINS_HELD_OUT]
    actual = History(tuple(both), detect_phases(both), monitor.history.settings)  # A benchmark's runs keep no settings.
    assert_same_history(actual, monitor.history, 1e-5)
    assert all(measurement.held_out is None and len(measurement.training) == 12 for measurement in measured[TWINS])
    numbers, expected = (
        [[number.value for number in vars(summarise(one).training).values() if isinstance(number, Estimate)] for one in own]
        for own in ([replace(one, training=first(one.training, 6)) for one in measured[TWINS]], monitor.history.measurements)
    )
    # The monitor's losses are the step's own, of float32 outputs; the benchmark's follow from the scores.
    pair = (torch.tensor(own, dtype=torch.float64) for own in (numbers, expected))
    torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-7, equal_nan=True)


@pytest.mark.slow
def test_a_callback_stops_where_the_rule_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 1, 3])
    parts = make_parts(CANCER)
    monitor = InteractionMonitor(
        players=TASKS["cancer"].players,
        probes=ProbeSampling(training=2, held_out=2),
        extraction=Extraction(tolerance=1e-2),
        logging=Logging(figures=None),
    )
    stopping = PhaseEarlyStopping(verbose=False)
    trainer = L.Trainer(
        max_epochs=5, callbacks=[monitor, stopping], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    loaders = [DataLoader(parts[part], 50) for part in ("training", "validation")]
    trainer.fit(make_model(CANCER, 5), *loaders)
    assert at_onset(monitor.history) == Stop(trainer.current_epoch, 3)
