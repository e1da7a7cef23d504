"""The page of TensorBoard's custom scalars that a run is read by."""

import re
from collections.abc import Sequence

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MarginChartContent, MultilineChartContent

from lightning_interactions.reporting.scalars import BY_ORDER, DIAGNOSTICS, HELD_OUT, tag_prefix

__all__ = ["layout_summary", "phase_layout"]


def phase_layout(names: Sequence[str | None] = (None,)) -> Layout:
    """Lay out TensorBoard's page "Custom Scalars": the phase view of each monitor first, then what is behind it.

    TensorBoard moves the first chart with margins of a category behind all others: so such a chart is alone, or the last.

    Args:
        names: Names of the monitors that log to one run.

    Returns:
        A layout. A run has one: TensorBoard reads the last that was written to it.
    """
    prefixes = [tag_prefix(name) for name in names]
    views = [view for prefix in prefixes for view in (_share(prefix), _losses_and_strength(prefix))]
    return Layout(category=[*views, *map(_behind, prefixes)])


def layout_summary(layout: Layout) -> Summary:
    """Make of a layout what a writer of TensorBoard's event files takes; TensorBoard's own function needs TensorFlow."""
    content = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=content, metadata=metadata.create_summary_metadata())
    return Summary(value=[value])


def _share(prefix: str) -> Category:
    further, share, chance = f"{prefix}-{DIAGNOSTICS}", f"{prefix}/share", f"{prefix}/share_chance"
    title = "Share of generalizable strength, 95 % interval, and chance level"
    margins = _margins(title, (share, f"{further}/share_low", f"{further}/share_high"), (chance, chance, chance))
    return Category(title=f"{prefix}: what part of the strength generalizes", chart=[margins])


def _losses_and_strength(prefix: str) -> Category:
    further, by_order, gap = f"{prefix}-{DIAGNOSTICS}", re.escape(f"{prefix}-{BY_ORDER}"), f"{prefix}/excess_gap"
    losses = (f"{prefix}/loss", f"{prefix}/expected_test_loss", f"{prefix}-{HELD_OUT}/loss")
    return Category(
        title=f"{prefix}: losses, phase and strength",
        chart=[
            _lines("Loss on training and held-out probes, and the expected test loss", _exactly(*losses)),
            _lines("Phase that was detected", _exactly(f"{prefix}/phase")),
            _lines("Strength of generalizable interactions by order", f"^{by_order}/generalizable_"),
            _lines("Strength of non-generalizable interactions by order", f"^{by_order}/non_generalizable_"),
            _margins(
                "Excess gap: what memorised interactions add to the loss gap, 95 % interval",
                (gap, f"{further}/excess_gap_low", f"{further}/excess_gap_high"),
            ),
        ],
    )


def _behind(prefix: str) -> Category:
    further, held_out = f"{prefix}-{DIAGNOSTICS}", f"{prefix}-{HELD_OUT}"
    chance = f"{held_out}/share_chance"
    return Category(
        title=f"{prefix}: behind it",
        chart=[
            _lines("Strength of both kinds", _exactly(f"{prefix}/generalizable", f"{prefix}/non_generalizable")),
            _lines("Mean order", _exactly(f"{prefix}/mean_order", f"{held_out}/mean_order")),
            _lines("Part of the wall time that measuring took", _exactly(f"{further}/overhead")),
            _margins(
                "Share on held-out probes, 95 % interval, and chance level",
                (f"{held_out}/share", f"{held_out}/share_low", f"{held_out}/share_high"),
                (chance, chance, chance),
            ),
        ],
        closed=True,
    )


def _margins(title: str, *series: tuple[str, str, str]) -> Chart:
    drawn = [MarginChartContent.Series(value=value, lower=lower, upper=upper) for value, lower, upper in series]
    return Chart(title=title, margin=MarginChartContent(series=drawn))


def _lines(title: str, pattern: str) -> Chart:
    return Chart(title=title, multiline=MultilineChartContent(tag=[pattern]))


def _exactly(*tags: str) -> str:
    """Write a regular expression, which TensorBoard asks for, that fits these tags alone."""
    return f"^({'|'.join(map(re.escape, tags))})$"
