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

from lightning_interactions import FeatureGroups, InteractionMonitor, fit_reference_models, scores
from lightning_interactions.functional import explained_growth
from lightning_interactions.reporting import phase_figure
from tests.callbacks.runs import TINY_SET_UP, RecordingLogger, SinglePlayers, quiet_trainer
from tests.helpers.models import TabularClassifier, tabular_data, tabular_loader

pytestmark = TINY_SET_UP

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


def few(**options: Any) -> InteractionMonitor:
    settings: dict[str, Any] = {
        "evidence": SinglePlayers(),
        "num_training_probes": 6,
        "num_held_out_probes": 4,
        "figures": False,
    }
    return InteractionMonitor(**{**settings, **options})


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
            model, DataLoader(parts["reference"], 16), num_models=2, max_epochs=4, score=scores.prediction
        )
        monitor = InteractionMonitor(
            FeatureGroups(GROUPS), references, score=scores.prediction, num_training_probes=8, num_held_out_probes=6
        )
        trainer = quiet_trainer(tmp_path_factory.mktemp("regression"), callbacks=[monitor], logger=logger, max_epochs=4)
        trainer.fit(model, DataLoader(parts["training"], 16), DataLoader(parts["validation"], 64))
    return monitor, model.eval(), logger


def test_a_regression_is_measured_with_its_squared_error(
    regression: tuple[InteractionMonitor, Regressor, RecordingLogger],
) -> None:
    monitor, model, logger = regression
    history = monitor.history
    assert history.epochs == [0, 1, 2, 3, 4]
    state = monitor.state_dict()["probes"]
    last = history.measurements[-1]
    assert last.held_out is not None
    assert last.held_out_summary is not None
    for split, numbers in (("training", last.training), ("held-out", last.held_out)):
        inputs, targets = state[split]["inputs"], state[split]["targets"]
        with torch.no_grad():
            predictions = model(inputs)[:, 0]
        torch.testing.assert_close(numbers.full_score, predictions.double(), rtol=1e-4, atol=1e-4)
        expected = nn.functional.mse_loss(predictions, targets, reduction="none").double()
        torch.testing.assert_close(numbers.loss, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(numbers.explained_loss, (numbers.explained_score - targets).square())
    # Training has lowered it, from about the variance of the targets.
    first = history.measurements[0].training_summary.loss
    assert last.training_summary.loss < 0.8 * first
    assert last.loss_gap == pytest.approx(last.held_out_summary.loss - last.training_summary.loss)
    assert last.loss_unit == "target units²"
    logged = logger.calls[-1][1]
    assert logged["interactions/loss"] == pytest.approx(last.training_summary.loss, rel=1e-5)
    assert logged["interactions/excess_gap_low"] < logged["interactions/excess_gap"] < logged["interactions/excess_gap_high"]


def test_the_chance_level_of_a_regression_is_not_its_share(
    regression: tuple[InteractionMonitor, Regressor, RecordingLogger],
) -> None:
    # Another input's target does not change what the references predict, so it says nothing of chance.
    summaries = [measurement.training_summary for measurement in regression[0].history.measurements[2:]]
    assert all(0 < summary.share_chance < summary.share for summary in summaries)


def test_figures_and_growth_of_a_regression_are_in_its_units(
    regression: tuple[InteractionMonitor, Regressor, RecordingLogger],
) -> None:
    history = regression[0].history
    losses, _, gaps = phase_figure(history).axes
    assert losses.get_ylabel() == "Loss (target units²)"
    assert gaps.get_ylabel() == "Excess gap (target units²)"
    growth = explained_growth(history.measurements, begin=0)
    assert growth.loss_gap == pytest.approx(history.measurements[-1].loss_gap - history.measurements[0].loss_gap)


def test_several_outputs_are_refused_before_training(tmp_path: Path) -> None:
    loader = DataLoader(diabetes()["training"], 32)
    with pytest.raises(ValueError, match=r"got shape \(6, 3\); explain one of them with score=lambda"):
        quiet_trainer(tmp_path, callbacks=[few(score=scores.prediction)]).fit(Regressor(3), loader, loader)


def test_the_trained_loss_with_class_weights_and_smoothing_is_measured(tmp_path: Path) -> None:
    weights = torch.tensor([0.5, 1.0, 3.0])
    inputs, targets = tabular_data(12, seed=5).tensors
    model = TabularClassifier()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(inputs).double(), targets, weight=weights.double()).item()
    weighted = few(loss=scores.CrossEntropy(weights), training_probes=(inputs, targets), name="weighted")
    smoothed = few(
        loss=scores.CrossEntropy(label_smoothing=0.1, num_classes=3), training_probes=(inputs, targets), name="smooth"
    )
    plain = few(training_probes=(inputs, targets), name="plain")
    fit(tmp_path, weighted, smoothed, plain, model=model.train(), max_epochs=1)
    assert weighted.history.measurements[0].training_summary.loss == pytest.approx(expected, rel=1e-4)
    plain_split, smooth_split = (monitor.history.measurements[0].training for monitor in (plain, smoothed))
    torch.testing.assert_close(plain_split.full_score, smooth_split.full_score)
    assert (smooth_split.loss != plain_split.loss).all()
    # Only the loss is another.
    assert smoothed.history.measurements[0].training_summary.share == plain.history.measurements[0].training_summary.share


def first_logit(outputs: Tensor, _targets: Tensor) -> Tensor:
    return outputs[:, 0]


def test_a_score_without_a_loss_has_nan_losses_and_one_warning(tmp_path: Path) -> None:
    logger, monitor = RecordingLogger(), few(score=first_logit)
    with pytest.warns(UserWarning, match=r"no loss is known for this score.*loss=lambda score, targets") as caught:
        fit(tmp_path, monitor, logger=logger, max_epochs=3)
    assert sum("no loss is known" in str(warning.message) for warning in caught) == 1
    assert len(monitor.history) == 4
    for measurement in monitor.history.measurements:
        assert measurement.training.loss.isnan().all()
        assert all(map(math.isnan, (measurement.training_summary.loss, measurement.loss_gap, measurement.excess_gap)))
        assert math.isfinite(measurement.training_summary.share)
        assert measurement.loss_unit == ""
    assert math.isnan(logger.calls[-1][1]["interactions/loss"])
    assert phase_figure(monitor.history).axes[0].get_ylabel() == "Loss"


def test_a_score_of_ones_own_is_measured_with_a_loss_of_ones_own(tmp_path: Path) -> None:
    inputs, targets = tabular_data(5).tensors
    monitor = few(
        score=first_logit, loss=lambda score, labels: (score - labels).abs(), training_probes=(inputs, targets), figures=True
    )
    fit(tmp_path, monitor)
    split = monitor.history.measurements[-1].training
    torch.testing.assert_close(split.loss, (split.full_score - targets).abs())
    assert math.isfinite(monitor.history.measurements[-1].excess_gap)


def test_a_loss_that_takes_a_mean_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loss: expected one number for each of 6 inputs.*got shape \(\)"):
        fit(tmp_path, few(loss=lambda score, targets: (score - targets).square().mean()))


def test_measurements_resume_with_their_loss(tmp_path: Path) -> None:
    first, resumed = (few(loss=scores.SquaredError()) for _ in range(2))
    fit(tmp_path, first, max_epochs=1).save_checkpoint(tmp_path / "saved.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"][first.state_key])
    assert str(resumed.history) == str(first.history)
    before, after = (monitor.history.measurements[-1] for monitor in (first, resumed))
    assert after.loss_unit == before.loss_unit == "target units²"
    assert after.training_intervals.share == before.training_intervals.share
    assert torch.equal(after.training.explained_loss, before.training.explained_loss)
