import dataclasses
import gc
import math
import weakref

import pytest
import torch

from lightning_interactions.analysis import shape_of, summarise, summary
from lightning_interactions.analysis.summary import NUMBERS, SplitSummary, excess_gap_of, mean_order_of, share_of
from lightning_interactions.functional import cancellation, fit_decay_and_spindle, mean_order, strength_by_sign
from lightning_interactions.records import Estimate, Measurement
from tests.helpers.histories import EMPTY_SCORE, NON_SALIENT, history_from_strengths


def some_measurement(*, held_out: bool = True, left_out: bool = False) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    g, u, excess, expected = torch.rand(4, 1, 6, generator=generator, dtype=torch.float64) + 0.5
    if left_out:
        g[0, 1] = torch.nan
    raters = torch.tensor([2.0, -2.0, -1.01, -0.99, 1.0, math.nan])
    (measurement,) = history_from_strengths(
        g, u, excess[:, :4] if held_out else None, expected_test_loss=expected, rater_score=raters, chance=0.3
    )
    return measurement


@pytest.mark.parametrize("left_out", [False, True])
def test_values_are_means_and_ratios_of_means_over_measured_inputs(left_out: bool) -> None:
    measurement = some_measurement(left_out=left_out)
    split, found = measurement.training, summarise(measurement).training
    rows = split.measured
    assert found.left_out == int(left_out)
    g, u, rest = (getattr(split, name)[rows] for name in ("generalizable", "non_generalizable", "non_salient"))
    share = (g.sum() / (g + u).sum()).item()
    salient = split.strength.generalizable[rows] + split.strength.non_generalizable[rows]
    expected = {
        "loss": split.loss[rows].mean(),
        "expected_test_loss": split.expected_test_loss[rows & ~split.disputed].mean(),
        "generalizable": g.mean(),
        "non_generalizable": u.mean(),
        "non_salient": NON_SALIENT,
        "share": share,
        "share_chance": 0.3,
        "share_above_chance": (share - 0.3) / 0.7,
        "mean_order": mean_order(salient),
        "cancellation": cancellation(g + u + rest, torch.full_like(g, EMPTY_SCORE), split.full_score[rows]),
    }
    assert set(expected) == set(NUMBERS)
    for name, number in expected.items():
        assert getattr(found, name).value == pytest.approx(float(number)), name
    for name, strength in vars(found.by_order).items():
        torch.testing.assert_close(strength[0], getattr(split.strength, name)[rows].sum(dim=(1, 2)).mean(dim=0))
    assert split.disputed.tolist() == [False, True, True, False, False, False]


def test_gaps_are_differences_of_mean_losses() -> None:
    measurement = some_measurement(left_out=True)
    found, training, held_out = summarise(measurement), measurement.training, measurement.held_out
    assert held_out is not None
    loss_gap = (held_out.loss.mean() - training.loss.nanmean()).item()
    remaining_gap = (held_out.explained_loss.mean() - training.explained_loss.nanmean()).item()
    assert found.loss_gap.value == pytest.approx(loss_gap)
    assert found.remaining_gap.value == pytest.approx(remaining_gap)
    assert found.excess_gap.value == pytest.approx(loss_gap - remaining_gap)
    assert excess_gap_of(measurement) == found.excess_gap.value


def test_without_held_out_probes_there_are_no_gaps() -> None:
    measurement = some_measurement(held_out=False)
    found = summarise(measurement)
    assert found.held_out is None
    for gap in (found.loss_gap, found.remaining_gap, found.excess_gap):
        assert all(map(math.isnan, dataclasses.astuple(gap)))
    assert math.isnan(excess_gap_of(measurement))


def test_quick_values_are_those_of_the_summary() -> None:
    measurement = some_measurement(left_out=True)
    split, found = measurement.training, summarise(measurement).training
    assert share_of(split) == pytest.approx(found.share.value)
    assert mean_order_of(split) == pytest.approx(found.mean_order.value)
    assert mean_order_of(split.condensed()) == pytest.approx(found.mean_order.value)


def test_every_number_of_a_split_is_an_estimate() -> None:
    found = summarise(some_measurement()).training
    names = {field.name for field in dataclasses.fields(SplitSummary)} - {"by_order", "left_out"}
    assert names == set(NUMBERS)
    assert {type(getattr(found, name)) for name in names} == {Estimate}
    for name in names:
        estimate = getattr(found, name)
        assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12, name


# Once each


def test_a_measurement_is_summarised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = some_measurement(), some_measurement()
    found = summarise(first)
    assert summarise(other) is not found
    monkeypatch.setattr(summary, "bootstrap_intervals", None)
    assert summarise(first) is found


def test_summaries_do_not_keep_measurements_alive() -> None:
    measurement = some_measurement()
    summarise(measurement), shape_of(measurement)
    alive = weakref.ref(measurement)
    del measurement
    gc.collect()
    assert alive() is None


def test_a_shape_is_fitted_once_and_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = some_measurement()
    fits = []
    monkeypatch.setattr(
        summary, "fit_decay_and_spindle", lambda strength: fits.append(strength) or fit_decay_and_spindle(strength)
    )
    summarise(measurement)
    assert not fits
    shape = shape_of(measurement)
    assert shape_of(measurement) is shape
    assert len(fits) == 1
    assert shape is not None
    expected = fit_decay_and_spindle(strength_by_sign(measurement.training.strength))
    torch.testing.assert_close(shape.decay, expected.decay)
    torch.testing.assert_close(shape.spindle, expected.spindle)


def test_where_nothing_is_measured_there_is_no_shape() -> None:
    nothing = torch.full((1, 3), torch.nan)
    (measurement,) = history_from_strengths(nothing, nothing)
    assert shape_of(measurement) is None
