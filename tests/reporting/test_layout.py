import math
import re

from tensorboard.plugins.custom_scalar import metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from lightning_interactions.reporting import phase_layout, scalars
from lightning_interactions.reporting.layout import layout_summary
from tests.helpers.histories import begun
from tests.reporting.test_scalars import some_measurement


def tags_of(name: str | None) -> set[str]:
    prefix = "interactions" if name is None else f"{name}-interactions"
    return {*scalars(some_measurement(), begun(1, 0, math.nan), name), f"{prefix}-diagnostics/overhead"}


def test_every_chart_finds_its_scalars() -> None:
    for name in (None, "teacher", "a.b+c"):
        tags, layout = tags_of(name), phase_layout([name])
        for chart in [chart for category in layout.category for chart in category.chart]:
            for series in chart.margin.series:
                assert {series.value, series.lower, series.upper} <= tags
            for pattern in chart.multiline.tag:
                # As TensorBoard does.
                assert [tag for tag in tags if re.match(pattern, tag)], pattern


def test_the_view_opens_on_share_losses_strength_and_phase() -> None:
    first, second, behind = phase_layout().category
    assert not first.closed
    assert not second.closed
    assert behind.closed
    share, chance = first.chart[0].margin.series
    assert (share.value, share.lower) == ("interactions/share", "interactions-diagnostics/share_low")
    assert (chance.value, chance.lower, chance.upper) == ("interactions/share_chance",) * 3
    tags = tags_of(None)
    lines = [{tag for tag in tags if re.match(chart.multiline.tag[0], tag)} for chart in list(second.chart)[:4]]
    assert lines == [
        {"interactions/loss", "interactions/expected_test_loss", "interactions-heldout/loss"},
        {"interactions/phase"},
        {f"interactions-by-order/generalizable_{order:02d}" for order in (1, 2, 3)},
        {f"interactions-by-order/non_generalizable_{order:02d}" for order in (1, 2, 3)},
    ]


def test_each_monitor_has_its_own_view_and_no_line_of_another_one() -> None:
    names = ("teacher", "student", None)
    layout = phase_layout(names)
    assert len(layout.category) == 9
    assert len({category.title for category in layout.category}) == 9
    tags = set().union(*map(tags_of, names))
    for category in layout.category:
        own = category.title.partition(":")[0]
        for chart in category.chart:
            for pattern in chart.multiline.tag:
                assert all(tag.partition("/")[0].startswith(own) for tag in tags if re.match(pattern, tag))


def test_the_summary_holds_the_layout_under_the_tag_that_tensorboard_reads() -> None:
    layout = phase_layout()
    (value,) = layout_summary(layout).value
    assert value.tag == metadata.CONFIG_SUMMARY_TAG
    assert value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME
    assert Layout.FromString(value.tensor.string_val[0]) == layout
