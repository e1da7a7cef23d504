import math
import re

import pytest
import torch

from lightning_interactions.analysis import shape_of, summarise
from lightning_interactions.records import Measurement
from lightning_interactions.reporting import scalars, tag_prefix
from tests.helpers.histories import begun, history_from_strengths

KINDS = ("generalizable", "non_generalizable")
FIRST = (*KINDS, "share", "share_chance", "loss", "expected_test_loss", "mean_order")
FURTHER = ("share_above_chance", "non_salient", "cancellation")
OF_HELD_OUT = (*KINDS, "share", "share_chance", "loss", "mean_order")
OF_TRAINING = {
    *(f"interactions/{name}" for name in ("phase", *FIRST)),
    *(f"interactions-by-order/{kind}_{order}" for kind in KINDS for order in ("01", "02", "03")),
    *(f"interactions-diagnostics/{name}" for name in (*FURTHER, "share_low", "share_high", "left_out", "seconds")),
}
OF_SHAPE = {"interactions-diagnostics/decay_share", "interactions-diagnostics/decay_spindle_fit"}
WITH_HELD_OUT = {
    *("interactions/loss_gap", "interactions/excess_gap"),
    *(f"interactions-diagnostics/{name}" for name in ("remaining_gap", "excess_gap_low", "excess_gap_high")),
    *(f"interactions-heldout/{name}" for name in (*OF_HELD_OUT, "share_low", "share_high", "left_out")),
}


def some_measurement(*, held_out: bool = True) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    g, u, excess, expected = torch.rand(4, 1, 6, generator=generator, dtype=torch.float64) + 0.5
    g[0, 2] = torch.nan
    (measurement,) = history_from_strengths(g, u, excess[:, :4] if held_out else None, expected_test_loss=expected, chance=0.3)
    return measurement


def test_the_tags_are_these() -> None:
    found = scalars(some_measurement(), begun(2, 0, 0.99))
    assert set(found) == OF_TRAINING | OF_SHAPE | WITH_HELD_OUT
    assert {type(number) for number in found.values()} == {float}


def test_the_first_group_holds_ten_scalars() -> None:
    found = scalars(some_measurement(), begun(2, 0, 0.99))
    assert len([tag for tag in found if tag.split("/")[0] == "interactions"]) == 10


def test_without_held_out_probes_their_tags_are_left_out() -> None:
    found = scalars(some_measurement(held_out=False), begun(1, 0, math.nan))
    assert set(found) == OF_TRAINING | OF_SHAPE


def test_where_nothing_was_measured_there_is_no_shape() -> None:
    nothing = torch.full((1, 3), torch.nan)
    (measurement,) = history_from_strengths(nothing, nothing)
    found = scalars(measurement, begun(1, 0, math.nan))
    assert set(found) == OF_TRAINING
    assert math.isnan(found["interactions/share"])
    assert found["interactions-diagnostics/left_out"] == 3


def test_scalars_are_the_numbers_of_the_summary() -> None:
    measurement = some_measurement()
    found, summary, shape = scalars(measurement, begun(2, 0, 0.99)), summarise(measurement), shape_of(measurement)
    assert shape is not None
    assert summary.held_out is not None
    for group, split, names in (
        ("interactions", summary.training, FIRST),
        ("interactions-diagnostics", summary.training, FURTHER),
        ("interactions-heldout", summary.held_out, OF_HELD_OUT),
    ):
        for name in names:
            assert found[f"{group}/{name}"] == getattr(split, name).value
    for kind in KINDS:
        by_order = [found[f"interactions-by-order/{kind}_{order:02d}"] for order in (1, 2, 3)]
        assert by_order == getattr(summary.training.by_order, kind)[0, 1:].tolist()
        assert sum(by_order) == pytest.approx(found[f"interactions/{kind}"])
    for group, split in (("interactions-diagnostics", summary.training), ("interactions-heldout", summary.held_out)):
        assert (found[f"{group}/share_low"], found[f"{group}/share_high"]) == (split.share.low, split.share.high)
        assert found[f"{group}/left_out"] == split.left_out
    gaps = {"interactions/loss_gap", "interactions-diagnostics/remaining_gap", "interactions/excess_gap"}
    assert {found[tag] for tag in gaps} == {getattr(summary, tag.split("/")[1]).value for tag in gaps}
    ends = tuple(found[f"interactions-diagnostics/excess_gap_{end}"] for end in ("low", "high"))
    assert ends == (summary.excess_gap.low, summary.excess_gap.high)
    assert tuple(found[f"interactions-diagnostics/decay_{name}"] for name in ("share", "spindle_fit")) == (
        shape.share,
        shape.r_squared,
    )
    assert (found["interactions/phase"], found["interactions-diagnostics/seconds"]) == (2.0, 0.5)


def test_a_name_stands_before_every_group() -> None:
    assert tag_prefix(None) == "interactions"
    assert tag_prefix("teacher") == "teacher-interactions"
    measurement, phase = some_measurement(), begun(1, 0, math.nan)
    named = scalars(measurement, phase, "teacher")
    assert list(named) == [f"teacher-{tag}" for tag in scalars(measurement, phase)]


def test_every_tag_is_in_the_table_of_the_docstring() -> None:
    documented, group = set(), ""
    for tag in re.findall(r"``([a-zA-Z_/…-]+)``", scalars.__doc__ or ""):
        group = tag.split("/")[0] if not tag.startswith("…") else group
        documented.add(tag.replace("…", group))
    tags = {re.sub(r"_0\d$", "_MM", tag) for tag in OF_TRAINING | OF_SHAPE | WITH_HELD_OUT}
    assert tags == {tag for tag in documented if "/" in tag} - {"interactions-diagnostics/overhead"}
