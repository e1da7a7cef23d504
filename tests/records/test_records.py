import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_interactions import records
from lightning_interactions.records import Claim, History, Interactions, Measurement, Probes
from tests.helpers.histories import begun, history_from_strengths, with_phases

RECORDS = [getattr(records, name) for name in records.__all__ if dataclasses.is_dataclass(getattr(records, name))]


def some_measurements(times: int = 4, *, held_out: bool = True, inputs: int = 3) -> tuple[Measurement, ...]:
    generator = torch.Generator().manual_seed(0)
    g, u, excess = torch.rand(3, times, inputs, generator=generator, dtype=torch.float64) + 0.5
    g[1:, 0] = torch.nan
    return history_from_strengths(g, u, excess[:, :2] if held_out else None, chance=0.3)


def assert_same(actual: object, expected: object) -> None:
    """Assert equal nested dicts and lists of tensors, numbers and strings; NaN equals NaN."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert isinstance(actual, dict)
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list):
        assert isinstance(actual, list)
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


def table_rows(history: History) -> list[list[str]]:
    """Cells of the printed table below the headers; words of a header are set apart by two spaces."""
    return [line.split() for line in str(history).splitlines()[2:]]


# Every record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_are_frozen(record: type) -> None:
    made = object.__new__(record)
    for field in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_a_record_is_documented(record: type) -> None:
    documented = record.__doc__ or ""
    assert [field.name for field in dataclasses.fields(record) if f"{field.name}: " not in documented] == []


def test_the_records_are_all_there() -> None:
    assert len(RECORDS) == 19


def test_effects_have_ands_before_ors() -> None:
    and_effects, or_effects = torch.arange(24.0).reshape(2, 3, 4)
    effects = Interactions(and_effects, or_effects, torch.zeros(3)).effects
    assert effects.shape == (3, len(records.EFFECT_TYPES), 4)
    assert torch.equal(effects[:, records.EFFECT_TYPES.index("and")], and_effects)
    assert torch.equal(effects[:, records.EFFECT_TYPES.index("or")], or_effects)


def test_probes_are_as_many_as_their_inputs() -> None:
    assert len(Probes(torch.zeros(5, 2), torch.zeros(5))) == 5


def test_left_out_inputs_are_not_measured() -> None:
    first, second = some_measurements(2)
    assert first.training.measured.tolist() == [True, True, True]
    assert second.training.measured.tolist() == [False, True, True]
    assert second.training_summary.left_out == 1


# History


def test_append_returns_a_new_longer_record() -> None:
    first, second = some_measurements(2)
    phases = begun(1, 0, math.nan, "begins"), begun(2, 1, 0.99, "share fell")
    empty = History()
    one = empty.append(first, phases[0])
    two = one.append(second, phases[1])
    assert (len(empty), len(one), len(two)) == (0, 1, 2)
    assert one.measurements[0] is first
    assert two.measurements[0] is first
    assert two.measurements[1] is second
    assert two.phases == phases
    assert isinstance(two.measurements, tuple)
    assert isinstance(two.phases, tuple)


def test_epochs_and_steps_are_the_measured_ones() -> None:
    g = torch.ones(3, 2)
    history = with_phases(history_from_strengths(g, g, epochs=[0, 5, 10]), [1, 1, 1])
    assert history.epochs == [0, 5, 10]
    assert history.steps == [0, 10, 20]
    assert History().epochs == History().steps == []


def test_the_onset_of_a_phase_is_its_first() -> None:
    history = with_phases(some_measurements(8), [1, 1, 2, 3, 3, 2, 3, 3])
    assert history.onset_epoch(1) == 0
    assert history.onset_epoch(2) == 2
    assert history.onset_epoch(3) == 3
    # Phase 2 may come after phase 3 only.
    assert with_phases(some_measurements(4), [1, 3, 3, 2]).onset_epoch(2) == 3
    assert with_phases(some_measurements(3), [1, 1, 2]).onset_epoch(3) is None
    assert History().onset_epoch(1) is None


@pytest.mark.parametrize("held_out", [True, False])
def test_a_history_comes_back_from_its_dict(held_out: bool) -> None:
    history = with_phases(some_measurements(held_out=held_out), [1, 1, 2, 3])
    rebuilt = History.from_dict(history.to_dict())
    assert_same(rebuilt.to_dict(), history.to_dict())
    assert isinstance(rebuilt.measurements, tuple)
    assert isinstance(rebuilt.phases, tuple)
    for measurement, original in zip(rebuilt.measurements, history.measurements, strict=True):
        assert type(measurement.training) is type(original.training)
        assert type(measurement.training.strength) is type(original.training.strength)
        assert type(measurement.training_summary) is type(original.training_summary)
        assert type(measurement.held_out) is type(original.held_out)
        assert type(measurement.held_out_summary) is type(original.held_out_summary)
        assert measurement.training.measured.tolist() == original.training.measured.tolist()
    assert [str(phase) for phase in rebuilt.phases] == [str(phase) for phase in history.phases]
    assert str(rebuilt) == str(history)


def test_an_empty_history_comes_back_from_its_dict() -> None:
    assert History.from_dict(History().to_dict()) == History()


def test_the_dict_holds_only_what_loads_with_weights_only(tmp_path: Path) -> None:
    history = with_phases(some_measurements(), [1, 1, 2, 3])
    state = history.to_dict()
    kinds = {type(leaf) for leaf in leaves(state)}
    assert kinds == {int, float, str, Tensor}
    torch.save(state, tmp_path / "history.pt")
    loaded = torch.load(tmp_path / "history.pt", weights_only=True)
    assert_same(loaded, state)
    assert str(History.from_dict(loaded)) == str(history)


def test_the_dict_of_a_run_without_held_out_probes_holds_none_instead(tmp_path: Path) -> None:
    state = with_phases(some_measurements(held_out=False), [1, 1, 1, 1]).to_dict()
    assert {type(leaf) for leaf in leaves(state)} == {int, float, str, Tensor, type(None)}
    torch.save(state, tmp_path / "history.pt")
    assert_same(torch.load(tmp_path / "history.pt", weights_only=True), state)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_state_from_before_losses_were_kept_has_the_cross_entropy_of_log_odds(held_out: bool) -> None:
    history = with_phases(some_measurements(held_out=held_out), [1, 1, 2, 3])
    state = history.to_dict()
    for measurement in state["measurements"]:
        added = ("loss_unit", *(name for name in measurement if name.endswith(("_interval", "_intervals"))))
        assert len(added) == 6
        for name in added:
            del measurement[name]
        for split in ("training", "held_out"):
            if measurement[split] is not None:
                for name in ("loss", "explained_loss", "unseen_loss", "peer_score"):
                    del measurement[split][name]
                del measurement[f"{split}_summary"]["unseen_loss"]
    rebuilt = History.from_dict(state)
    for measurement, original in zip(rebuilt.measurements, history.measurements, strict=True):
        torch.testing.assert_close(measurement.training.loss, original.training.loss, equal_nan=True)
        torch.testing.assert_close(measurement.training.explained_loss, original.training.explained_loss, equal_nan=True)
        assert measurement.training_summary.share == original.training_summary.share
        assert measurement.loss_unit == "nats"
        assert math.isnan(measurement.training_intervals.share.low)
        assert math.isnan(measurement.excess_gap_interval.high)
        assert measurement.training_intervals.generalizable.shape == original.training_intervals.generalizable.shape
        assert (measurement.held_out_intervals is None) is not held_out
    assert "nan..nan" in str(rebuilt)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_state_from_before_unseen_losses_knows_none(held_out: bool) -> None:
    history = with_phases(some_measurements(held_out=held_out), [1, 1, 2, 3])
    state = history.to_dict()
    for measurement in state["measurements"]:
        for split in ("training", "held_out"):
            if measurement[split] is not None:
                del measurement[split]["unseen_loss"], measurement[split]["peer_score"]
                del measurement[f"{split}_summary"]["unseen_loss"]
    for measurement, original in zip(History.from_dict(state).measurements, history.measurements, strict=True):
        for split in (measurement.training, measurement.held_out):
            if split is not None:
                assert split.unseen_loss.isnan().all()
                assert split.unseen_loss.shape == split.peer_score.shape == split.loss.shape
                assert not split.contradicted.any()
        assert math.isnan(measurement.training_summary.unseen_loss)
        assert measurement.training_summary.loss == original.training_summary.loss


def test_a_state_from_before_calls_were_told_apart_from_onsets_has_them_at_the_onset() -> None:
    history = with_phases(some_measurements(), [1, 1, 2, 3])
    state = history.to_dict()
    for phase in state["phases"]:
        for name in ("onset_step", "called_epoch", "called_step", "claims"):
            del phase[name]
    for phase, original in zip(History.from_dict(state).phases, history.phases, strict=True):
        assert (phase.number, phase.onset_epoch, phase.called_epoch) == (
            original.number,
            original.onset_epoch,
            phase.onset_epoch,
        )
        assert (phase.onset_step, phase.called_step, phase.claims) == (-1, -1, ())


def test_claims_come_back_with_their_phase(tmp_path: Path) -> None:
    (measurement,) = some_measurements(1)
    claims = (Claim(2, 0, 0, 0.5, "fell"), Claim(3, 1, 10, math.inf, "rose"))
    phase = dataclasses.replace(begun(1, 0, math.nan, "begins"), claims=claims)
    state = History((measurement,), (phase,)).to_dict()
    torch.save(state, tmp_path / "history.pt")
    (rebuilt,) = History.from_dict(torch.load(tmp_path / "history.pt", weights_only=True)).phases
    assert rebuilt.claims == claims


def test_labels_are_contradicted_by_odds_of_e_to_one() -> None:
    peers = torch.tensor([-1.01, -0.99, math.nan])
    (measurement,) = history_from_strengths(torch.ones(1, 3), torch.ones(1, 3), peer_score=peers)
    assert measurement.training.contradicted.tolist() == [True, False, False]


def test_changing_the_dict_leaves_the_history_alone() -> None:
    history = with_phases(some_measurements(1), [1])
    state = history.to_dict()
    state["measurements"][0]["training"]["empty_score"].zero_()
    state["measurements"].clear()
    assert len(history) == 1
    assert history.measurements[0].training.empty_score.all()


# The printed table


def test_the_table_has_one_row_a_measurement() -> None:
    measurements = some_measurements(4)
    rows = table_rows(with_phases(measurements, [1, 1, 2, 3]))
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert [row[1] for row in rows] == ["0", "10", "20", "30"]
    assert [row[12] for row in rows] == ["1", "1", "2", "3"]
    for row, measurement in zip(rows, measurements, strict=True):
        summary, held_out = measurement.training_summary, measurement.held_out_summary
        assert held_out is not None
        expected = (
            *(summary.loss, held_out.loss, summary.generalizable, summary.non_generalizable, summary.share),
            *(summary.share_chance, summary.mean_order, measurement.excess_gap),
        )
        assert row[2:7] + row[8:11] == [f"{number:.3f}" for number in expected]
        for cell, interval in ((row[7], measurement.training_intervals.share), (row[11], measurement.excess_gap_interval)):
            assert cell == f"{interval.low:.2f}..{interval.high:.2f}"
        assert row[13] == "0.500"


def test_the_headers_name_the_columns() -> None:
    header = str(with_phases(some_measurements(1), [1])).splitlines()[0]
    names = ("epoch", "step", "training loss", "held-out loss", "generalizable", "non-generalizable", "share", "(interval)")
    positions = [header.index(name) for name in (*names, "chance", "mean order", "excess gap", "phase", "seconds")]
    assert positions == sorted(positions)
    assert header.index("excess gap") < header.rindex("(interval)") < header.index("phase")


def test_missing_held_out_numbers_are_dashes() -> None:
    rows = table_rows(with_phases(some_measurements(2, held_out=False), [1, 1]))
    assert [[row[3], row[10], row[11]] for row in rows] == [["-", "-", "-"]] * 2
    assert all(math.isfinite(float(cell)) for row in rows for cell in row[:3] + row[4:7] + row[8:10] + row[12:])


def test_only_rows_without_held_out_probes_have_dashes() -> None:
    without, with_held_out = some_measurements(1, held_out=False), some_measurements(2)[1:]
    rows = table_rows(with_phases((*without, *with_held_out), [1, 1]))
    assert ["-" in row for row in rows] == [True, False]


def test_an_empty_history_prints_its_headers() -> None:
    assert "non-generalizable" in str(History())
    assert table_rows(History()) == []


# Phase


def test_a_phase_says_itself_in_one_line() -> None:
    assert str(begun(3, 12, 0.98765, "U grew")) == "phase 3 since epoch 12, confidence 0.9877: U grew"
    assert str(begun(1, 0, math.nan, "begins")) == "phase 1 since epoch 0: begins"
    later = records.Phase(3, 12, 120, 15, 150, 0.98765, "U grew")
    assert str(later) == "phase 3 since epoch 12, called after epoch 15, confidence 0.9877: U grew"
    within = records.Phase(3, 0, 120, 0, 150, 0.98765, "U grew")
    assert str(within) == "phase 3 since step 120, called after step 150, confidence 0.9877: U grew"
    later = dataclasses.replace(begun(2, 4, 0.96, "fell"), called_epoch=7, called_step=70)
    assert str(later) == "phase 2 since epoch 4, called after epoch 7, confidence 0.9600: fell"
