"""What the monitor keeps for the theory, and the noise tolerance of a whole run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interactions import InteractionMonitor
from lightning_interactions.analysis import explain_second_phase
from lightning_interactions.schedules import EveryNEpochs
from tests.callbacks.runs import TINY_SET_UP, few, quiet_trainer, script_phases
from tests.helpers.models import TabularClassifier, tabular_loader

pytestmark = TINY_SET_UP


def fit(root: Path, monitor: InteractionMonitor, model: LightningModule | None = None, **options: Any) -> None:
    trainer = quiet_trainer(root, callbacks=[monitor, *options.pop("callbacks", [])], **options)
    trainer.fit(TabularClassifier() if model is None else model, tabular_loader(24, batch_size=8), tabular_loader(12, seed=1))


def test_the_second_phase_is_that_of_history_and_final_interactions(tmp_path: Path) -> None:
    monitor = few()
    fit(tmp_path, monitor, max_epochs=4)
    assert monitor.final_interactions is not None
    found, explained = monitor.second_phase()
    expected, expected_part = explain_second_phase(monitor.history, monitor.final_interactions)
    assert explained.steps == expected_part.steps
    assert torch.equal(found.variance, expected.variance)


def test_without_a_measurement_there_is_no_second_phase() -> None:
    with pytest.raises(ValueError, match="expected at least one measurement, got none; train with this monitor first"):
        few().second_phase()


@pytest.mark.parametrize("numbers", [[1, 1, 1, 1, 1], [1, 1, 3, 3, 3]])
def test_final_interactions_come_back_with_a_saved_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int]
) -> None:
    script_phases(monkeypatch, numbers)
    model, first, later = TabularClassifier(), few(), few()
    fit(tmp_path, first, model, max_epochs=2)
    assert first.final_interactions is not None
    torch.save(first.state_dict(), tmp_path / "state.pt")
    later.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert later.final_interactions is not None
    for name, part in vars(first.final_interactions).items():
        assert torch.equal(getattr(later.final_interactions, name), part)


@pytest.mark.slow
def test_the_theory_is_drawn_when_the_training_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_interactions.analysis.second_phase.second_phase_measurements", lambda *_args: range(1, 3))
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, few(figures=EveryNEpochs()), logger=logger, max_epochs=3)
    accumulator = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    accumulator.Reload()
    assert [image.step for image in accumulator.Images("interactions-figures/theory")] == [8]


# Noise tolerance


@pytest.mark.slow
def test_a_noise_tolerance_lowers_strengths_and_keeps_the_scores(tmp_path: Path) -> None:
    exact, tolerant = few(name="exact"), few(name="tolerant", noise_tolerance=0.1)
    fit(tmp_path, exact, callbacks=[tolerant], max_epochs=2)
    for measurement, other in zip(exact.history.measurements, tolerant.history.measurements, strict=True):
        torch.testing.assert_close(other.training.full_score, measurement.training.full_score, rtol=0, atol=1e-3)
        torch.testing.assert_close(other.training.empty_score, measurement.training.empty_score)
        strengths = [
            (part.generalizable + part.non_generalizable + part.non_salient).sum()
            for part in (other.training, measurement.training)
        ]
        assert strengths[0] < 0.99 * strengths[1]


# The choice of evidence


def test_a_run_says_what_is_explained_and_what_it_will_cost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, few(), max_epochs=2)
    notes = [text for record in caplog.records if "InteractionMonitor: " in (text := record.getMessage())]
    (explained,) = (note for note in notes if "explains Classification(" in note)
    assert "the step's own loss" in explained
    assert "Zeros()" in explained
    assert "plans 3 measurements of 160 forwards" in explained
    assert "6 training and 4 held-out inputs of 4 players" in explained
    assert "\n" not in explained
    (timed,) = (note for note in notes if "a measurement takes" in note)
    assert " s, all 3 about " in timed
    assert "overhead" not in "".join(notes)
