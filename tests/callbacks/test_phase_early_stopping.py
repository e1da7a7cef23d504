from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping
from lightning_interactions.callbacks import PhaseStoppingReason
from lightning_interactions.records import TimePoint
from lightning_interactions.schedules import EveryNEpochs
from tests.callbacks.runs import TINY_SET_UP, Scripted, quiet_trainer, script_phases
from tests.callbacks.runs import fewest as few
from tests.helpers.models import TabularClassifier, tabular_loader

pytestmark = TINY_SET_UP


def fit(root: Path, *callbacks: Callback, epochs: int = 4, **options: Any) -> Trainer:
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=list(callbacks), **options)
    trainer.fit(TabularClassifier(), tabular_loader(8), tabular_loader(8, seed=1))
    return trainer


@pytest.mark.parametrize("phase", [0, 1, 4, -1])
def test_only_the_onsets_of_phases_2_and_3_can_stop(phase: int) -> None:
    with pytest.raises(MisconfigurationException, match=f"expected phase 2 or 3, got {phase}"):
        PhaseEarlyStopping(phase)


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 1.0}, {"patience": -1}], ids=str)
def test_a_level_or_patience_that_means_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match=r"expected alpha in \(0, 1\) and patience of at least 0, got"):
        PhaseEarlyStopping(**options)


def test_the_phase_is_3_if_left_out() -> None:
    assert PhaseEarlyStopping().phase == 3


@pytest.mark.parametrize(
    ("phase", "scripted", "epochs"),
    [
        (3, [1, 1, 2, 3], 3),
        (2, [1, 1, 2, 3], 2),
        pytest.param(2, [1, 1, 1, 3], 3, marks=pytest.mark.slow),
        (3, [1, 1, 2, 2], 4),
        pytest.param(2, [1, 1, 1, 1], 4, marks=pytest.mark.slow),
    ],
)
def test_training_ends_with_the_epoch_of_the_onset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: int, scripted: list[int], epochs: int
) -> None:
    script_phases(monkeypatch, scripted)
    monitor = few()
    trainer = fit(tmp_path, monitor, PhaseEarlyStopping(phase, verbose=False))
    assert trainer.current_epoch == epochs
    assert monitor.history.epochs == list(range(epochs + 1))


@pytest.mark.parametrize("monitor_first", [True, False])
def test_the_order_of_the_callbacks_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitor_first: bool
) -> None:
    script_phases(monkeypatch, [1, 1, 3])
    callbacks: list[Callback] = [few(), PhaseEarlyStopping(verbose=False)]
    trainer = fit(tmp_path, *(callbacks if monitor_first else reversed(callbacks)))
    assert trainer.current_epoch == 2


def test_a_stop_says_when_and_why_in_lightnings_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 3])
    monitor, stopping = few(alpha=0.01), PhaseEarlyStopping(verbose=False)
    assert (stopping.onset_epoch, stopping.stopped_epoch, stopping.stopping_reason_message) == (None, 0, None)
    assert stopping.stopping_reason is PhaseStoppingReason.NOT_STOPPED
    fit(tmp_path, monitor, stopping)
    # Two completed epochs; Lightning counts the second one as number 1.
    assert (stopping.onset_epoch, stopping.stopped_epoch) == (2, 1)
    assert stopping.stopping_reason is PhaseStoppingReason.PHASE_ONSET
    assert stopping.stopping_reason_message == str(monitor.phase)
    assert stopping.stopping_reason_message.startswith("phase 3 since epoch 2, confidence 0.9900: ")


@pytest.mark.slow
def test_nothing_is_said_about_a_phase_that_never_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 2])
    stopping = PhaseEarlyStopping()
    fit(tmp_path, few(), stopping)
    assert (stopping.onset_epoch, stopping.stopped_epoch, stopping.stopping_reason_message) == (None, 0, None)
    assert stopping.stopping_reason is PhaseStoppingReason.NOT_STOPPED


def test_log_only_notes_the_onset_and_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 3, 2, 3])
    stopping = PhaseEarlyStopping(log_only=True, verbose=False)
    trainer = fit(tmp_path, few(), stopping)
    assert trainer.current_epoch == 4
    assert not trainer.should_stop
    # The first onset stays, also where the phase comes a second time.
    assert (stopping.onset_epoch, stopping.stopped_epoch) == (2, 0)
    assert stopping.stopping_reason is PhaseStoppingReason.NOT_STOPPED
    assert stopping.stopping_reason_message is not None
    assert "since epoch 2" in stopping.stopping_reason_message


@pytest.mark.parametrize("verbose", [True, False])
def test_the_onset_is_said_once_on_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, verbose: bool
) -> None:
    script_phases(monkeypatch, [1, 1, 3])
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, few(), PhaseEarlyStopping(log_only=True, verbose=verbose))
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("PhaseEarlyStopping:")]
    assert [text.startswith("PhaseEarlyStopping: phase 3 since epoch 2") for text in said] == [True] * verbose


def test_min_epochs_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    stopping = PhaseEarlyStopping(verbose=False)
    trainer = fit(tmp_path, few(), stopping, epochs=5, min_epochs=3)
    assert trainer.current_epoch == 3
    assert (stopping.onset_epoch, stopping.stopped_epoch) == (1, 2)


def test_a_fast_dev_run_is_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [3])
    monitor, stopping = few(), PhaseEarlyStopping(verbose=False)
    trainer = fit(tmp_path, monitor, stopping, fast_dev_run=True)
    assert monitor.history.epochs == [1]
    assert not trainer.should_stop
    assert stopping.stopping_reason is PhaseStoppingReason.NOT_STOPPED
    assert stopping.onset_epoch is None


def test_without_a_monitor_there_is_an_error_before_training(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"expected an InteractionMonitor among .* found none"):
        fit(tmp_path, PhaseEarlyStopping())


def test_a_stopping_callback_without_a_monitor_does_not_disturb_validation(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=[PhaseEarlyStopping()])
    assert trainer.validate(TabularClassifier(), tabular_loader(8), verbose=False) == [{}]


def test_an_unknown_monitor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"expected an InteractionMonitor named 'b' .*found \['a'\]"):
        fit(tmp_path, few(name="a"), PhaseEarlyStopping(monitor="b"))


def test_several_monitors_need_a_choice(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"several monitors.*monitor= one of \['a', 'b'\]"):
        fit(tmp_path, few(name="a"), few(name="b"), PhaseEarlyStopping())


@pytest.mark.parametrize("followed", [pytest.param("a", marks=pytest.mark.slow), "b"])
@pytest.mark.slow
def test_only_the_chosen_monitor_is_followed(tmp_path: Path, followed: str) -> None:
    # Scripts each monitor by itself: only "b" ever comes to phase 3.
    class Scripted(Callback):
        def on_interactions_measured(self, trainer: Trainer, pl_module: Any, monitor: InteractionMonitor) -> None:
            if monitor.name == "b" and monitor.history.epochs[-1] >= 2:
                latest = monitor.history.phases[-1]
                phase = replace(latest, number=3, onset=TimePoint(2, 2))
                monitor.history = type(monitor.history)(monitor.history.measurements, (*monitor.history.phases[:-1], phase))

    trainer = fit(tmp_path, Scripted(), few(name="a"), few(name="b"), PhaseEarlyStopping(monitor=followed, verbose=False))
    assert trainer.current_epoch == (2 if followed == "b" else 4)


def test_two_stopping_callbacks_follow_two_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 2, 2, 3])
    noting, stopping = PhaseEarlyStopping(2, log_only=True, verbose=False), PhaseEarlyStopping(3, verbose=False)
    trainer = fit(tmp_path, noting, few(), stopping)
    assert trainer.current_epoch == 3
    assert (noting.onset_epoch, stopping.onset_epoch) == (1, 3)
    assert noting.state_key != stopping.state_key


def test_one_named_monitor_is_followed_without_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    trainer = fit(tmp_path, few(name="only"), PhaseEarlyStopping(verbose=False))
    assert trainer.current_epoch == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patience", "scripted", "epochs", "called"),
    [
        (0, [1, 3], 1, 1),
        (1, [1, 3], 2, 1),
        (3, [1, 3], 4, 1),
        # Over with the last of six epochs, and one too late.
        (2, [1, 1, 1, 1, 3], 6, 4),
        (3, [1, 1, 1, 1, 3], 6, 4),
        # A return begins anew, also at the last measurement.
        (1, [1, 3, 2, 3, 3], 4, 3),
        (2, [1, 3, 3, 2, 3], 6, 4),
        (2, [1, 3, 3, 2, 2], 6, None),
        (1, [1, 3, 1, 3, 2, 3, 2], 6, None),
    ],
)
def test_patience_counts_measurements_in_the_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, scripted: list[int], epochs: int, called: int | None
) -> None:
    script_phases(monkeypatch, scripted)
    stopping = PhaseEarlyStopping(patience=patience, verbose=False)
    trainer = fit(tmp_path, few(), stopping, epochs=6)
    assert trainer.current_epoch == epochs
    assert stopping.onset_epoch == stopping.detected_epoch == called
    stopped = called is not None and stopping.wait_count == patience
    assert stopping.wait_count == (epochs - called if called is not None else 0)
    assert trainer.should_stop == stopped
    assert stopping.stopped_epoch == (epochs - 1 if stopped else 0)
    reason = PhaseStoppingReason.PHASE_ONSET if stopped else PhaseStoppingReason.NOT_STOPPED
    assert stopping.stopping_reason is reason
    if stopped and patience:
        assert stopping.stopping_reason_message is not None
        assert stopping.stopping_reason_message.endswith(f"; {patience} further measurements stayed in it")


def test_patience_for_phase_2_goes_on_in_phase_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 2, 3, 2, 3])
    stopping = PhaseEarlyStopping(2, patience=3, verbose=False)
    trainer = fit(tmp_path, few(), stopping, epochs=6)
    assert (trainer.current_epoch, stopping.onset_epoch) == (4, 1)


def test_patience_counts_no_epochs_without_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    stopping = PhaseEarlyStopping(patience=1, verbose=False)
    trainer = fit(tmp_path, few(schedule=EveryNEpochs(2)), stopping, epochs=9, check_val_every_n_epoch=3)
    assert (trainer.current_epoch, stopping.stopped_epoch) == (4, 3)


def test_the_last_epoch_that_min_epochs_adds_needs_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    stopping = PhaseEarlyStopping(verbose=False)
    trainer = fit(tmp_path, few(schedule=EveryNEpochs(2)), stopping, epochs=9, min_epochs=5)
    assert (trainer.current_epoch, stopping.stopped_epoch) == (5, 4)


def test_log_only_notes_what_would_have_stopped_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3, 2, 3, 3, 2])
    stopping = PhaseEarlyStopping(patience=1, log_only=True, verbose=False)
    fit(tmp_path, few(), stopping, epochs=6)
    assert (stopping.onset_epoch, stopping.wait_count, stopping.stopped_epoch) == (3, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "script", "epochs", "called"),
    [
        (None, [1, Scripted(3, confidence=0.5)], 1, 1),
        (0.01, [1, Scripted(3, confidence=0.99)], 1, 1),
        (0.01, [1, Scripted(3, confidence=0.98)], 5, None),
        # Later measurements speak more clearly for the phase that the run is in.
        (0.01, [1, Scripted(3, confidence=0.98), Scripted(3, tests={3: (1, 0.02)}), Scripted(3, tests={3: (1, 0.01)})], 3, 3),
        # Phase 3 lies past phase 2, but a claim for the way back says nothing.
        (0.01, [1, Scripted(3, confidence=0.98, tests={2: (1, 0.001)}), Scripted(3, tests={2: (1, 0.001)})], 5, None),
        # What was reached before a return is forgotten.
        (0.01, [1, Scripted(3, confidence=0.99), 2, Scripted(3, confidence=0.98)], 1, 1),
        # A claim for a phase that the run is not in.
        (0.01, [Scripted(1, tests={3: (0, 0.001)})], 5, None),
    ],
)
def test_alpha_asks_for_more_confidence_than_the_monitor(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alpha: float | None,
    script: list[int | Scripted],
    epochs: int,
    called: int | None,
) -> None:
    script_phases(monkeypatch, script)
    stopping = PhaseEarlyStopping(alpha=alpha, verbose=False)
    trainer = fit(tmp_path, few(alpha=0.05), stopping, epochs=5)
    assert (trainer.current_epoch, stopping.detected_epoch) == (epochs, called)
    if called is not None:
        assert stopping.onset_epoch == 1


def test_patience_begins_when_alpha_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surer = Scripted(3, tests={3: (1, 0.01)})
    script_phases(monkeypatch, [1, Scripted(3, confidence=0.96), surer, Scripted(3, tests={3: (1, 0.3)})])
    stopping = PhaseEarlyStopping(alpha=0.01, patience=1, verbose=False)
    trainer = fit(tmp_path, few(), stopping, epochs=6)
    assert (trainer.current_epoch, stopping.detected_epoch, stopping.onset_epoch) == (3, 2, 1)


def test_more_errors_than_the_monitor_allows_itself_are_refused(tmp_path: Path) -> None:
    monitors = few(name="a", alpha=0.1), few(name="b", alpha=0.01)
    PhaseEarlyStopping(alpha=0.1, monitor="a")
    with pytest.raises(MisconfigurationException, match=r"alpha of at most 0.01, .* got 0.1; "):
        fit(tmp_path, *monitors, PhaseEarlyStopping(alpha=0.1, monitor="b"))


def test_a_second_run_forgets_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    monitor, stopping = few(), PhaseEarlyStopping(verbose=False)
    fit(tmp_path, monitor, stopping)
    script_phases(monkeypatch, [1, 1])
    with pytest.warns(UserWarning, match="history and probes start anew"):
        trainer = fit(tmp_path, monitor, stopping)
    assert trainer.current_epoch == 4
    assert (stopping.onset_epoch, stopping.stopping_reason) == (None, PhaseStoppingReason.NOT_STOPPED)
