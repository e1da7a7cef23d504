"""What a monitored run says to whoever watches it, and the report that it writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import InteractionMonitor
from lightning_interactions.analysis import NearChance
from lightning_interactions.players import FeatureGroups, Tokens
from lightning_interactions.records import Estimate, Phase
from lightning_interactions.reporting import RunRecord, explain_phase
from lightning_interactions.schedules import EveryNEpochs
from tests.callbacks.runs import TINY_SET_UP, few, quiet_trainer, script_phases
from tests.helpers.models import TabularClassifier, tabular_loader

pytestmark = TINY_SET_UP


def fit(root: Path, monitor: InteractionMonitor, epochs: int = 1) -> Trainer:
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=[monitor])
    trainer.fit(TabularClassifier(), tabular_loader(24), tabular_loader(12, seed=1))
    return trainer


def test_phase_3_is_said_once_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script_phases(monkeypatch, [1, 2, 3, 3])
    monitor = few(schedule=EveryNEpochs())
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, monitor, 3)
    notes = [text for record in caplog.records if "Phase 3: " in (text := record.getMessage())]
    detected: Phase = monitor.history.phases[2]
    assert notes == [f"InteractionMonitor: {explain_phase(detected)}"]


@pytest.mark.parametrize(("numbers", "place"), [([1, 2, 3, 3], 1), ([1, 1, 1, 1], 3)])
def test_a_share_that_was_never_above_chance_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, numbers: list[int], place: int
) -> None:
    script_phases(monkeypatch, numbers)
    for module in ("callbacks.notices", "reporting.markdown", "reporting.html", "reporting.words"):
        monkeypatch.setattr(f"lightning_interactions.{module}.share_near_chance", near_chance)
    monkeypatch.setattr("lightning_interactions.reporting.html.FIGURES", ())
    monitor = few(schedule=EveryNEpochs())
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, monitor, 3)
    said = [record.getMessage() for record in caplog.records]
    note = near_chance(monitor.history.measurements).note
    assert [text for text in said if note in text] == [f"InteractionMonitor: after epoch {place}, {note}"]
    assert not [text for text in said if "PhaseEarlyStopping" in text]
    monitor.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index(note) < page.index(f"Phase {numbers[-1]}:")
    assert page.count(note) == 1


def near_chance(_measurements: Any) -> NearChance:
    return NearChance(Estimate(0.1, 0.0, 0.2), Estimate(0.2, 0.1, 0.3), None)


@pytest.mark.parametrize("features", [None, ("age", "height", "weight", "shoe")])
def test_how_players_get_names_is_said_once(
    features: tuple[str, ...] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, few(players=FeatureGroups(features=features)))
    hints = [text for record in caplog.records if "features=[...]" in (text := record.getMessage())]
    assert len(hints) == (features is None)


def test_texts_are_told_apart_in_records_by_their_words(tmp_path: Path) -> None:
    vocabulary = ["<pad>", *(f"word of {number}" for number in range(1, 20))]
    monitor = few(players=Tokens(3, vocabulary=vocabulary))
    ids = torch.randint(1, 20, (24, 5), generator=torch.Generator().manual_seed(0))
    loaders = [DataLoader(TensorDataset(own, own[:, 0] % 3), batch_size=6) for own in (ids, ids.flip(1))]
    model = TabularClassifier()
    model.network = nn.Sequential(nn.EmbeddingBag(20, 4, padding_idx=0), nn.Linear(4, 3))
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[monitor])
    trainer.fit(model, *loaders)
    run = RunRecord.from_state(monitor.state_dict(), "run")
    inputs = run.probes["training"].groups[0].inputs
    assert monitor.meter.players is not None
    assert run.player_names == tuple(monitor.meter.players.labels(inputs))
    assert len(set(run.player_names)) == len(run.player_names)


def test_a_monitor_writes_the_report_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_interactions.reporting.html.FIGURES", ())
    monitor = few(name="<b>")
    with pytest.raises(ValueError, match="at least one measurement"):
        monitor.report(tmp_path / "report.html")
    fit(tmp_path, monitor)
    monitor.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "feature 0" in page


def test_a_live_report_shows_probes_that_are_saved_by_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_interactions.reporting.html.FIGURES", ())
    monkeypatch.setattr("lightning_interactions.callbacks.probes.SAVED_WHOLE", 0)
    monitor = few()
    fit(tmp_path, monitor)
    assert monitor.state_dict()["probes"]["training"] is None
    monitor.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(", label ") == 6
    assert f"{monitor.meter.forwards:,} a measurement" in page


def test_what_is_saved_of_a_run_is_what_a_record_needs(tmp_path: Path) -> None:
    monitor = few()
    fit(tmp_path, monitor)
    run = RunRecord.from_state(monitor.state_dict(), "run")
    assert run.weights is not None
    assert monitor.final_weights is not None
    torch.testing.assert_close(run.weights, monitor.final_weights.double(), atol=1e-3, rtol=1e-3)
    assert run.player_names == (("feature 0", "feature 1", "feature 2", "feature 3"),) * 6
    assert len(run.indices) == 6
    assert None not in run.indices
    assert run.forwards == monitor.meter.forwards > 0


def test_a_measurement_tells_how_far_it_is(tmp_path: Path) -> None:
    monitor = few()
    fit(tmp_path, monitor)
    assert monitor.meter.tick is None
    told: list[int] = []
    monitor.meter.tick = told.append
    monitor.meter.measure(TabularClassifier())
    assert told == [6, 4]
