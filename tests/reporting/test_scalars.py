import math
import re

import pytest
import torch

from lightning_interactions.analysis import shape_of, summarise
from lightning_interactions.records import Measurement
from lightning_interactions.reporting import scalars, tag_prefix
from tests.helpers.histories import begun, history_from_strengths

NUMBERS = ("loss", "expected_test_loss", "share", "share_chance", "share_above_chance", "mean_order", "cancellation")
KINDS = ("generalizable", "non_generalizable", "non_salient")
OF_SPLIT = {
    *NUMBERS,
    *("share_low", "share_high", "left_out"),
    *(f"{kind}/{name}" for kind in KINDS for name in ("order_01", "order_02", "order_03", "total")),
}
OF_GAPS = {"loss_gap", "remaining_gap", "excess_gap", "excess_gap_low", "excess_gap_high"}
OF_MEASUREMENT = {"decay_share", "decay_spindle_fit", "phase", "seconds"}


def some_measurement(*, held_out: bool = True) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    g, u, excess, expected = torch.rand(4, 1, 6, generator=generator, dtype=torch.float64) + 0.5
    g[0, 2] = torch.nan
    (measurement,) = history_from_strengths(g, u, excess[:, :4] if held_out else None, expected_test_loss=expected, chance=0.3)
    return measurement


def test_the_tags_are_these() -> None:
    found = scalars(some_measurement(), begun(2, 0, 0.99))
    expected = OF_SPLIT | {f"heldout/{tag}" for tag in OF_SPLIT} | OF_GAPS | OF_MEASUREMENT
    assert set(found) == {f"interactions/{tag}" for tag in expected}
    assert {type(number) for number in found.values()} == {float}


def test_without_held_out_probes_their_tags_are_left_out() -> None:
    found = scalars(some_measurement(held_out=False), begun(1, 0, math.nan))
    assert set(found) == {f"interactions/{tag}" for tag in OF_SPLIT | OF_MEASUREMENT}


def test_where_nothing_was_measured_there_is_no_shape() -> None:
    nothing = torch.full((1, 3), torch.nan)
    (measurement,) = history_from_strengths(nothing, nothing)
    found = scalars(measurement, begun(1, 0, math.nan))
    assert set(found) == {f"interactions/{tag}" for tag in OF_SPLIT | {"phase", "seconds"}}
    assert math.isnan(found["interactions/share"])
    assert found["interactions/left_out"] == 3


def test_scalars_are_the_numbers_of_the_summary() -> None:
    measurement = some_measurement()
    found, summary, shape = scalars(measurement, begun(2, 0, 0.99)), summarise(measurement), shape_of(measurement)
    assert shape is not None
    assert summary.held_out is not None
    for prefix, split in (("interactions", summary.training), ("interactions/heldout", summary.held_out)):
        for name in NUMBERS:
            assert found[f"{prefix}/{name}"] == getattr(split, name).value
        for kind in KINDS:
            by_order = [found[f"{prefix}/{kind}/order_{order:02d}"] for order in (1, 2, 3)]
            assert by_order == getattr(split.by_order, kind)[0, 1:].tolist()
            assert sum(by_order) == pytest.approx(found[f"{prefix}/{kind}/total"])
        assert (found[f"{prefix}/share_low"], found[f"{prefix}/share_high"]) == (split.share.low, split.share.high)
        assert found[f"{prefix}/left_out"] == split.left_out
    for name in ("loss_gap", "remaining_gap", "excess_gap"):
        assert found[f"interactions/{name}"] == getattr(summary, name).value
    ends = found["interactions/excess_gap_low"], found["interactions/excess_gap_high"]
    assert ends == (summary.excess_gap.low, summary.excess_gap.high)
    assert (found["interactions/decay_share"], found["interactions/decay_spindle_fit"]) == (shape.share, shape.r_squared)
    assert (found["interactions/phase"], found["interactions/seconds"]) == (2.0, 0.5)


def test_a_name_stands_before_every_tag() -> None:
    assert tag_prefix(None) == "interactions"
    assert tag_prefix("teacher") == "teacher/interactions"
    measurement, phase = some_measurement(), begun(1, 0, math.nan)
    named = scalars(measurement, phase, "teacher")
    assert list(named) == [f"teacher/{tag}" for tag in scalars(measurement, phase)]


def test_every_tag_is_in_the_table_of_the_docstring() -> None:
    documented = set(re.findall(r"``([a-zA-Z_/]+)``", scalars.__doc__ or ""))
    tags = {re.sub(r"order_\d\d", "order_MM", tag) for tag in OF_SPLIT | OF_GAPS | OF_MEASUREMENT}
    assert tags <= documented
