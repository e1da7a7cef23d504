import math
from dataclasses import replace

import pytest
import torch
from tensorboard.plugins.custom_scalar import metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Layout

from lightning_interactions.records import OrderStrength
from lightning_interactions.reporting import phase_layout, scalars
from lightning_interactions.reporting.layout import MARKERS, held_axes, layout_summary
from tests.helpers.histories import begun
from tests.helpers.run_records import some_history
from tests.reporting.test_scalars import some_measurement


def tags_of(name: str | None) -> set[str]:
    prefix = "interactions" if name is None else f"{name}-interactions"
    logged = scalars(some_measurement(), begun(1, 0, math.nan), name)
    return {*logged, *held_axes(name), f"{prefix}-diagnostics/overhead"}


def tags_in(category: Category) -> list[list[str]]:
    """The lines of each chart, from the last one on, which TensorBoard shows first."""
    return [[series.value for series in chart.margin.series] for chart in reversed(category.chart)]


def test_every_chart_finds_its_scalars() -> None:
    names = (None, "teacher", "a.b+c")
    tags = set().union(*map(tags_of, names))
    for chart in [
        chart for category in phase_layout(dict.fromkeys(names, some_history())).category for chart in category.chart
    ]:
        assert len(chart.margin.series)
        for series in chart.margin.series:
            assert {series.value, series.lower, series.upper} <= tags


def test_the_view_opens_on_phase_share_and_losses() -> None:
    view, by_order, behind = phase_layout({None: some_history()}).category
    assert [category.closed for category in (view, by_order, behind)] == [False, False, True]
    assert tags_in(view) == [
        ["interactions/phase", "interactions-layout/three"],
        ["interactions/share", "interactions/share_chance", "interactions-layout/one"],
        ["interactions/expected_test_loss"],
        ["interactions-heldout/loss"],
        ["interactions/excess_gap"],
    ]
    phase, share, *losses, gap = [chart.margin.series[0] for chart in reversed(view.chart)]
    assert (phase.lower, phase.upper) == ("interactions-layout/one", "interactions/phase")
    assert (share.lower, share.upper) == ("interactions-diagnostics/share_low", "interactions-diagnostics/share_high")
    assert (gap.lower, gap.upper) == ("interactions-diagnostics/excess_gap_low", "interactions-diagnostics/excess_gap_high")
    assert {loss.lower for loss in losses} == {"interactions/loss"}


@pytest.mark.parametrize(
    ("orders", "expected"), [(1, [[1]]), (3, [[1, 2], [3]]), (5, [[1, 2], [3, 4, 5]]), (7, [[1, 2], [3, 4, 5], [6, 7]])]
)
def test_charts_hold_the_orders_that_there_are(orders: int, expected: list[list[int]]) -> None:
    history, strength = some_history((1,)), torch.ones(2, 2, 2, orders + 1, dtype=torch.float64)
    (measurement,) = history.measurements
    training = replace(measurement.training, strength=OrderStrength(strength, strength, strength))
    history = replace(history, measurements=(replace(measurement, training=training),))
    _, by_order, _ = phase_layout({None: history}).category
    for kind, charts in (("generalizable", tags_in(by_order)[::2]), ("non_generalizable", tags_in(by_order)[1::2])):
        assert charts == [[f"interactions-by-order/{kind}_{order:02d}" for order in own] for own in expected]


def test_titles_name_the_unit_of_the_loss_and_the_marker_of_each_line() -> None:
    history = replace(some_history(), settings={"loss_unit": "target units²"})
    for category in phase_layout({None: history}).category:
        for chart in category.chart:
            assert ("loss" in chart.title.lower()) == ("target units²" in chart.title)
            number = len(chart.margin.series)
            assert number == 1 or [sign for sign in chart.title if sign in MARKERS] == list(MARKERS[:number])


def test_rare_values_are_no_outliers_beside_the_ends_of_their_axes() -> None:
    """As TensorBoard does: the highest of the values of a chart within its 5 % and 95 % quantiles are shown."""
    ends, measurements = held_axes(None), 200
    phases = [1.0] * (measurements - 1) + [3.0]
    values = [
        *phases,
        *phases,
        *[ends["interactions-layout/one"]] * measurements,
        *[ends["interactions-layout/three"]] * 3 * measurements,
    ]
    low, high = torch.tensor(values).quantile(torch.tensor([0.05, 0.95])).tolist()
    assert (low, high) == (1, 3)


def test_each_monitor_has_its_own_view_and_no_line_of_another_one() -> None:
    layout = phase_layout(dict.fromkeys(("teacher", "student", None), some_history()))
    assert len(layout.category) == 9
    assert len({category.title for category in layout.category}) == 9
    for category in layout.category:
        own = category.title.partition(":")[0]
        for chart in category.chart:
            for series in chart.margin.series:
                assert all(tag.partition("/")[0].startswith(own) for tag in (series.value, series.lower, series.upper))


def test_the_summary_holds_the_layout_under_the_tag_that_tensorboard_reads() -> None:
    layout = phase_layout({None: some_history()})
    (value,) = layout_summary(layout).value
    assert value.tag == metadata.CONFIG_SUMMARY_TAG
    assert value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME
    assert Layout.FromString(value.tensor.string_val[0]) == layout
