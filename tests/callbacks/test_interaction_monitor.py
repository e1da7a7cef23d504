import csv
import math
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler

from lightning_interactions import FeatureGroups, ImagePatches, InteractionMonitor, PhaseEarlyStopping, baselines, tasks
from lightning_interactions.analysis import summarise
from lightning_interactions.records import Rows, fingerprints
from lightning_interactions.schedules import EveryNEpochs, Schedule
from tests.callbacks.runs import (
    TINY_SET_UP,
    FailingLogger,
    RecordingLogger,
    RefusingLogger,
    few,
    log_odds_of,
    other_references,
    probes_of,
    quiet_trainer,
    script_phases,
)
from tests.helpers.models import (
    DictDataset,
    DictOutputClassifier,
    ImageClassifier,
    OneLogitClassifier,
    PlainTabularClassifier,
    StreamedDataset,
    TabularClassifier,
    TwoOptimizers,
    image_data,
    tabular_data,
    tabular_loader,
)

pytestmark = TINY_SET_UP

BATCHES = 3
KINDS = ("generalizable", "non_generalizable")
FIRST = ("phase", "share", "share_chance", "loss", "expected_test_loss", *KINDS, "mean_order")
DIAGNOSTICS = (
    *("share_low", "share_high", "share_above_chance", "non_salient", "cancellation", "left_out"),
    *("decay_share", "decay_spindle_fit", "seconds", "overhead"),
)
OF_HELD_OUT = (*KINDS, "share", "share_low", "share_high", "share_chance", "loss", "mean_order", "left_out")


def fit(
    root: Path,
    *callbacks: Callback,
    model: LightningModule | None = None,
    train: Any = None,
    val: Any = "default",
    **options: Any,
) -> Trainer:
    """Train a tiny model on 24 rows in three batches, with 12 held-out rows."""
    trainer = quiet_trainer(root, callbacks=list(callbacks), **options)
    trainer.fit(
        TabularClassifier() if model is None else model,
        tabular_loader(24, batch_size=8) if train is None else train,
        tabular_loader(12, seed=1) if isinstance(val, str) else val,
    )
    return trainer


def prints(inputs: Tensor) -> set[str]:
    return set(fingerprints(Rows.of(inputs)))


def expected_tags(prefix: str, num_players: int, held_out: bool = True) -> set[str]:
    tags = {f"{prefix}/{name}" for name in FIRST} | {f"{prefix}-diagnostics/{name}" for name in DIAGNOSTICS}
    tags |= {f"{prefix}-by-order/{kind}_{order:02d}" for kind in KINDS for order in range(1, num_players + 1)}
    if held_out:
        tags |= {f"{prefix}/loss_gap", f"{prefix}/excess_gap", f"{prefix}-diagnostics/remaining_gap"}
        tags |= {f"{prefix}-diagnostics/excess_gap_low", f"{prefix}-diagnostics/excess_gap_high"}
        tags |= {f"{prefix}-heldout/{name}" for name in OF_HELD_OUT}
    return tags


def measured_tags(calls: list[tuple[int | None, dict[str, float]]]) -> list[tuple[int | None, set[str]]]:
    """Leave out what Lightning adds, and calls that hold nothing else."""
    return [(step, set(metrics) - {"epoch"}) for step, metrics in calls if set(metrics) - {"epoch"}]


class LogsEpochs(TabularClassifier):
    """Logs a number of its own for each epoch."""

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        loss = super().training_step(batch, batch_index)
        self.log("epoch_loss", loss, on_step=False, on_epoch=True, batch_size=8)
        return loss


class LaterEpochs(Schedule):
    """A schedule that leaves the untrained model alone."""

    def due(self, epoch: int) -> bool:
        return epoch > 0


def test_every_tag_of_five_players_is_logged_before_training_and_after_each_epoch(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few()
    loaders = [tabular_loader(24, seed=seed, num_features=5) for seed in (0, 1)]
    fit(
        tmp_path,
        monitor,
        model=TabularClassifier(num_features=5),
        train=loaders[0],
        val=loaders[1],
        logger=logger,
        max_epochs=3,
    )
    tags = expected_tags("interactions", num_players=5)
    assert len(tags) == 42
    assert measured_tags(logger.calls) == [(0, tags), *[(BATCHES * epoch - 1, tags) for epoch in (1, 2, 3)]]


def test_logged_numbers_are_those_of_the_history(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few()
    fit(tmp_path, monitor, logger=logger)
    assert len(logger.calls) == len(monitor.history) == 3
    for (_, metrics), measurement, phase in zip(
        logger.calls, monitor.history.measurements, monitor.history.phases, strict=True
    ):
        summary = summarise(measurement)
        assert summary.held_out is not None
        by_order = measurement.training.strength.generalizable.sum(dim=(1, 2)).mean(dim=0)
        for tag, value in {
            "/share": summarise(measurement).training.share.value,
            "-heldout/share": summary.held_out.share.value,
            "-heldout/loss": summary.held_out.loss.value,
            "-by-order/generalizable_02": by_order[2].item(),
            "/generalizable": by_order.sum().item(),
            "/excess_gap": summarise(measurement).excess_gap.value,
            "-diagnostics/excess_gap_low": summary.excess_gap.low,
            "-diagnostics/share_high": summary.training.share.high,
            "-heldout/share_low": summary.held_out.share.low,
            "/phase": float(phase.number),
            "-diagnostics/seconds": measurement.seconds,
        }.items():
            assert metrics[f"interactions{tag}"] == pytest.approx(value, rel=1e-5, abs=1e-6), tag


def test_the_history_counts_completed_epochs_and_optimizer_steps(tmp_path: Path) -> None:
    monitor = few()
    assert monitor.phase is None
    trainer = fit(tmp_path, monitor, max_epochs=3)
    history = monitor.history
    assert history.epochs == [0, 1, 2, 3]
    assert history.steps == [0, 3, 6, 9]
    assert trainer.current_epoch == 3
    assert monitor.phase == history.phases[-1]
    assert len(history.phases) == len(history)
    for measurement in history.measurements:
        assert len(measurement.training.full_score) == 6
        assert measurement.held_out is not None
        assert len(measurement.held_out.full_score) == 4
        assert measurement.training.strength.generalizable.shape == (6, 2, 2, 5)
        assert summarise(measurement).training.left_out == 0


def test_the_untrained_model_is_measured_as_it_was_before_training(tmp_path: Path) -> None:
    model = TabularClassifier()
    inputs, targets = tabular_data(5, seed=7).tensors
    untrained = log_odds_of(model.eval(), inputs, targets)
    monitor = few(training=(inputs, targets))
    fit(tmp_path, monitor, model=model.train())
    first, *_, last = monitor.history.measurements
    torch.testing.assert_close(first.training.full_score, untrained, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last.training.full_score, log_odds_of(model.eval(), inputs, targets), rtol=1e-5, atol=1e-5)


def test_a_monitor_may_be_made_without_arguments(tmp_path: Path) -> None:
    monitor = InteractionMonitor()
    fit(tmp_path, monitor, train=tabular_loader(100), val=tabular_loader(40, seed=1), max_epochs=1)
    assert monitor.history.epochs == [0, 1]
    assert len(probes_of(monitor, "training")) == len(probes_of(monitor, "held_out")) == 32


def test_images_get_nine_patches_by_default(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few(training=2, held_out=2)
    loaders = [DataLoader(image_data(16, seed=seed), batch_size=8) for seed in (0, 1)]
    fit(tmp_path, monitor, model=ImageClassifier(), train=loaders[0], val=loaders[1], logger=logger, max_epochs=1)
    assert measured_tags(logger.calls)[0] == (0, expected_tags("interactions", num_players=9))


def test_images_with_patches_and_a_mean_baseline(tmp_path: Path) -> None:
    monitor = few(players=ImagePatches(2, 2), baseline=baselines.TrainingMean())
    data, held_out = (DataLoader(image_data(16, seed=seed), batch_size=8) for seed in (0, 1))
    fit(tmp_path, monitor, model=ImageClassifier(), train=data, val=held_out)
    torch.testing.assert_close(monitor.state_dict()["baseline"]["0"], image_data(16).tensors[0].mean(dim=0))
    assert monitor.history.measurements[0].training.strength.generalizable.shape == (6, 2, 2, 5)


def test_one_logit_is_enough_for_two_classes(tmp_path: Path) -> None:
    model = OneLogitClassifier()
    inputs, targets = tabular_data(5, num_classes=2).tensors
    with torch.no_grad():
        expected = model(inputs)[:, 0].double() * (2 * targets - 1)
    monitor = few(training=(inputs, targets))
    loaders = [tabular_loader(16, seed=seed, num_classes=2) for seed in (0, 1)]
    fit(tmp_path, monitor, model=model, train=loaders[0], val=loaders[1], max_epochs=1)
    torch.testing.assert_close(monitor.history.measurements[0].training.full_score, expected, rtol=1e-5, atol=1e-5)


def test_without_a_validation_loader_there_are_no_held_out_numbers_and_a_warning(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few()
    with pytest.warns(UserWarning, match="no validation loader"):
        fit(tmp_path, monitor, model=PlainTabularClassifier(), val=None, logger=logger)
    assert measured_tags(logger.calls)[0] == (0, expected_tags("interactions", num_players=4, held_out=False))
    for measurement in monitor.history.measurements:
        assert measurement.held_out is None
        assert summarise(measurement).held_out is None
        assert all(
            map(
                math.isnan,
                (
                    summarise(measurement).loss_gap.value,
                    summarise(measurement).remaining_gap.value,
                    summarise(measurement).excess_gap.value,
                ),
            )
        )


@pytest.mark.parametrize(("size", "expected"), [(16, 5), (4, 4)])
def test_without_a_validation_loader_training_inputs_are_probes_in_the_place_of_held_out_ones(
    tmp_path: Path, size: int, expected: int
) -> None:
    monitor = few(training=2, held_out=3)
    with pytest.warns(UserWarning, match="training inputs are probes in their place"):
        fit(tmp_path, monitor, model=PlainTabularClassifier(), train=tabular_loader(size), val=None, max_epochs=1)
    assert all(len(measurement.training) == expected for measurement in monitor.history.measurements)
    beside = few(training=2, held_out=3)
    fit(tmp_path, beside, max_epochs=1)
    assert all(len(one.training) == 2 and len(one.held_out) == 3 for one in beside.history.measurements)


def test_held_out_data_can_be_left_alone(tmp_path: Path) -> None:
    with_validation, without = few(held_out=0), few(held_out=0)
    fit(tmp_path, with_validation)
    # Nobody misses a validation loader then.
    fit(tmp_path, without, model=PlainTabularClassifier(), val=None)
    for monitor in (with_validation, without):
        assert len(monitor.history) > 1
        assert all(measurement.held_out is None for measurement in monitor.history.measurements)


@pytest.mark.parametrize("tolerance", [0.3, 1e-3])
def test_the_solver_takes_the_tolerance(tmp_path: Path, tolerance: float) -> None:
    exact, monitor = few(name="exact"), few(name="other", tolerance=tolerance)
    fit(tmp_path, exact, monitor, max_epochs=1)
    strengths = [
        [measurement.training.strength.generalizable for measurement in one.history.measurements] for one in (exact, monitor)
    ]
    same = all(torch.equal(one, other) for one, other in zip(*strengths, strict=True))
    assert same is (tolerance == 0.3)


def test_handed_in_held_out_probes_make_up_for_a_missing_validation_loader(tmp_path: Path) -> None:
    monitor = few(held_out=tabular_data(5, seed=3).tensors)
    fit(tmp_path, monitor, model=PlainTabularClassifier(), val=None)
    assert all(math.isfinite(summarise(measurement).excess_gap.value) for measurement in monitor.history.measurements)


def test_without_a_logger_the_history_fills(tmp_path: Path) -> None:
    monitor = few(figures=EveryNEpochs())
    fit(tmp_path, monitor, logger=False)
    assert monitor.history.epochs == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_fast_dev_run_makes_one_tiny_measurement(tmp_path: Path) -> None:
    monitor = few()
    fit(tmp_path, monitor, fast_dev_run=True)
    assert monitor.history.epochs == [1]
    measurement = monitor.history.measurements[0]
    assert measurement.held_out is not None
    assert len(measurement.training.full_score) == len(measurement.held_out.full_score) == 2


def test_a_fast_dev_run_measures_no_more_than_two_of_the_probes_handed_in(tmp_path: Path) -> None:
    monitor = few(training=tabular_data(9).tensors, held_out=tabular_data(9, seed=1).tensors)
    fit(tmp_path, monitor, fast_dev_run=True)
    measurement = monitor.history.measurements[0]
    assert measurement.held_out is not None
    assert len(measurement.training.full_score) == len(measurement.held_out.full_score) == 2


def test_the_sanity_check_measures_and_keeps_nothing(tmp_path: Path) -> None:
    class AtItsEnd(Callback):
        seen: tuple[int, int] | None = None

        def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.seen = (len(monitor.history), len(monitor.state_dict()["probes"]))

    monitor, at_its_end = few(), AtItsEnd()
    # A sanity check of one batch; epochs use two batches, of which the first four rows become probes.
    data = StreamedDataset(tabular_data(12, seed=1), 12)
    fit(tmp_path, monitor, at_its_end, val=DataLoader(data, batch_size=8), num_sanity_val_steps=1)
    assert at_its_end.seen == (0, 0)
    assert monitor.history.epochs == [0, 1, 2]


def test_validating_alone_measures_nothing(tmp_path: Path) -> None:
    monitor = few()
    quiet_trainer(tmp_path, callbacks=[monitor]).validate(TabularClassifier(), tabular_loader(12), verbose=False)
    assert len(monitor.history) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("n", "epochs"), [(2, [0, 2, 4]), (3, [0, 3]), (7, [0])])
def test_a_schedule_measures_every_n_epochs(tmp_path: Path, n: int, epochs: list[int]) -> None:
    logger, monitor = RecordingLogger(), few(schedule=EveryNEpochs(n))
    fit(tmp_path, monitor, logger=logger, max_epochs=4)
    assert monitor.history.epochs == epochs
    assert [step for step, _ in measured_tags(logger.calls)] == [0, *[BATCHES * epoch - 1 for epoch in epochs[1:]]]


def test_a_name_prefixes_the_tags_and_two_named_monitors_go_side_by_side(tmp_path: Path) -> None:
    logger = RecordingLogger()
    coarse = few(name="coarse", players=FeatureGroups([[0, 1], [2, 3]]))
    fine = few(name="fine")
    fit(tmp_path, coarse, fine, logger=logger, max_epochs=1)
    tags = expected_tags("coarse-interactions", 2) | expected_tags("fine-interactions", 4)
    assert set().union(*(names for step, names in measured_tags(logger.calls) if step == 0)) == tags
    assert set().union(*(names for step, names in measured_tags(logger.calls) if step == BATCHES - 1)) == tags
    assert coarse.state_key != fine.state_key
    assert coarse.history.epochs == fine.history.epochs == [0, 1]
    assert coarse.history.measurements[0].training.strength.generalizable.shape[-1] == 3


@pytest.mark.parametrize("name", [None, "twice"])
def test_two_monitors_of_one_name_are_refused(tmp_path: Path, name: str | None) -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `InteractionMonitor`"):
        fit(tmp_path, few(name=name), few(name=name))
    # Lightning looks only at the callbacks that the Trainer is made with.
    trainer = quiet_trainer(tmp_path, callbacks=[few(name=name)])
    trainer.callbacks.append(few(name=name))
    with pytest.raises(MisconfigurationException, match=f"need different names, got .*{name}.*; pass name= to each"):
        trainer.fit(TabularClassifier(), tabular_loader(), tabular_loader(12, seed=1))


def test_more_than_sixteen_players_are_refused_with_the_number_of_forwards(tmp_path: Path) -> None:
    monitor = few(players=FeatureGroups([[column] for column in range(17)]))
    loaders = [tabular_loader(16, seed=seed, num_features=17) for seed in (0, 1)]
    with pytest.raises(ValueError, match=f"{2**17 * (6 + 4):,} forwards.*max_players=16"):
        fit(tmp_path, monitor, model=TabularClassifier(num_features=17), train=loaders[0], val=loaders[1])


def test_max_players_is_a_limit_that_can_be_moved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"4 players would take {2**4 * 10} forwards.*max_players"):
        fit(tmp_path, few(max_players=3))
    monitor = few(max_players=4)
    fit(tmp_path, monitor, max_epochs=1)
    assert monitor.history.epochs == [0, 1]


class StartsTraining(Callback):
    """Notes whether a training step was ever reached."""

    started = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.started = True


def test_dict_outputs_are_measured_by_the_modules_own_step(tmp_path: Path) -> None:
    model = DictOutputClassifier()
    inputs, targets = tabular_data(5).tensors
    expected = log_odds_of(model.eval().network, inputs, targets)
    monitor = few(training=(inputs, targets))
    fit(tmp_path, monitor, model=model.train())
    torch.testing.assert_close(monitor.history.measurements[0].training.full_score, expected, rtol=1e-5, atol=1e-5)


class ClassesOfDict(tasks.Classification):
    """Takes batches apart."""

    def unpack(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch["x"], batch["y"]


class LogitsOfDict(tasks.Classification):
    """Finds the logits in what the module returns."""

    def forward(self, module: nn.Module, batch: Tensor) -> Tensor:
        logits: Tensor = module(batch)["logits"]
        return logits


@pytest.mark.parametrize("schedule", [None, EveryNEpochs(2)], ids=["every epoch", "the second"])
def test_dict_outputs_are_refused_by_a_task_before_training_with_the_adapter(tmp_path: Path, schedule: Any) -> None:
    training, monitor = StartsTraining(), few(task=tasks.Classification(), schedule=schedule)
    with pytest.raises(ValueError, match=r"expected logits .* got dict; .*forward\(model, inputs\)"):
        fit(tmp_path, monitor, training, model=DictOutputClassifier())
    assert not training.started


def test_dict_outputs_are_measured_by_a_task_with_a_forward(tmp_path: Path) -> None:
    model = DictOutputClassifier()
    inputs, targets = tabular_data(5).tensors
    expected = log_odds_of(model.eval().network, inputs, targets)
    monitor = few(task=LogitsOfDict(), training=(inputs, targets))
    fit(tmp_path, monitor, model=model.train())
    torch.testing.assert_close(monitor.history.measurements[0].training.full_score, expected, rtol=1e-5, atol=1e-5)


def dict_loader(num_inputs: int, seed: int = 0) -> DataLoader[Any]:
    return DataLoader(DictDataset(tabular_data(num_inputs, seed=seed)), batch_size=8)


def test_dict_batches_are_refused_by_a_task_before_training_with_the_adapter(tmp_path: Path) -> None:
    training, monitor = StartsTraining(), few(task=tasks.Classification())
    with pytest.raises(ValueError, match=r"expected batches \(inputs, targets\).*got dict of 2(.|\n)*def unpack"):
        fit(tmp_path, monitor, training, train=dict_loader(24), val=dict_loader(12, seed=1))
    assert not training.started


@pytest.mark.parametrize("task", [None, ClassesOfDict()], ids=["own step", "unpack"])
def test_dict_batches_are_measured(tmp_path: Path, task: Any) -> None:
    monitor = few(task=task)
    fit(tmp_path, monitor, train=dict_loader(24), val=dict_loader(12, seed=1))
    assert monitor.history.epochs == [0, 1, 2]
    assert len(prints(probes_of(monitor, "training")) & prints(tabular_data(24).tensors[0])) == 6
    assert len(prints(probes_of(monitor, "held_out")) & prints(tabular_data(12, seed=1).tensors[0])) == 4


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected labels from 0 to 1 .* got \[2"):
        fit(tmp_path, few(), model=TabularClassifier(num_classes=2))


def test_a_baseline_of_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one input of shape \(4,\), got shape \(7,\)"):
        fit(tmp_path, few(baseline=baselines.Constant(torch.zeros(7))))


def test_a_baseline_tensor_is_what_masked_players_get(tmp_path: Path) -> None:
    baseline = torch.tensor([0.5, -1.0, 2.0, 0.0])
    model = TabularClassifier()
    inputs, targets = tabular_data(5).tensors
    expected = log_odds_of(model.eval(), baseline.expand(5, 4), targets)
    monitor = few(baseline=baselines.Constant(baseline), training=(inputs, targets))
    fit(tmp_path, monitor, model=model.train(), max_epochs=1)
    torch.testing.assert_close(monitor.history.measurements[0].training.empty_score, expected, rtol=1e-5, atol=1e-5)


def test_probes_handed_in_are_the_ones_measured(tmp_path: Path) -> None:
    training, held_out = tabular_data(5, seed=5).tensors, tabular_data(3, seed=6).tensors
    monitor = few(training=training, held_out=held_out)
    fit(tmp_path, monitor)
    assert torch.equal(probes_of(monitor, "training"), training[0])
    assert torch.equal(probes_of(monitor, "held_out"), held_out[0])


def test_probes_handed_in_with_too_few_targets_are_refused() -> None:
    inputs, targets = tabular_data(5).tensors
    with pytest.raises(ValueError, match=r"inputs .*\(5, 4\) and targets .*\(4,\)"):
        few(training=(inputs, targets[:4]))


@pytest.mark.slow
def test_drawn_probes_are_stratified_and_the_same_in_every_run(tmp_path: Path) -> None:
    first, second = few(training=12), few(training=12)
    fit(tmp_path, first, train=tabular_loader(48, shuffle=True), max_epochs=1)
    fit(tmp_path, second, train=tabular_loader(48, shuffle=True), max_epochs=1)
    assert torch.equal(probes_of(first, "training"), probes_of(second, "training"))
    kept = first.state_dict()["probes"]["training"][0]["targets"]["tree"].bincount(minlength=3)
    assert ((kept - 12 * tabular_data(48).tensors[1].bincount(minlength=3) / 48).abs() <= 1).all()
    fit(tmp_path, third := few(training=12, seed=1), train=tabular_loader(48, shuffle=True), max_epochs=1)
    assert not torch.equal(probes_of(first, "training"), probes_of(third, "training"))


def test_streamed_training_data_are_kept_as_batches_pass(tmp_path: Path) -> None:
    data, monitor, logger = tabular_data(24), few(), RecordingLogger()
    fit(tmp_path, monitor, train=DataLoader(StreamedDataset(data, 24), batch_size=4), logger=logger)
    # There is nothing to measure the untrained model on.
    assert monitor.history.epochs == [1, 2]
    assert prints(probes_of(monitor, "training")) <= prints(data.tensors[0][:8])
    assert len(probes_of(monitor, "training")) == 6
    assert [step for step, _ in measured_tags(logger.calls)] == [5, 11]


def test_streamed_validation_data_are_kept_as_batches_pass(tmp_path: Path) -> None:
    data, monitor = tabular_data(12, seed=1), few()
    fit(tmp_path, monitor, val=DataLoader(StreamedDataset(data, 12), batch_size=8))
    assert [measurement.held_out is None for measurement in monitor.history.measurements] == [True, False, False]
    assert prints(probes_of(monitor, "held_out")) <= prints(data.tensors[0][:8])


def test_fewer_inputs_than_asked_for_are_used_with_a_warning(tmp_path: Path) -> None:
    monitor = few(training=30)
    with pytest.warns(UserWarning, match="30 training inputs asked for, 24 used"):
        fit(tmp_path, monitor)
    assert len(probes_of(monitor, "training")) == 24


LARGE = 0.0


class SometimesNotANumber(TabularClassifier):
    """Gives NaN in evaluation for inputs whose first feature is large."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits if self.training else torch.where(inputs[:, :1] > self.threshold, torch.nan, logits)


def test_an_input_with_nan_outputs_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    inputs, targets = tabular_data(8, seed=5).tensors
    broken = inputs[:, 0] > LARGE
    assert broken.sum() == 3
    logger, monitor = RecordingLogger(), few(training=(inputs, targets), figures=EveryNEpochs())
    fit(tmp_path, monitor, model=SometimesNotANumber(LARGE), logger=logger)
    assert monitor.history.epochs == [0, 1, 2]
    for measurement in monitor.history.measurements:
        assert torch.equal(measurement.training.measured, ~broken)
        assert summarise(measurement).training.left_out == int(broken.sum())
        assert math.isfinite(summarise(measurement).training.share.value)
        assert math.isfinite(summarise(measurement).training.loss.value)
        # What is left of the logged numbers are means over the others.
        by_order = measurement.training.strength.non_generalizable[~broken].sum(dim=(1, 2, 3))
        assert summarise(measurement).training.non_generalizable.value == pytest.approx(by_order.mean().item())
    untrained = logger.calls[0][1]
    assert untrained["interactions-diagnostics/left_out"] == broken.sum()
    assert math.isfinite(untrained["interactions-by-order/generalizable_01"])


def test_a_model_that_gives_only_nan_is_measured_as_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    monitor = few(figures=EveryNEpochs())
    logger = TensorBoardLogger(tmp_path)
    with pytest.warns(UserWarning, match="probes are left out of the measurement after epoch 0") as caught:
        fit(tmp_path, monitor, model=SometimesNotANumber(-torch.inf), logger=logger)
    said = [text for warning in caught if "are left out of the measurement" in (text := str(warning.message))]
    assert [text.split()[2] for text in said] == ["training", "held_out"]
    assert monitor.history.epochs == [0, 1, 2]
    for measurement in monitor.history.measurements:
        assert summarise(measurement).training.left_out == 6
        assert math.isnan(summarise(measurement).training.share.value)
    assert str(monitor.history)
    assert monitor.phase is not None
    assert monitor.phase.number == 1


def test_nan_outputs_do_not_disturb_the_weights_of_reference_models(tmp_path: Path) -> None:
    inputs, targets = tabular_data(8, seed=5).tensors
    monitor = few(evidence=other_references(), training=(inputs, targets))
    fit(tmp_path, monitor, model=SometimesNotANumber(LARGE))
    assert all(math.isfinite(summarise(measurement).training.share.value) for measurement in monitor.history.measurements)


def test_reference_models_trained_in_float32_rate_a_run_in_float64(tmp_path: Path) -> None:
    monitor = few(evidence=other_references())
    fit(tmp_path, monitor, precision="64-true", max_epochs=1)
    assert all(0 <= summarise(measurement).training.share.value <= 1 for measurement in monitor.history.measurements)


class BreaksDown(TabularClassifier):
    """Fails in its steps while it is broken."""

    broken = False

    def loss(self, batch: Any) -> Tensor:
        if self.broken:
            raise RuntimeError("broken for a while")
        return super().loss(batch)


class Breaks(Callback):
    """Breaks a module for the measurement after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: Trainer, pl_module: BreaksDown) -> None:
        pl_module.broken = self.epochs == 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: BreaksDown) -> None:
        pl_module.broken = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: BreaksDown) -> None:
        pl_module.broken = trainer.current_epoch + 1 == self.epochs


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_measurement_that_fails_later_is_left_out_or_ends_the_run(tmp_path: Path, on_error: str) -> None:
    monitor, weights = few(on_error=on_error), []
    for callbacks in ([], [monitor]):
        torch.manual_seed(0)
        model = BreaksDown()
        failing = {
            "warn": pytest.warns(UserWarning, match=r"epoch 1, step 3 failed and is left out: RuntimeError\('broken"),
            "raise": pytest.raises(RuntimeError, match="broken for a while"),
        }[on_error]
        with failing if callbacks else nullcontext():
            fit(tmp_path, Breaks(1), *callbacks, model=model, max_epochs=3 if on_error == "warn" else 1)
        weights.append(model.state_dict())
    assert monitor.history.epochs == ([0, 2, 3] if on_error == "warn" else [0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_module_that_cannot_be_measured_ends_the_run_before_training(tmp_path: Path, on_error: str) -> None:
    training, monitor = StartsTraining(), few(on_error=on_error)
    with pytest.raises(ValueError, match="broken for a while"):
        fit(tmp_path, Breaks(0), monitor, training, model=BreaksDown())
    assert not training.started
    assert monitor.history.epochs == []


def test_a_failing_logger_is_warned_about_and_the_run_goes_on(tmp_path: Path) -> None:
    logger, monitor = FailingLogger(), few()
    with pytest.warns(UserWarning, match="write_scalars to FailingLogger failed and is left out: OSError"):
        fit(tmp_path, monitor, logger=logger)
    assert monitor.history.epochs == [0, 1, 2]
    assert [step for step, _ in measured_tags(logger.calls)] == [2, 5]


def test_a_failing_logger_ends_the_run_if_asked_to(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        fit(tmp_path, few(raise_errors=True), logger=FailingLogger())


@pytest.mark.parametrize("untrained", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_logger_that_fails_at_the_end_of_an_epoch_is_warned_about_and_the_run_goes_on(
    tmp_path: Path, untrained: bool
) -> None:
    logger, monitor = RefusingLogger("interactions/phase"), few(schedule=EveryNEpochs(1) if untrained else LaterEpochs())
    trainer: Trainer
    with pytest.warns(UserWarning, match="write_scalars to RefusingLogger failed and is left out: OSError"):
        trainer = fit(tmp_path, monitor, model=LogsEpochs(), logger=logger)
    assert monitor.history.epochs == ([0, 1, 2] if untrained else [1, 2])
    assert trainer.callback_metrics["interactions/phase"] == 1.0
    # What the module logs arrives.
    assert measured_tags(logger.calls) == [(2, {"epoch_loss"}), (5, {"epoch_loss"})]


def test_a_logger_that_fails_at_the_end_of_an_epoch_ends_the_run_if_asked_to(tmp_path: Path) -> None:
    monitor = few(schedule=LaterEpochs(), raise_errors=True)
    with pytest.raises(OSError, match="disk full"):
        fit(tmp_path, monitor, logger=RefusingLogger("interactions/phase"))
    assert monitor.history.epochs == [1]


def test_a_failing_logger_does_not_keep_measurements_from_another_one(tmp_path: Path) -> None:
    loggers = [RefusingLogger("interactions/phase"), RecordingLogger()]
    with pytest.warns(UserWarning, match="RefusingLogger failed"):
        fit(tmp_path, few(), logger=loggers)
    assert [step for step, _ in measured_tags(loggers[1].calls)] == [0, 2, 5]


@pytest.mark.parametrize("raise_errors", [False, True])
def test_a_failing_figure_is_a_logging_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raise_errors: bool) -> None:
    def broken(*_args: Any) -> None:
        raise OSError("no space for figures")

    logger = TensorBoardLogger(tmp_path)
    monkeypatch.setattr(logger.experiment, "add_figure", broken)
    monitor = few(figures=EveryNEpochs(), raise_errors=raise_errors)
    expect: Any = (
        pytest.raises(OSError, match="no space")
        if raise_errors
        else pytest.warns(UserWarning, match="to TensorBoardLogger failed and is left out")
    )
    with expect:
        fit(tmp_path, monitor, logger=logger)
    # A figure of a single measurement is drawn at the end only.
    assert monitor.history.epochs == ([0, 1] if raise_errors else [0, 1, 2])


def test_probes_come_only_from_the_samplers_where_two_of_them_share_a_dataset(tmp_path: Path) -> None:
    data = tabular_data(60)
    indices = torch.randperm(60, generator=torch.Generator().manual_seed(3)).tolist()
    train_indices, val_indices = indices[:40], indices[40:]
    train, val = (DataLoader(data, batch_size=8, sampler=SubsetRandomSampler(part)) for part in (train_indices, val_indices))
    monitor = few(training=40, held_out=20)
    fit(tmp_path, monitor, train=train, val=val, max_epochs=1)
    rows = fingerprints(Rows.of(data.tensors[0]))
    assert prints(probes_of(monitor, "training")) == {rows[index] for index in train_indices}
    assert prints(probes_of(monitor, "held_out")) == {rows[index] for index in val_indices}


@pytest.mark.parametrize("limit", [3, 0.3])
def test_probes_are_drawn_only_from_the_batches_that_are_trained_on(tmp_path: Path, limit: float) -> None:
    data, monitor = tabular_data(40), few(training=12)
    fit(tmp_path, monitor, train=DataLoader(data, batch_size=4), limit_train_batches=limit, max_epochs=1)
    assert prints(probes_of(monitor, "training")) == prints(data.tensors[0][:12])


def test_held_out_probes_come_from_the_first_of_several_validation_loaders(tmp_path: Path) -> None:
    class SeveralLoaders(TabularClassifier):
        def validation_step(self, batch: Any, _batch_index: int, dataloader_idx: int = 0) -> Tensor:
            return self.loss(batch)

    monitor = few(held_out=12)
    loaders = [tabular_loader(12, seed=1), tabular_loader(12, seed=2)]
    fit(tmp_path, monitor, model=SeveralLoaders(), val=loaders, max_epochs=1)
    assert prints(probes_of(monitor, "held_out")) == set(fingerprints(Rows.of(tabular_data(12, seed=1).tensors[0])))


@pytest.mark.parametrize(
    "options", [{"num_sanity_val_steps": 0}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 0.5}], ids=str
)
def test_held_out_probes_are_there_from_the_start_whenever_validation_runs(tmp_path: Path, options: dict[str, Any]) -> None:
    monitor = few()
    fit(tmp_path, monitor, **options)
    assert [measurement.held_out is None for measurement in monitor.history.measurements] == [False] * 3


class TwoStreams(PlainTabularClassifier):
    """Adds the losses of two loaders' batches."""

    def training_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch["a"]) + self.loss(batch["b"])


def two_loaders() -> dict[str, DataLoader[Any]]:
    return {"a": tabular_loader(24), "b": tabular_loader(24, seed=1)}


def test_of_several_training_loaders_batches_are_measured_as_the_step_gets_them(tmp_path: Path) -> None:
    monitor = few(held_out=0)
    fit(tmp_path, monitor, model=TwoStreams(), train=two_loaders(), val=None)
    assert monitor.history.epochs == [0, 1, 2]
    (group,) = monitor.state_dict()["probes"]["training"]
    batch = group["inputs"]["tree"]
    assert batch.keys() == {"a", "b"}
    for (name, (inputs, targets)), seed in zip(sorted(batch.items()), (0, 1), strict=True):
        rows = prints(tabular_data(24, seed=seed).tensors[0])
        assert len(prints(inputs)) == len(targets) == 6, name
        assert prints(inputs) <= rows, name
    # One of the two losses is explained, by its own inputs.
    (masked,) = monitor.state_dict()["baseline"]
    explained = batch[masked[0]]
    assert masked in ("a.0", "b.0")
    assert set(group["inputs"]["aside"]) == {"a.0", "a.1", "b.0", "b.1"} - {masked}
    assert torch.equal(group["targets"]["tree"], explained[1])


@pytest.mark.slow
def test_a_task_measures_one_of_several_training_loaders(tmp_path: Path) -> None:
    class First(tasks.Classification):
        def unpack(self, batch: Any) -> Any:
            return batch["a"]

    training = StartsTraining()
    with pytest.raises(ValueError, match="got dict of 2"):
        fit(tmp_path, few(task=tasks.Classification()), training, model=TwoStreams(), train=two_loaders(), val=None)
    assert not training.started
    handed_in = few(
        task=tasks.Classification(),
        training=tabular_data(5).tensors,
        held_out=tabular_data(5, seed=1).tensors,
        name="handed in",
    )
    drawn = few(task=First(), held_out=tabular_data(5, seed=1).tensors, name="drawn")
    fit(tmp_path, handed_in, drawn, model=TwoStreams(), train=two_loaders(), val=None)
    assert handed_in.history.epochs == drawn.history.epochs == [0, 1, 2]
    assert len(prints(probes_of(drawn, "training")) & prints(tabular_data(24).tensors[0])) == 6


def test_probes_pass_the_modules_own_transfer_hooks(tmp_path: Path) -> None:
    class Scaling(PlainTabularClassifier):
        def on_after_batch_transfer(self, batch: Any, _loader_index: int) -> Any:
            inputs, targets = batch
            return inputs / 10, targets

    monitor = few(training=24, held_out=tabular_data(5, seed=1).tensors)
    fit(tmp_path, monitor, model=Scaling(), val=None)
    expected = prints(tabular_data(24).tensors[0] / 10)
    assert prints(probes_of(monitor, "training")) == expected


def test_probes_pass_transfer_hooks_in_evaluation_and_leave_no_trace_in_them(tmp_path: Path) -> None:
    class Augmenting(PlainTabularClassifier):
        """Normalises in a hook, and adds noise to what is trained on."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def on_after_batch_transfer(self, batch: Any, _loader_index: int) -> Any:
            inputs, targets = batch
            return self.norm(inputs) + self.training * torch.randn_like(inputs), targets

    monitor, states = few(training=24, held_out=tabular_data(5, seed=1).tensors), []
    for callbacks in ([], [monitor]):
        torch.manual_seed(0)
        model = Augmenting()
        fit(tmp_path, *callbacks, model=model, val=None, max_epochs=1)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    # Not yet trained, the norm changes inputs by its epsilon only.
    torch.testing.assert_close(
        probes_of(monitor, "training").sort(dim=0).values, tabular_data(24).tensors[0].sort(dim=0).values, rtol=1e-4, atol=1e-4
    )
    assert not probes_of(monitor, "training").requires_grad


def test_a_monitor_can_be_pickled_before_and_after_a_run(tmp_path: Path) -> None:
    monitor = few()
    assert pickle.loads(pickle.dumps(monitor)).history.epochs == []
    fit(tmp_path, monitor, max_epochs=1)
    assert pickle.loads(pickle.dumps(monitor)).history.epochs == [0, 1]


def test_the_progress_bar_shows_phase_and_share_and_nothing_else(tmp_path: Path) -> None:
    monitor = few()
    trainer = fit(tmp_path, monitor)
    ours = {tag: value for tag, value in trainer.progress_bar_metrics.items() if "interactions" in tag}
    share = summarise(monitor.history.measurements[-1]).training.share.value
    assert ours == {"interactions/phase": 1.0, "interactions/share": pytest.approx(share)}


def test_the_console_table_has_one_header_and_one_row_a_measurement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, few(verbose=True))
    table = "\n".join(record.getMessage() for record in caplog.records if "lightning" in record.name)
    assert table.count("epoch  step") == 1
    rows = [line.split() for line in table.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows if len(row) == 13] == ["0", "1", "2"]


def events(logger: TensorBoardLogger) -> EventAccumulator:
    logger.experiment.flush()
    accumulator = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.slow
def test_tensorboard_gets_the_scalars_and_the_figures(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, few(figures=EveryNEpochs()), logger=logger)
    written = events(logger)
    names = ("strength_by_order", "decay_and_spindle", "order_and_time")
    tags = {"interactions/phases", *(f"interactions-figures/{name}" for name in names)}
    at_the_end = {"interactions-figures/theory", *(f"interactions-figures/on_input_{place}" for place in (1, 2, 3, 4))}
    assert set(written.Tags()["images"]) - at_the_end == tags
    assert [image.step for image in written.Images("interactions-figures/on_input_1")] == [5]
    for tag in tags:
        assert [image.step for image in written.Images(tag)] == [2, 5]
        assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in written.Images(tag))
    assert expected_tags("interactions", num_players=4) <= set(written.Tags()["scalars"])
    assert [event.step for event in written.Scalars("interactions/share")] == [0, 2, 5]


def test_a_csv_file_has_measurements_and_what_the_module_logs_at_the_same_step(tmp_path: Path) -> None:
    class Reading(Callback):
        """Reads what is in the file during training, after the first epoch."""

        rows: int

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                self.rows = len(rows())

    def rows() -> list[dict[str, str]]:
        with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    logger, monitor, reading = CSVLogger(tmp_path), few(), Reading()
    fit(tmp_path, monitor, reading, model=LogsEpochs(), logger=logger)
    assert reading.rows == 3
    ours = [row for row in rows() if row["interactions/share"]]
    assert [(row["step"], row["epoch"]) for row in ours] == [("0", "0"), ("2", "0"), ("5", "1")]
    assert [(row["step"], row["epoch"]) for row in rows() if row["epoch_loss"]] == [("2", "0"), ("5", "1")]
    for row, measurement in zip(ours, monitor.history.measurements, strict=True):
        assert float(row["interactions/share"]) == summarise(measurement).training.share.value
        assert all(row[tag] for tag in expected_tags("interactions", num_players=4))


def test_tensorboard_has_measurements_and_what_the_module_logs_at_the_same_step(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, few(), model=LogsEpochs(), logger=logger)
    written = events(logger)
    for tag in expected_tags("interactions", num_players=4):
        assert [event.step for event in written.Scalars(tag)] == [0, 2, 5]
    assert [event.step for event in written.Scalars("epoch_loss")] == [2, 5]


@pytest.mark.slow
def test_figures_stand_at_the_step_of_the_scalars_also_with_two_optimizers(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    monitor = few(figures=EveryNEpochs(), held_out=tabular_data(5, seed=1).tensors)
    fit(tmp_path, monitor, model=TwoOptimizers(), val=None, logger=logger)
    written = events(logger)
    steps = [event.step for event in written.Scalars("interactions/share")]
    assert [image.step for image in written.Images("interactions/phases")] == steps[1:]


@pytest.mark.parametrize("monitor_first", [pytest.param(True, marks=pytest.mark.slow), False])
def test_stock_early_stopping_follows_the_share(tmp_path: Path, monitor_first: bool) -> None:
    monitor = few()
    # No share is ever above 2, so every epoch after the first is one without improvement.
    stopping = EarlyStopping("interactions/share", mode="max", min_delta=2.0, patience=2)
    callbacks = [monitor, stopping] if monitor_first else [stopping, monitor]
    trainer = fit(tmp_path, *callbacks, max_epochs=6)
    assert trainer.current_epoch == 3
    assert stopping.stopped_epoch == 2
    assert stopping.best_score == pytest.approx(summarise(monitor.history.measurements[1]).training.share.value)


def test_stock_model_checkpoint_keeps_the_best_share(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor="interactions/share", mode="max", filename="{epoch}")
    monitor = few()
    fit(tmp_path, checkpoint, monitor, max_epochs=4, enable_checkpointing=True)
    shares = [summarise(measurement).training.share.value for measurement in monitor.history.measurements[1:]]
    assert checkpoint.best_model_score == pytest.approx(max(shares))
    assert Path(checkpoint.best_model_path).name == f"epoch={shares.index(max(shares))}.ckpt"


def test_the_monitor_tells_every_callback_that_listens(tmp_path: Path) -> None:
    class Listener(Callback):
        def __init__(self) -> None:
            self.heard: list[int] = []

        def on_interactions_measured(self, trainer: Trainer, pl_module: LightningModule, monitor: InteractionMonitor) -> None:
            self.heard.append(monitor.history.epochs[-1])

    listeners = [Listener(), Listener()]
    fit(tmp_path, listeners[0], few(), listeners[1])
    assert [listener.heard for listener in listeners] == [[0, 1, 2], [0, 1, 2]]


def test_the_interactions_behind_the_last_numbers_are_kept_until_phase_3(tmp_path: Path) -> None:
    class Listener(Callback):
        def __init__(self) -> None:
            self.totals: list[Tensor] = []

        def on_interactions_measured(self, trainer: Trainer, pl_module: LightningModule, monitor: InteractionMonitor) -> None:
            assert monitor.final_interactions is not None
            self.totals.append(monitor.final_interactions.effects.abs().sum(dim=(1, 2)).double())

    listener, monitor = Listener(), few()
    fit(tmp_path, monitor, listener)
    for total, measurement in zip(listener.totals, monitor.history.measurements, strict=True):
        split = measurement.training
        parts = split.generalizable + split.non_generalizable + split.non_salient
        torch.testing.assert_close(total, parts, rtol=1e-5, atol=1e-6)


def test_the_interactions_of_the_first_measurement_in_phase_3_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3, 3])
    first, later = few(), few()
    torch.manual_seed(0)
    fit(tmp_path, first, max_epochs=1)
    script_phases(monkeypatch, [1, 3, 3])
    torch.manual_seed(0)
    fit(tmp_path, later, max_epochs=2)
    assert [phase.number for phase in later.history.phases] == [1, 3, 3]
    assert first.final_interactions is not None
    assert later.final_interactions is not None
    assert torch.equal(first.final_interactions.effects, later.final_interactions.effects)


def test_a_monitor_used_for_another_run_begins_anew_with_a_warning(tmp_path: Path) -> None:
    monitor = few()
    fit(tmp_path, monitor)
    with pytest.warns(UserWarning, match="another run"):
        fit(tmp_path, monitor, train=tabular_loader(24, seed=9), max_epochs=1)
    assert monitor.history.epochs == [0, 1]
    assert prints(probes_of(monitor, "training")) <= set(fingerprints(Rows.of(tabular_data(24, seed=9).tensors[0])))


def test_training_further_with_the_same_trainer_goes_on_with_the_history(tmp_path: Path) -> None:
    monitor, model, train, val = few(), TabularClassifier(), tabular_loader(24), tabular_loader(12, seed=1)
    trainer = quiet_trainer(tmp_path, callbacks=[monitor])
    trainer.fit(model, train, val)
    probes = probes_of(monitor, "training")
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, train, val)
    assert monitor.history.epochs == [0, 1, 2, 3]
    assert torch.equal(probes_of(monitor, "training"), probes)


@pytest.mark.slow
def test_a_phase_detected_later_is_logged_and_is_the_monitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 2, 3])
    logger, monitor = RecordingLogger(), few()
    fit(tmp_path, monitor, PhaseEarlyStopping(log_only=True, verbose=False), logger=logger, max_epochs=4)
    assert [metrics["interactions/phase"] for _, metrics in logger.calls] == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert monitor.phase is not None
    assert (monitor.phase.number, monitor.phase.onset.epoch) == (3, 3)
    assert monitor.history.onset_epoch(2) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"training": 0},
        {"held_out": -1},
        {"tolerance": 0.0},
        {"batch_size": 0},
        {"threshold": 1.0},
        {"threshold": -0.1},
        {"max_players": 0},
        {"noise_tolerance": math.nan},
        {"alpha": 0.0},
    ],
    ids=str,
)
def test_impossible_arguments_are_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        few(**arguments)


@pytest.mark.parametrize("name", ["players", "task", "evidence", "baseline"])
def test_a_plug_in_of_the_wrong_kind_is_refused_by_name(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        few(**{name: "something else"})


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_the_size_of_the_forward_batches_does_not_matter(tmp_path: Path, batch_size: int) -> None:
    forwards: list[int] = []

    class Counted(tasks.Classification):
        def forward(self, model: nn.Module, inputs: Tensor) -> Any:
            forwards.append(len(inputs))
            return model(inputs)

    class Measures(Callback):
        """Leaves out the forwards of the preparation, which compare whole batches."""

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            forwards.clear()

    monitors = [few(batch_size=64, name="64"), few(batch_size=batch_size, name="other", task=Counted())]
    fit(tmp_path, *monitors, Measures(), max_epochs=1)
    assert sum(forwards) >= 10 * 2**4
    assert max(forwards) <= batch_size
    # The network computes in float32: kernels for other batch sizes round differently.
    torch.testing.assert_close(
        monitors[0].history.measurements[-1].training.full_score,
        monitors[1].history.measurements[-1].training.full_score,
        rtol=1e-4,
        atol=1e-5,
    )
