"""The benchmark's own arithmetic, and that it measures what the callbacks measure."""

import sys
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_interactions import Extraction, History, InteractionMonitor, Logging, PhaseEarlyStopping, ProbeSampling
from lightning_interactions.analysis import summarise
from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.records import Estimate, Probes, TimePoint
from tests.callbacks.runs import TINY_SET_UP, assert_same_history, script_phases
from tests.helpers.histories import history_from_strengths, with_phases

sys.path.insert(0, str(Path(__file__).parent))
from competitors import Stop
from papers.tasks import make_parts
from rules import RULES, at_onset, late, outcome, overfits, premature, rises
from runs import CROSS_FITTED, REFERENCES, Run, Setting, Watch
from tasks import TASKS

pytestmark = TINY_SET_UP

SECONDS = {
    "training": 10.0, "validation_loss": 2.0, f"{REFERENCES} before": 30.0, f"{REFERENCES} measurement": 0.5,
    f"{CROSS_FITTED} before": 40.0, f"{CROSS_FITTED} measurement": 0.25,
}  # fmt: skip


def history(numbers: list[int]) -> History:
    ones = torch.ones(len(numbers), 4, dtype=torch.float64)
    return with_phases(history_from_strengths(ones, ones), numbers)


def made_up(losses: list[float], accuracies: list[float], numbers: list[int]) -> Run:
    """Make a run with these test and validation losses, test accuracies, and phases after 0, 1, 2 … epochs."""
    curves = {"test_loss": losses, "test_accuracy": accuracies, "validation_loss": losses, "probe_loss": losses}
    own = history(numbers)
    return Run(Setting("made up", "none", 0.2, 0), {REFERENCES: own, CROSS_FITTED: own}, curves, SECONDS)


@pytest.mark.parametrize(("onset", "kept"), [(2, 2), (0, 1)])  # The curves begin after the first epoch.
def test_the_weights_of_the_onset_are_returned_at_the_detection(onset: int, kept: int) -> None:
    detected = history([1, 1, 1, 1, 3, 3])
    phases = tuple(replace(one, onset=TimePoint(onset, 0)) if one.number == 3 else one for one in detected.phases)
    assert at_onset(replace(detected, phases=phases)) == Stop(4, kept)


def test_without_a_detection_the_last_weights_are_returned() -> None:
    assert at_onset(history([1, 1, 2, 2])) == Stop(None, 3)


def test_an_outcome_compares_with_the_best_epoch_and_counts_all_costs() -> None:
    run = made_up([1.0, 0.5, 0.6, 0.8], [0.6, 0.8, 0.9, 0.7], [1, 1, 1, 3, 3])
    found = outcome(RULES["phase 3, reference models"], run)
    assert (found.stop, found.epochs, found.epoch_error) == (Stop(3, 3), 3, 1)
    assert found.loss == pytest.approx(0.2)
    assert found.accuracy == pytest.approx(0.0)
    # Three quarters of the training, what comes before it, and measurements after 0, 1, 2, 3 epochs.
    assert found.compute == pytest.approx((7.5 + 30 + 4 * 0.5) / 10)
    with_checkpoint = outcome(RULES["phase 3, reference models, best validation loss"], run)
    assert (with_checkpoint.stop, with_checkpoint.loss) == (Stop(3, 2), 0.0)
    patient = outcome(RULES["validation loss, patience 3"], run)
    assert patient.stop == Stop(None, 2)
    assert patient.compute == pytest.approx((10 + 2) / 10)


@pytest.mark.parametrize(
    ("losses", "rising"), [([1.0, 0.5, 0.524], False), ([1.0, 0.5, 0.526, 0.5], True), ([0.9, 0.8, 0.5], False)]
)
def test_a_loss_rises_if_it_ever_gets_five_per_cent_above_its_best(losses: list[float], rising: bool) -> None:
    assert rises(made_up(losses, [0.5] * len(losses), [1] * (len(losses) + 1))) is rising


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
    task = TASKS["cancer"]
    architecture = task.architectures["MLP"]
    parts = make_parts(task, 0)
    probes = {
        name: tuple(column[:6] for column in parts[part].tensors)
        for name, part in (("training", "training"), ("held_out", "validation"))
    }
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(architecture.classifier())
    references = ReferenceModels(models)
    evidence = {REFERENCES: references, CROSS_FITTED: references}
    watch = Watch(evidence, {name: Probes.of(pair) for name, pair in probes.items()}, "cancer", 1e-2)
    monitor = InteractionMonitor(
        players=task.players,
        evidence=references,
        probes=ProbeSampling(**probes),
        extraction=Extraction(tolerance=1e-2),
        logging=Logging(figures=None),
    )
    trainer = L.Trainer(
        max_epochs=2, callbacks=[watch, monitor], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    loaders = [DataLoader(parts[part], 50) for part in ("training", "validation")]
    trainer.fit(architecture.classifier(), *loaders)
    actual = replace(watch.histories()[REFERENCES], settings=monitor.history.settings)  # A benchmark's runs keep no settings.
    assert_same_history(actual, monitor.history, 1e-5)
    without = watch.histories()[CROSS_FITTED]
    assert all(measurement.held_out is None for measurement in without.measurements)
    numbers, expected = (
        [[number.value for number in vars(summarise(one).training).values() if isinstance(number, Estimate)] for one in own]
        for own in (without.measurements, monitor.history.measurements)
    )
    # The monitor's losses are the step's own, of float32 outputs; the benchmark's follow from the scores.
    both = (torch.tensor(own, dtype=torch.float64) for own in (numbers, expected))
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_a_callback_stops_where_the_rule_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 1, 3])
    parts = make_parts(TASKS["cancer"], 0)
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
    trainer.fit(TASKS["cancer"].architectures["MLP"].classifier(), *loaders)
    assert at_onset(monitor.history) == Stop(trainer.current_epoch, 3)
