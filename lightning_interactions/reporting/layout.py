"""The page of TensorBoard's custom scalars that a run is read by."""

import itertools
from collections.abc import Mapping

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MarginChartContent

from lightning_interactions.records import History
from lightning_interactions.reporting.scalars import BY_ORDER, DIAGNOSTICS, HELD_OUT, tag_prefix

__all__ = ["held_axes", "layout_summary", "phase_layout"]

HELD = "layout"
"""Group of scalars that hold TensorBoard's axes."""

ENDS = {"one": 1.0, "three": 3.0}

BEGINS = (1, 3, 6)
"""Orders that a chart begins with."""

MARKERS = ("◼", "◆", "▲", "★", "✚")
"""What TensorBoard tells the lines of a chart apart by, in their order."""


def phase_layout(histories: Mapping[str | None, History]) -> Layout:
    """Lay out TensorBoard's page "Custom Scalars": the phase view of each monitor first, then what is behind it.

    All lines of a run have one colour there, so a chart has one line where it can, and else a title with the markers of its
    lines. Charts with margins are not smoothed, and with the ends of :func:`held_axes` they are not cut off.

    Args:
        histories: Of the monitors that log to one run, by their names; each with at least one measurement.

    Returns:
        A layout. A run has one: TensorBoard reads the last that was written to it.
    """
    views = [view for name, history in histories.items() for view in _views(tag_prefix(name), history)]
    return Layout(category=[*views, *(_behind(tag_prefix(name)) for name in histories)])


def held_axes(name: str | None) -> dict[str, float]:
    """List the scalars that charts need beside those of a measurement, at the step of each: the ends of their axes.

    TensorBoard takes values that are rare for outliers, and leaves them out of the axis: phase 3, or the peak of a share.

    Args:
        name: Name of the monitor.
    """
    return {f"{tag_prefix(name)}-{HELD}/{end}": value for end, value in ENDS.items()}


def layout_summary(layout: Layout) -> Summary:
    """Make of a layout what a writer of TensorBoard's event files takes; TensorBoard's own function needs TensorFlow."""
    content = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=content, metadata=metadata.create_summary_metadata())
    return Summary(value=[value])


def _views(prefix: str, history: History) -> tuple[Category, Category]:
    orders = history.measurements[0].training.strength.generalizable.shape[-1] - 1
    return _phase_view(prefix, str(history.settings.get("loss_unit", "loss units"))), _by_order(prefix, orders)


def _phase_view(prefix: str, unit: str) -> Category:
    further, loss = f"{prefix}-{DIAGNOSTICS}", f"{prefix}/loss"
    share, chance, phase = f"{prefix}/share", f"{prefix}/share_chance", f"{prefix}/phase"
    expected, of_held_out, gap = f"{prefix}/expected_test_loss", f"{prefix}-{HELD_OUT}/loss", f"{prefix}/excess_gap"
    one, three = (f"{prefix}-{HELD}/{end}" for end in ENDS)
    first, second, third, *_ = MARKERS
    return _category(
        f"{prefix}: phase view, over optimizer steps",
        _chart(f"Phase that was detected {first} (1, 2 or 3), and where phase 3 is {second}", (phase, one, phase), three),
        _chart(
            f"Share of generalizable strength {first} (shaded: 95 % interval), its chance level {second}, all of it {third}",
            (share, f"{further}/share_low", f"{further}/share_high"),
            chance,
            one,
        ),
        _chart(f"Expected test loss, {unit} (other edge of the shading: loss on training probes)", (expected, loss, expected)),
        _chart(
            f"Loss on held-out probes, {unit} (other edge of the shading: loss on training probes)",
            (of_held_out, loss, of_held_out),
        ),
        _chart(
            f"Excess gap, {unit}: what memorised interactions add to the loss gap (shaded: 95 % interval)",
            (gap, f"{further}/excess_gap_low", f"{further}/excess_gap_high"),
        ),
    )


def _by_order(prefix: str, orders: int) -> Category:
    """Few orders a chart, whose markers tell them apart; a row of two kinds for each."""
    charts = []
    for begin, end in itertools.pairwise((*(order for order in BEGINS if order <= orders), orders + 1)):
        marked = ", ".join(
            f"{order} {marker}" for order, marker in zip(range(begin, end), itertools.cycle(MARKERS), strict=False)
        )
        for kind, title in (("generalizable", "Generalizable"), ("non_generalizable", "Non-generalizable")):
            tags = [f"{prefix}-{BY_ORDER}/{kind}_{order:02d}" for order in range(begin, end)]
            charts.append(_chart(f"{title} strength of order {marked}", *tags))
    return _category(f"{prefix}: strength by order (score units), over optimizer steps", *charts)


def _behind(prefix: str) -> Category:
    further, held_out = f"{prefix}-{DIAGNOSTICS}", f"{prefix}-{HELD_OUT}"
    first, second, third, *_ = MARKERS
    category = _category(
        f"{prefix}: behind it",
        _chart(
            f"Strength of generalizable {first} and non-generalizable interactions {second}, score units",
            f"{prefix}/generalizable",
            f"{prefix}/non_generalizable",
        ),
        _chart(
            f"Mean order on training {first} and held-out probes {second}", f"{prefix}/mean_order", f"{held_out}/mean_order"
        ),
        _chart("Part of the wall time that measuring took", f"{further}/overhead"),
        _chart(
            f"Share on held-out probes {first} (shaded: 95 % interval), its chance level {second}, all of it {third}",
            (f"{held_out}/share", f"{held_out}/share_low", f"{held_out}/share_high"),
            f"{held_out}/share_chance",
            f"{prefix}-{HELD}/one",
        ),
    )
    category.closed = True
    return category


def _category(title: str, *charts: Chart) -> Category:
    # TensorBoard shows charts with margins from the last to the first.
    return Category(title=title, chart=charts[::-1])


def _chart(title: str, *series: tuple[str, str, str] | str) -> Chart:
    """Draw tags as lines in the order of :data:`MARKERS`, each with the tags of its lower and upper margin, if it has some."""
    drawn = [(tag, tag, tag) if isinstance(tag, str) else tag for tag in series]
    content = [MarginChartContent.Series(value=value, lower=lower, upper=upper) for value, lower, upper in drawn]
    return Chart(title=title, margin=MarginChartContent(series=content))
