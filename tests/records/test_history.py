import contextlib
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Measurement, OrderStrength, PhaseTest, SplitMeasurement, TimePoint
from lightning_interactions.records.history import KEPT_IN_FULL, MOST_MEASUREMENTS, VERSION
from tests.helpers.broken_files import broken
from tests.helpers.histories import FALL, begun, history_from_strengths, with_phases

SETTINGS = {"loss_unit": "nats", "threshold": 0.05, "players": ["a", "b"], "evidence": None}


def some_measurements(times: int = 4, *, held_out: bool = True, inputs: int = 3) -> tuple[Measurement, ...]:
    generator = torch.Generator().manual_seed(0)
    g, u, excess = torch.rand(3, times, inputs, generator=generator, dtype=torch.float64) + 0.5
    g[1:, 0] = torch.nan
    measured = history_from_strengths(g, u, excess[:, :2] if held_out else None, chance=0.3)
    return tuple(replace(measurement, is_early=place < 2) for place, measurement in enumerate(measured))


def some_history(*, held_out: bool = True) -> History:
    return replace(with_phases(some_measurements(held_out=held_out), [1, 1, 2, 3]), settings=SETTINGS)


def appended(history: History, measurements: tuple[Measurement, ...], times: int) -> History:
    """Append the same few measurements again and again, each at a time of its own."""
    phase = begun(1, 0, math.nan)
    for time in range(times):
        history = history.append(replace(measurements[time % len(measurements)], time=TimePoint(time, 10 * time)), phase)
    return history


def assert_same(actual: Any, expected: Any) -> None:
    """Assert equal nested dicts and lists of tensors, numbers and strings; NaN equals NaN."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    else:
        assert actual == expected or (actual != actual and expected != expected)


def leaves(state: Any) -> list[Any]:
    """List what is not a dict or list in nested dicts and lists."""
    if type(state) is dict:
        assert all(type(key) is str for key in state)
        return [leaf for value in state.values() for leaf in leaves(value)]
    if type(state) is list:
        return [leaf for value in state for leaf in leaves(value)]
    return [state]


# A record that grows


def test_append_returns_a_new_longer_record() -> None:
    first, second = some_measurements(2)
    phases = begun(1, 0, math.nan), begun(2, 1, 0.99, FALL)
    empty = History(settings=SETTINGS)
    one = empty.append(first, phases[0])
    two = one.append(second, phases[1])
    assert (len(empty), len(one), len(two)) == (0, 1, 2)
    assert one.measurements == (first,)
    assert two.measurements == (first, second)
    assert two.phases == phases
    assert two.settings == SETTINGS


def test_epochs_and_steps_are_the_measured_ones() -> None:
    g = torch.ones(3, 2)
    history = with_phases(history_from_strengths(g, g, epochs=[0, 5, 10]), [1, 1, 1])
    assert history.epochs == [0, 5, 10]
    assert history.steps == [0, 10, 20]
    assert History().epochs == History().steps == []


def test_the_onset_of_a_phase_is_its_first() -> None:
    history = with_phases(some_measurements(8), [1, 1, 2, 3, 3, 2, 3, 3])
    assert [history.onset_epoch(number) for number in (1, 2, 3)] == [0, 2, 3]
    # Phase 2 may come after phase 3 only.
    assert with_phases(some_measurements(4), [1, 3, 3, 2]).onset_epoch(2) == 3
    assert with_phases(some_measurements(3), [1, 1, 2]).onset_epoch(3) is None
    assert History().onset_epoch(1) is None


def test_detections_are_the_changes_of_phase() -> None:
    history = with_phases(some_measurements(8), [1, 1, 2, 3, 3, 2, 3, 3])
    assert [phase.number for phase in history.detections] == [1, 2, 3, 2, 3]
    assert [phase.detected.epoch for phase in history.detections] == [0, 2, 3, 5, 6]
    first = history.first_detection(3)
    assert first is not None
    assert first.detected == TimePoint(3, 30)


def test_the_last_measurement_may_have_taken_longer() -> None:
    history = some_history()
    longer = history.with_seconds(7.5)
    assert [one.seconds for one in longer.measurements] == [0.5, 0.5, 0.5, 7.5]
    assert longer.measurements[-1].training is history.measurements[-1].training


def test_only_the_last_measurements_keep_their_strength_input_by_input() -> None:
    history = appended(History(), some_measurements(2), KEPT_IN_FULL + 3)
    condensed = [one.training.is_condensed for one in history.measurements]
    assert condensed == [True] * 3 + [False] * KEPT_IN_FULL
    assert [one.held_out is not None and one.held_out.is_condensed for one in history.measurements] == condensed
    # All but intervals by order is as it was.
    full, short = some_measurements(2)[0], history.measurements[0]
    assert summarise(short).training.share == summarise(full).training.share
    assert summarise(short).excess_gap == summarise(full).excess_gap


@pytest.mark.slow
def test_of_too_many_measurements_every_second_one_of_the_older_half_goes() -> None:
    history = appended(History(), some_measurements(1, inputs=1), MOST_MEASUREMENTS)
    assert len(history) == MOST_MEASUREMENTS
    longer = appended(history, some_measurements(1, inputs=1), 1)
    half = (MOST_MEASUREMENTS + 1) // 2
    assert len(longer) == len(longer.phases) == half // 2 + MOST_MEASUREMENTS + 1 - half
    assert longer.epochs[: half // 2] == list(range(0, half, 2))
    assert longer.epochs[half // 2 : -1] == list(range(half, MOST_MEASUREMENTS))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_measurement_of_a_detection_never_goes(data: st.DataObject) -> None:
    most = 16
    changes = sorted(data.draw(st.sets(st.integers(1, 99), min_size=1, max_size=5)))
    (measurement,) = some_measurements(1, inputs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_interactions.records.history.MOST_MEASUREMENTS", most)
        history = History()
        for time in range(100):
            passed = [change for change in changes if change <= time]
            phase = begun(1 + len(passed) % 3, passed[-1] if passed else 0, 0.99)
            history = history.append(replace(measurement, time=TimePoint(time, 10 * time)), phase)
    befores = (None, *(phase.number for phase in history.phases))
    found = [
        time for time, phase, before in zip(history.epochs, history.phases, befores, strict=False) if phase.number != before
    ]
    assert found == [0, *changes]
    assert len(history) <= most + len(changes)


# Settings


def test_the_same_settings_do_not_differ() -> None:
    assert History(settings=SETTINGS).different_settings(dict(SETTINGS)) == []
    assert History().different_settings({}) == []


def test_settings_that_differ_are_named_with_both_values() -> None:
    (difference,) = History(settings=SETTINGS).different_settings({**SETTINGS, "threshold": 0.1})
    assert all(part in difference for part in ("threshold", "0.05", "0.1"))


def test_settings_of_one_side_only_differ() -> None:
    fewer = {name: value for name, value in SETTINGS.items() if name != "threshold"}
    assert [one.split(":")[0] for one in History(settings=SETTINGS).different_settings(fewer)] == ["threshold"]
    assert [one.split(":")[0] for one in History(settings=fewer).different_settings(SETTINGS)] == ["threshold"]


# Dicts and files


@pytest.mark.parametrize("held_out", [True, False])
def test_a_history_comes_back_from_its_dict(held_out: bool) -> None:
    history = some_history(held_out=held_out)
    rebuilt = History.from_dict(history.to_dict())
    assert_same(rebuilt.to_dict(), history.to_dict())
    assert rebuilt.settings == SETTINGS
    assert rebuilt.phases == history.phases
    assert str(rebuilt) == str(history)
    for measurement, original in zip(rebuilt.measurements, history.measurements, strict=True):
        assert (measurement.time, measurement.seconds) == (original.time, original.seconds)
        assert list(measurement.splits) == list(original.splits)
        for split, before in zip(measurement.splits.values(), original.splits.values(), strict=True):
            for name, column in vars(before).items():
                if isinstance(column, OrderStrength):
                    assert_same(vars(split.strength), vars(column))
                else:
                    assert_same(getattr(split, name), column)


def test_held_out_probes_that_come_later_come_back_where_they_were() -> None:
    measurements = (*some_measurements(2, held_out=False), *some_measurements(2))
    rebuilt = History.from_dict(with_phases(measurements, [1] * 4).to_dict())
    assert [one.held_out is None for one in rebuilt.measurements] == [True, True, False, False]


def test_condensed_and_full_measurements_come_back_in_order() -> None:
    history = appended(History(), some_measurements(3), KEPT_IN_FULL + 2)
    rebuilt = History.from_dict(history.to_dict())
    assert [one.training.is_condensed for one in rebuilt.measurements] == [True] * 2 + [False] * KEPT_IN_FULL
    for measurement, original in zip(rebuilt.measurements, history.measurements, strict=True):
        assert_same(vars(measurement.training.strength), vars(original.training.strength))


def test_an_empty_history_comes_back_from_its_dict() -> None:
    rebuilt = History.from_dict(History(settings=SETTINGS).to_dict())
    assert (rebuilt.measurements, rebuilt.phases, rebuilt.settings) == ((), (), SETTINGS)


def test_tests_come_back_with_their_phase() -> None:
    (measurement,) = some_measurements(1)
    tests = (PhaseTest(2, TimePoint(0, 0), 0.5, FALL), PhaseTest(3, TimePoint(1, 10), math.inf))
    phase = replace(begun(1, 0, 0.5), tests=tests)
    (rebuilt,) = History.from_dict(History((measurement,), (phase,)).to_dict()).phases
    assert rebuilt == phase


@pytest.mark.parametrize("held_out", [True, False])
def test_the_dict_holds_only_what_loads_with_weights_only(tmp_path: Path, held_out: bool) -> None:
    state = some_history(held_out=held_out).to_dict()
    assert {type(leaf) for leaf in leaves(state)} <= {int, float, str, bool, Tensor, type(None)}
    torch.save(state, tmp_path / "history.pt")
    assert_same(torch.load(tmp_path / "history.pt", weights_only=True), state)


def test_changing_the_dict_leaves_the_history_alone() -> None:
    history = some_history()
    state = history.to_dict()
    state["splits"]["training"]["inputs"]["empty_score"].zero_()
    state["times"].clear()
    state["settings"].clear()
    assert len(history) == 4
    assert history.settings == SETTINGS
    assert history.measurements[0].training.empty_score.all()


def test_a_history_is_saved_and_loaded(tmp_path: Path) -> None:
    history = some_history()
    history.save(tmp_path / "history.pt")
    assert_same(History.load(tmp_path / "history.pt").to_dict(), history.to_dict())
    assert str(History.load(str(tmp_path / "history.pt"))) == str(history)


@pytest.mark.parametrize("version", [VERSION + 1, 0, "1", None])
def test_another_version_is_refused_by_name(version: object) -> None:
    state = {**some_history().to_dict(), "version": version}
    with pytest.raises(ValueError, match=f"expected a history of version {VERSION}, got version {version}"):
        History.from_dict(state)


def test_a_state_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="got version None"):
        History.from_dict({})


def broken_states() -> dict[str, dict[str, Any]]:
    """Ways in which a state may be incomplete."""
    states = {f"without {name}": some_history().to_dict() for name in ("settings", "times", "seconds", "splits", "phases")}
    for name, state in states.items():
        del state[name.removeprefix("without ")]
    missing = some_history().to_dict()
    del missing["splits"]["training"]["inputs"]["loss"]
    shorter = some_history().to_dict()
    shorter["splits"]["held_out"]["inputs"]["loss"] = shorter["splits"]["held_out"]["inputs"]["loss"][:2]
    no_training = some_history().to_dict()
    del no_training["splits"]["training"]
    fewer_times = some_history().to_dict()
    fewer_times["times"].pop()
    other_type = {**some_history().to_dict(), "phases": [3]}
    narrow, no_phase, phase_9 = (some_history().to_dict() for _ in range(3))
    strength = narrow["splits"]["training"]["strength"]["full"]
    strength["generalizable"] = strength["generalizable"][:, :, :1]
    no_phase["phases"].pop()
    phase_9["phases"][0]["number"] = 9
    shaped = {"narrow strength": narrow, "too few phases": no_phase, "phase 9": phase_9}
    more = {
        **shaped,
        "a column": missing,
        "rows": shorter,
        "training": no_training,
        "a time": fewer_times,
        "phases": other_type,
    }
    return {**states, **shaped, **more}


@pytest.mark.parametrize("name", broken_states())
def test_a_broken_state_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="got a broken one"):
        History.from_dict(broken_states()[name])


@pytest.mark.parametrize("content", [b"", b"no history", b"PK\x03\x04 cut off"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"history\.pt"):
        History.load(tmp_path / "history.pt")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="got list"):
        History.load(tmp_path / "list.pt")
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="got version None"):
        History.load(tmp_path / "checkpoint.pt")


HISTORY_FILE = io.BytesIO()
torch.save(some_history().to_dict(), HISTORY_FILE)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=broken(HISTORY_FILE.getvalue()))
@pytest.mark.slow
def test_a_broken_file_is_refused_or_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.pt").write_bytes(content)
    with contextlib.suppress(ValueError):
        history = History.load(tmp_path / "history.pt")
        assert len(history.phases) == len(history)
        assert str(history)


def test_a_history_outlives_its_file(tmp_path: Path) -> None:
    history = some_history()
    history.save(tmp_path / "history.pt")
    read = History.load(tmp_path / "history.pt")
    (tmp_path / "history.pt").write_bytes(b"")
    assert_same(read.to_dict(), history.to_dict())


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        History.load(tmp_path / "nothing.pt")


# Size


def of_ten_players(split: SplitMeasurement) -> SplitMeasurement:
    strength = torch.rand(len(split), 2, 2, 11, dtype=torch.float64)
    return replace(split, strength=OrderStrength(strength, strength, strength))


@pytest.mark.slow
def test_the_state_of_a_long_run_is_small() -> None:
    ones = torch.ones(1, 32)
    (one,) = history_from_strengths(ones, ones, ones)
    assert one.held_out is not None
    one = replace(one, training=of_ten_players(one.training), held_out=of_ten_players(one.held_out))
    tests = tuple(PhaseTest(number, TimePoint(3, 30), 0.5, {**FALL, "loss_before": 1.0}) for number in (2, 3))
    history, phase = History(settings=SETTINGS), replace(begun(1, 0, math.nan), tests=tests)
    for time in range(1000):
        history = history.append(replace(one, time=TimePoint(time, 10 * time)), phase)
    file = io.BytesIO()
    torch.save(history.to_dict(), file)
    size = len(file.getvalue())
    print(f"1,000 measurements of 32 + 32 probes and 10 players: {size / 1e6:.2f} MB")  # noqa: T201
    # 64 of them hold 64 probes x 3 kinds x 44 numbers, 936 hold 2 x 3 x 44 numbers, and all hold 64 x 11 numbers: 12.0 MB.
    assert size < 14e6
