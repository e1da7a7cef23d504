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

    Args:
        names: Names of the monitors that log to one run.

    Returns:
        A layout. A run has one: TensorBoard reads the last that was written to it.
    """
    views = [_phase_view(tag_prefix(name)) for name in names]
    behind = [_behind(tag_prefix(name)) for name in names]
    return Layout(category=[*views, *behind])


def layout_summary(layout: Layout) -> Summary:
    """Make of a layout what a writer of TensorBoard's event files takes; TensorBoard's own function needs TensorFlow."""
    content = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=content, metadata=metadata.create_summary_metadata())
    return Summary(value=[value])


def _phase_view(prefix: str) -> Category:
    further, by_order = f"{prefix}_{DIAGNOSTICS}", f"{prefix}_{BY_ORDER}"
    share, chance = f"{prefix}/share", f"{prefix}/share_chance"
    return Category(
        title=f"{prefix}: phase view",
        chart=[
            _margins(
                "Share of generalizable strength, with 95 % interval, and chance level",
                (share, f"{further}/share_low", f"{further}/share_high"),
                (chance, chance, chance),
            ),
            _lines(
                "Loss: training probes, held-out probes, and the expected test loss",
                _exactly(f"{prefix}/loss", f"{prefix}/expected_test_loss", f"{prefix}_{HELD_OUT}/loss"),
            ),
            _lines("Phase that was detected", _exactly(f"{prefix}/phase")),
            _lines("Strength of generalizable interactions, by order", f"^{re.escape(by_order)}/generalizable_"),
            _lines("Strength of non-generalizable interactions, by order", f"^{re.escape(by_order)}/non_generalizable_"),
            _lines("Strength of both kinds", _exactly(f"{prefix}/generalizable", f"{prefix}/non_generalizable")),
        ],
    )


def _behind(prefix: str) -> Category:
    further, held_out = f"{prefix}_{DIAGNOSTICS}", f"{prefix}_{HELD_OUT}"
    gap, chance = f"{prefix}/excess_gap", f"{held_out}/share_chance"
    return Category(
        title=f"{prefix}: behind it",
        chart=[
            _margins("Excess gap, with 95 % interval", (gap, f"{further}/excess_gap_low", f"{further}/excess_gap_high")),
            _margins(
                "Share on held-out probes, with 95 % interval, and chance level",
                (f"{held_out}/share", f"{held_out}/share_low", f"{held_out}/share_high"),
                (chance, chance, chance),
            ),
            _lines("Mean order", _exactly(f"{prefix}/mean_order", f"{held_out}/mean_order")),
            _lines("Part of the wall time that measuring took", _exactly(f"{further}/overhead")),
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
