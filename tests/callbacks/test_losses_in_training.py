import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import FeatureGroups, InteractionMonitor, fit_reference_models, tasks
from lightning_interactions.analysis import explained_growth, summarise
from lightning_interactions.references import ReferenceTraining
from lightning_interactions.reporting import phase_figure
from tests.callbacks.runs import TINY_SET_UP, RecordingLogger, few, quiet_trainer
from tests.helpers.models import TabularClassifier, tabular_data, tabular_loader

pytestmark = TINY_SET_UP

DISAGREES = r"FirstLogitAbsolute\(\) gives a loss of .* where validation_step gives"

GROUPS = [[0, 1], [2, 3], [4, 5, 6, 7], [8, 9]]


class Regressor(LightningModule):
    """Mean squared error around one hidden layer; predictions ``[inputs, 1]``."""

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, num_outputs))
        self.save_hyperparameters()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        return outputs

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        nn.functional.mse_loss(self(batch[0])[:, 0], batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def diabetes() -> dict[str, TensorDataset]:
    """Progression of diabetes, in standard deviations, of 442 patients in three parts."""
    data = load_diabetes()
    order = torch.randperm(442, generator=torch.Generator().manual_seed(0))
    inputs = 20 * torch.tensor(data.data, dtype=torch.float32)[order]
    targets = torch.tensor(data.target, dtype=torch.float32)[order]
    targets = (targets - targets.mean()) / targets.std()
    sizes = [150, 150, 142]
    parts = zip(("training", "validation", "reference"), inputs.split(sizes), targets.split(sizes), strict=True)
    return {name: TensorDataset(*tensors) for name, *tensors in parts}


def fit(root: Path, *callbacks: Callback, model: LightningModule | None = None, **options: Any) -> Trainer:
    trainer = quiet_trainer(root, callbacks=list(callbacks), **options)
    trainer.fit(TabularClassifier() if model is None else model, tabular_loader(24), tabular_loader(12, seed=1))
    return trainer


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> tuple[InteractionMonitor, Regressor, RecordingLogger]:
    """Four epochs on diabetes with two reference models."""
    parts = diabetes()
    # The marks of the tests do not reach a fixture.
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model, logger = Regressor(), RecordingLogger()
        references = fit_reference_models(
            model,
            DataLoader(parts["reference"], 16),
            num_models=2,
            task=tasks.Regression(),
            training=ReferenceTraining(max_epochs=4),
        )
        monitor = few(players=FeatureGroups(GROUPS), evidence=references, task=tasks.Regression(), training=24)
        trainer = quiet_trainer(tmp_path_factory.mktemp("regression"), callbacks=[monitor], logger=logger, max_epochs=4)
        trainer.fit(model, DataLoader(parts["training"], 16), DataLoader(parts["validation"], 64))
    return monitor, model.eval(), logger


@pytest.mark.slow
def test_a_regression_is_measured_with_its_squared_error(
    regression: tuple[InteractionMonitor, Regressor, RecordingLogger],
) -> None:
    monitor, model, logger = regression
    history = monitor.history
    assert history.epochs == [0, 1, 2, 3, 4]
    state = monitor.state_dict()["probes"]
    last = history.measurements[-1]
    assert last.held_out is not None
    summary = summarise(last)
    assert summary.held_out is not None
    for split, numbers in (("training", last.training), ("held_out", last.held_out)):
        inputs, targets = (state[split][0][part]["tree"] for part in ("inputs", "targets"))
        with torch.no_grad():
            predictions = model(inputs)[:, 0]
        torch.testing.assert_close(numbers.full_score, predictions.double(), rtol=1e-4, atol=1e-4)
        expected = nn.functional.mse_loss(predictions, targets, reduction="none").double()
        torch.testing.assert_close(numbers.loss, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(numbers.explained_loss, (numbers.explained_score - targets).square())
    # Training has lowered it, from about the variance of the targets.
    first = summarise(history.measurements[0]).training.loss.value
    assert summarise(last).training.loss.value < 0.8 * first
    assert summarise(last).loss_gap.value == pytest.approx(summary.held_out.loss.value - summarise(last).training.loss.value)
    assert history.settings["loss_unit"] == "target units²"
    logged = logger.calls[-1][1]
    further = "interactions-diagnostics/excess_gap"
    assert logged["interactions/loss"] == pytest.approx(summarise(last).training.loss.value, rel=1e-5)
    assert logged[f"{further}_low"] < logged["interactions/excess_gap"] < logged[f"{further}_high"]


@pytest.mark.slow
def test_the_chance_level_of_a_regression_is_not_its_share(
    regression: tuple[InteractionMonitor, Regressor, RecordingLogger],
) -> None:
    # Another input's target does not change what the references predict, so it says nothing of chance.
    summaries = [summarise(measurement).training for measurement in regression[0].history.measurements[2:]]
    assert all(0 < summary.share_chance.value < summary.share.value for summary in summaries)


@pytest.mark.slow
def test_figures_and_growth_of_a_regression_are_in_its_units(
    regression: tuple[InteractionMonitor, Regressor, RecordingLogger],
) -> None:
    history = regression[0].history
    losses, _, gaps = phase_figure(history).axes
    assert losses.get_ylabel() == "Loss (target units²)"
    assert gaps.get_ylabel() == "Excess gap (target units²)"
    growth = explained_growth(history.measurements, begin=0)
    first, last = (summarise(history.measurements[place]).loss_gap.value for place in (0, -1))
    assert growth.loss_gap.value == pytest.approx(last - first)


def test_several_outputs_are_refused_before_training(tmp_path: Path) -> None:
    loaders = [DataLoader(diabetes()[part], 32) for part in ("training", "validation")]
    # Six probes are loaded as batches of four and two.
    with pytest.raises(ValueError, match=r"got shape \(4, 3\)"):
        quiet_trainer(tmp_path, callbacks=[few(task=tasks.Regression())]).fit(Regressor(3), *loaders)


def test_the_trained_loss_with_class_weights_and_smoothing_is_measured(tmp_path: Path) -> None:
    weights = torch.tensor([0.5, 1.0, 3.0])
    inputs, targets = tabular_data(12, seed=5).tensors
    model = TabularClassifier()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(inputs).double(), targets, weight=weights.double()).item()
    weighted = few(task=tasks.Classification(weights), training=(inputs, targets), name="weighted")
    smoothed = few(task=tasks.Classification(label_smoothing=0.1, num_classes=3), training=(inputs, targets), name="smooth")
    plain = few(training=(inputs, targets), name="plain")
    # The module trains with neither weights nor smoothing.
    with pytest.warns(UserWarning, match="gives a loss of .* where validation_step gives") as caught:
        fit(tmp_path, weighted, smoothed, plain, model=model.train(), max_epochs=1)
    said = [text for warning in caught if "gives a loss of" in (text := str(warning.message))]
    assert ["label_smoothing=0.1" in text for text in said] == [False, True]
    assert summarise(weighted.history.measurements[0]).training.loss.value == pytest.approx(expected, rel=1e-4)
    plain_split, smooth_split = (monitor.history.measurements[0].training for monitor in (plain, smoothed))
    torch.testing.assert_close(plain_split.full_score, smooth_split.full_score)
    assert (smooth_split.loss != plain_split.loss).all()
    # Only the loss is another.
    shares = [summarise(monitor.history.measurements[0]).training.share.value for monitor in (smoothed, plain)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-6)


class FirstLogit(tasks.Task):
    """A score without a loss."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, 0]


class FirstLogitAbsolute(FirstLogit):
    """With a loss of its own."""

    def loss(self, score: Tensor, targets: Tensor) -> Tensor:
        return (score - targets).abs()


class FirstLogitMean(FirstLogit):
    """With a loss that takes a mean."""

    def loss(self, score: Tensor, targets: Tensor) -> Tensor:
        return (score - targets).square().mean()


def test_a_score_without_a_loss_has_nan_losses_and_one_warning(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few(task=FirstLogit())
    with pytest.warns(UserWarning, match=r"FirstLogit.* knows no loss") as caught:
        fit(tmp_path, monitor, logger=logger, max_epochs=3)
    assert sum("knows no loss" in str(warning.message) for warning in caught) == 1
    assert len(monitor.history) == 4
    for measurement in monitor.history.measurements:
        assert measurement.training.loss.isnan().all()
        assert all(
            map(
                math.isnan,
                (
                    summarise(measurement).training.loss.value,
                    summarise(measurement).loss_gap.value,
                    summarise(measurement).excess_gap.value,
                ),
            )
        )
        assert math.isfinite(summarise(measurement).training.share.value)
    assert math.isnan(logger.calls[-1][1]["interactions/loss"])
    assert phase_figure(monitor.history).axes[0].get_ylabel() == "Loss"


def test_a_score_of_ones_own_is_measured_with_a_loss_of_ones_own(tmp_path: Path) -> None:
    inputs, targets = tabular_data(5).tensors
    monitor = few(task=FirstLogitAbsolute(), training=(inputs, targets))
    with pytest.warns(UserWarning, match=DISAGREES):
        fit(tmp_path, monitor)
    split = monitor.history.measurements[-1].training
    torch.testing.assert_close(split.loss, (split.full_score - targets).abs())
    assert math.isfinite(summarise(monitor.history.measurements[-1]).excess_gap.value)


def test_a_loss_that_takes_a_mean_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loss: expected one number for each of 4 inputs.*got shape \(\)"):
        fit(tmp_path, few(task=FirstLogitMean()))


def test_measurements_resume_with_their_loss(tmp_path: Path) -> None:
    first, resumed = (few(task=FirstLogitAbsolute()) for _ in range(2))
    with pytest.warns(UserWarning, match=DISAGREES):
        fit(tmp_path, first, max_epochs=1).save_checkpoint(tmp_path / "saved.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"][first.state_key])
    assert str(resumed.history) == str(first.history)
    before, after = (monitor.history.measurements[-1] for monitor in (first, resumed))
    assert summarise(after).training.share == summarise(before).training.share
    assert resumed.history.settings == first.history.settings
    assert torch.equal(after.training.explained_loss, before.training.explained_loss)
