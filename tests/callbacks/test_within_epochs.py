"""Measurements after optimizer steps, in the middle of epochs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping
from lightning_interactions.analysis import summarise
from lightning_interactions.callbacks import loggers
from lightning_interactions.records import History
from lightning_interactions.schedules import DenserEarly, EveryNEpochs, EveryNSteps, Schedule
from tests.callbacks.runs import (
    TINY_SET_UP,
    RecordingLogger,
    assert_same_history,
    fewest,
    probes_of,
    quiet_trainer,
    script_phases,
)
from tests.helpers.models import (
    DeterministicClassifier,
    StreamedDataset,
    TabularClassifier,
    TwoOptimizers,
    tabular_data,
    tabular_loader,
)

pytestmark = [
    *TINY_SET_UP,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # The resumed runs need not save anything.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

TOLERANCE = 1e-6


def few(schedule: Any, **options: Any) -> InteractionMonitor:
    return fewest(schedule=schedule, **options)


def fit(
    root: Path, *callbacks: Callback, rows: int = 80, model: LightningModule | None = None, train: Any = None, **options: Any
) -> Trainer:
    """Train one epoch of ten batches, if nothing else is said."""
    resume = options.pop("resume", None)
    trainer = quiet_trainer(root, callbacks=list(callbacks), **{"max_epochs": 1, **options})
    trainer.fit(
        TabularClassifier() if model is None else model,
        tabular_loader(rows) if train is None else train,
        tabular_loader(12, seed=1),
        ckpt_path=resume,
    )
    return trainer


def moments(monitor: InteractionMonitor) -> list[tuple[int, int]]:
    return list(zip(monitor.history.epochs, monitor.history.steps, strict=True))


class Listener(Callback):
    """Remembers the steps that it is told of."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_interactions_measured(self, trainer: Trainer, pl_module: LightningModule, monitor: InteractionMonitor) -> None:
        assert trainer.global_step == monitor.history.steps[-1]
        self.steps.append(trainer.global_step)


# When


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (EveryNSteps(4), [(0, 0), (0, 4), (0, 8)]),
        (EveryNSteps(5), [(0, 0), (0, 5), (1, 10)]),
        (DenserEarly(7, "steps", shortest=3), [(0, 0), (0, 3), (0, 6), (0, 7), (0, 9)]),
        (EveryNEpochs(), [(0, 0), (1, 10)]),
    ],
    ids=str,
)
@pytest.mark.slow
def test_one_epoch_is_measured_after_its_steps(tmp_path: Path, schedule: Any, expected: list[tuple[int, int]]) -> None:
    monitor, listener = few(schedule), Listener()
    fit(tmp_path, listener, monitor)
    assert moments(monitor) == expected
    assert listener.steps == [step for _, step in expected]


def test_steps_are_counted_over_epochs(tmp_path: Path) -> None:
    monitor = few(EveryNSteps(4))
    fit(tmp_path, monitor, rows=24, max_epochs=4)
    assert moments(monitor) == [(0, 0), (1, 4), (2, 8), (4, 12)]


@pytest.mark.slow
def test_measurements_after_every_epochs_steps_are_those_at_epoch_ends(tmp_path: Path) -> None:
    histories = []
    for schedule in (EveryNEpochs(), EveryNSteps(3)):
        seed_everything(0, verbose=False)
        fit(tmp_path, monitor := few(schedule), rows=24, max_epochs=3)
        histories.append(monitor.history)
    assert_same_history(*histories, tolerance=0)


def test_a_schedule_may_ask_for_steps_and_epochs(tmp_path: Path) -> None:
    class StepsOfTheFirstEpochThenEpochs(Schedule):
        def due(self, epoch: int) -> bool:
            return epoch >= 1

        def due_at_step(self, step: int) -> bool:
            return step <= 2

    monitor = few(StepsOfTheFirstEpochThenEpochs())
    fit(tmp_path, monitor, rows=24, max_epochs=2)
    assert moments(monitor) == [(0, 0), (0, 1), (0, 2), (1, 3), (2, 6)]


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(TypeError, match="schedule"):
        few(5)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    monitor = few(EveryNSteps(1))
    fit(tmp_path, monitor, accumulate_grad_batches=4)
    # Ten batches: two full steps, and one of the last two batches.
    assert moments(monitor) == [(0, 0), (0, 1), (0, 2), (1, 3)]


def test_a_measurement_sees_the_weights_after_its_step(tmp_path: Path) -> None:
    scores: dict[int, Tensor] = {}

    class Recorder(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_args: Any) -> None:
            with torch.no_grad():
                logits = pl_module(inputs).double().softmax(dim=1)
            scores[trainer.global_step] = logits.gather(1, targets[:, None])[:, 0].logit()

    inputs, targets = tabular_data(5, seed=5).tensors
    monitor = few(EveryNSteps(2), training=(inputs, targets))
    fit(tmp_path, monitor, Recorder(), model=Deterministic(), accumulate_grad_batches=2)
    assert monitor.history.steps == [0, 2, 4]
    for measurement in monitor.history.measurements[1:]:
        expected = scores[measurement.time.step]
        torch.testing.assert_close(measurement.training.full_score, expected, rtol=1e-5, atol=1e-5)


class ValidatedTwo(TwoOptimizers, DeterministicClassifier):
    pass


@pytest.mark.slow
def test_steps_of_several_optimizers_are_all_counted_and_measured_after_their_batch(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few(EveryNSteps(3))
    fit(tmp_path, monitor, model=ValidatedTwo(), logger=logger)
    assert moments(monitor) == [(0, 0), (0, 4), (0, 6), (0, 10), (0, 12), (0, 16), (0, 18)]
    # Loggers count batches.
    assert [step for step, _ in logger.calls] == [0, 1, 2, 4, 5, 7, 8]


def test_a_fast_dev_run_is_measured_at_its_end_only(tmp_path: Path) -> None:
    monitor = few(EveryNSteps(1))
    fit(tmp_path, monitor, fast_dev_run=3)
    assert moments(monitor) == [(1, 3)]


def test_a_run_cut_short_by_max_steps_is_measured_once_at_its_last_step(tmp_path: Path) -> None:
    monitor = few(EveryNSteps(3))
    fit(tmp_path, monitor, max_steps=6)
    assert moments(monitor) == [(0, 0), (0, 3), (0, 6)]


# Streamed data


def streamed(rows: int, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(StreamedDataset(tabular_data(rows), rows), batch_size=batch_size)


def test_measurements_of_streamed_data_begin_when_enough_inputs_have_passed(tmp_path: Path) -> None:
    monitor = few(EveryNSteps(1), training=6)
    fit(tmp_path, monitor, train=streamed(24))
    # Six probes are two batches of four.
    assert moments(monitor) == [(0, 2), (0, 3), (0, 4), (0, 5), (1, 6)]
    assert len(probes_of(monitor, "training")) == 6
    assert all(measurement.held_out is not None for measurement in monitor.history.measurements)


def test_streamed_data_that_are_too_few_are_measured_at_the_epochs_end(tmp_path: Path) -> None:
    monitor = few(EveryNSteps(2), training=30)
    with pytest.warns(UserWarning, match="30 training inputs asked for, 24 used"):
        fit(tmp_path, monitor, train=streamed(24), max_epochs=2)
    assert moments(monitor) == [(1, 6), (1, 8), (1, 10), (2, 12)]


# Logging


@pytest.mark.slow
def test_loggers_get_every_measurement_at_its_step_and_once(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few(EveryNSteps(4))
    fit(tmp_path, monitor, logger=logger, log_every_n_steps=3, rows=96)
    ours = [(step, metrics) for step, metrics in logger.calls if "interactions/share" in metrics]
    # Loggers count steps from zero; the epoch's end is at the step of its last batch.
    assert [step for step, _ in ours] == [0, 3, 7, 11]
    for (_, metrics), measurement in zip(ours, monitor.history.measurements, strict=True):
        assert metrics["interactions/share"] == pytest.approx(summarise(measurement).training.share.value, rel=1e-5)
        assert metrics["interactions/phase"] == 1.0
    assert [metrics["epoch"] for _, metrics in ours] == [0, 0, 0, 0]
    assert ours[0][1].keys() == ours[1][1].keys() == ours[3][1].keys()


def test_what_the_module_logs_is_not_mixed_with_measurements(tmp_path: Path) -> None:
    class Logs(TabularClassifier):
        def training_step(self, batch: Any, _batch_index: int) -> Tensor:
            loss = self.loss(batch)
            self.log("loss", loss)
            return loss

    logger = RecordingLogger()
    fit(tmp_path, few(EveryNSteps(4)), model=Logs(), logger=logger)
    its = [(step, set(metrics)) for step, metrics in logger.calls if "loss" in metrics]
    assert its == [(step, {"loss", "epoch"}) for step in range(10)]


@pytest.mark.slow
def test_tensorboard_gets_figures_at_the_steps_of_the_scalars(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, few(EveryNSteps(4), figures=EveryNSteps(4)), logger=logger, rows=96)
    logger.experiment.flush()
    written = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0})
    written.Reload()
    names = ("strength_by_order", "decay_and_spindle", "order_and_time")
    for tag in ("interactions/phases", *(f"interactions-figures/{name}" for name in names)):
        assert [image.step for image in written.Images(tag)] == [3, 7, 11]
    assert [event.step for event in written.Scalars("interactions/share")] == [0, 3, 7, 11]


@pytest.mark.slow
def test_the_theory_is_drawn_over_optimizer_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []
    original = loggers.theory_figure

    def spy(second_phase: Any, explained: History) -> Any:
        drawn.append(explained.steps)
        return original(second_phase, explained)

    monkeypatch.setattr("lightning_interactions.analysis.second_phase.second_phase_measurements", lambda *_args: range(1, 3))
    monkeypatch.setattr(loggers, "theory_figure", spy)
    fit(tmp_path, few(EveryNSteps(2), figures=EveryNSteps(2)), logger=TensorBoardLogger(tmp_path))
    assert drawn == [[2, 4]]


@pytest.mark.slow
def test_stock_model_checkpoint_keeps_the_best_share_within_an_epoch(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, monitor="interactions/share", mode="max", every_n_train_steps=2, filename="{step}", save_top_k=1
    )
    monitor = few(EveryNSteps(2))
    fit(tmp_path, checkpoint, monitor, enable_checkpointing=True, rows=88)
    within = {
        measurement.time.step: summarise(measurement).training.share.value for measurement in monitor.history.measurements[1:]
    }
    best = max(within, key=within.__getitem__)
    assert checkpoint.best_model_score == pytest.approx(within[best])
    assert Path(checkpoint.best_model_path).name == f"step={best}.ckpt"


def test_stock_early_stopping_sees_the_last_measurement_within_an_epoch(tmp_path: Path) -> None:
    monitor = few(EveryNSteps(4))
    stopping = EarlyStopping("interactions/share", mode="max", min_delta=2.0, patience=1, check_on_train_epoch_end=False)
    trainer = fit(tmp_path, monitor, stopping, val_check_interval=4, num_sanity_val_steps=0)
    assert stopping.best_score == pytest.approx(summarise(monitor.history.measurements[1]).training.share.value)
    assert trainer.global_step == 8
    assert moments(monitor) == [(0, 0), (0, 4), (0, 8)]


def test_the_progress_bar_shows_the_phase_within_an_epoch(tmp_path: Path) -> None:
    shown: list[int] = []

    class Looks(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_args: Any) -> None:
            if "interactions/phase" in trainer.progress_bar_metrics:
                shown.append(trainer.global_step)

    fit(tmp_path, few(EveryNSteps(4)), Looks())
    assert shown == [4, 5, 6, 7, 8, 9, 10]


# Stopping


def test_a_phase_detected_within_an_epoch_stops_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 3])
    monitor, stopping = few(EveryNSteps(2)), PhaseEarlyStopping(verbose=False)
    trainer = fit(tmp_path, stopping, monitor, max_epochs=3)
    assert trainer.global_step == 4
    assert moments(monitor) == [(0, 0), (0, 2), (0, 4)]
    assert (stopping.onset_epoch, stopping.stopped_epoch) == (0, 0)
    assert monitor.phase is not None
    assert monitor.phase.onset.step == 4


@pytest.mark.slow
@pytest.mark.parametrize(("least", "steps"), [({"min_steps": 7, "min_epochs": 0}, 7), ({"min_epochs": 1}, 10)], ids=str)
def test_a_stop_waits_for_the_trainers_least_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: dict[str, int], steps: int
) -> None:
    script_phases(monkeypatch, [1, 1, 3])
    trainer = fit(tmp_path, few(EveryNSteps(2)), PhaseEarlyStopping(verbose=False), max_epochs=3, **least)
    assert trainer.global_step == steps


# Resuming


class Deterministic(DeterministicClassifier):
    """Begins with the same weights wherever it is made."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__()


class OneBatch(DataLoader[Any]):
    """The same batch again and again: Lightning begins the loader of an interrupted epoch from its start."""

    def __init__(self, batches: int) -> None:
        inputs, targets = tabular_data(8).tensors
        data = torch.utils.data.TensorDataset(inputs.repeat(batches, 1), targets.repeat(batches))
        super().__init__(data, batch_size=8)


@pytest.mark.slow
@pytest.mark.parametrize("saved_at", [2, 3, 4])
@pytest.mark.parametrize("schedule", [EveryNSteps(2), EveryNSteps(3), EveryNEpochs()], ids=str)
def test_a_run_resumed_within_an_epoch_has_the_history_of_an_unbroken_one(tmp_path: Path, schedule: Any, saved_at: int) -> None:
    unbroken, resumed = few(schedule), few(schedule)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=saved_at, filename="{step}", save_top_k=-1)
    settings: dict[str, Any] = {"train": OneBatch(3), "max_epochs": 2}
    fit(tmp_path, unbroken, saver, model=Deterministic(), enable_checkpointing=True, **settings)
    resume = tmp_path / f"step={saved_at}.ckpt"
    trainer = fit(tmp_path, resumed, model=Deterministic(), resume=resume, **settings)
    assert trainer.global_step == 6
    assert moments(resumed) == moments(unbroken)
    assert_same_history(resumed.history, unbroken.history, TOLERANCE)


@pytest.mark.slow
def test_a_measurement_that_a_checkpoint_came_before_is_made_up_for(tmp_path: Path) -> None:
    class SavesFirst(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_args: Any) -> None:
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "early.ckpt")

    unbroken, resumed = few(EveryNSteps(2)), few(EveryNSteps(2))
    logger, train = RecordingLogger(), OneBatch(10)
    fit(tmp_path, SavesFirst(), unbroken, model=Deterministic(), train=train)
    fit(tmp_path, resumed, model=Deterministic(), train=train, resume=tmp_path / "early.ckpt", logger=logger)
    assert_same_history(resumed.history, unbroken.history, TOLERANCE)
    assert [step for step, _ in logger.calls] == [3, 5, 7, 9]


@pytest.mark.slow
def test_a_monitor_used_for_another_run_within_whose_epoch_it_is_begins_anew(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=4, filename="{step}", save_top_k=-1)
    fit(tmp_path, saver, model=Deterministic(), enable_checkpointing=True)
    monitor = few(EveryNSteps(3))
    fit(tmp_path, monitor)
    with pytest.warns(UserWarning, match="history reaches epoch 0, step 9 and this run begins after epoch 0, step 4"):
        fit(tmp_path, monitor, model=Deterministic(), resume=tmp_path / "step=4.ckpt")
    assert moments(monitor) == [(0, 6), (0, 9)]
