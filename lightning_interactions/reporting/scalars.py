"""Measurements as scalars for loggers."""

import dataclasses

from lightning_interactions.analysis import SplitSummary, shape_of, summarise
from lightning_interactions.records import Estimate, Measurement, Phase

__all__ = ["scalars", "tag_prefix"]

NUMBERS = (
    "loss",
    "expected_test_loss",
    "share",
    "share_chance",
    "share_above_chance",
    "mean_order",
    "cancellation",
)
"""Estimates of a split that are logged by their names."""


def scalars(measurement: Measurement, phase: Phase, name: str | None = None, *, shape: bool = True) -> dict[str, float]:
    """List the scalars of one measurement under their tags.

    | Tag | What | Unit |
    | --- | --- | --- |
    | ``generalizable/order_MM`` | strength of the generalizable interactions of order MM, from 01 on | score units |
    | ``generalizable/total`` | the same of all orders | score units |
    | ``non_generalizable/order_MM``, ``non_generalizable/total`` | strength of the other salient ones | score units |
    | ``non_salient/order_MM``, ``non_salient/total`` | strength of what is not salient | score units |
    | ``loss`` | mean loss on the probes | loss units |
    | ``expected_test_loss`` | mean loss expected if the network were not trained on them | loss units |
    | ``share``, ``share_low``, ``share_high`` | generalizable part of the salient strength, and its interval | in [0, 1] |
    | ``share_chance`` | the same share by chance | in [0, 1] |
    | ``share_above_chance`` | the share with its chance level at 0 | up to 1 |
    | ``mean_order`` | mean order of the salient interactions | players |
    | ``cancellation`` | strength over the score that it nets | from 1 on |
    | ``left_out`` | inputs that could not be measured | inputs |
    | ``heldout/…`` | all of the above on the held-out probes | |
    | ``loss_gap`` | held-out minus training loss | loss units |
    | ``remaining_gap`` | the gap without the non-generalizable interactions | loss units |
    | ``excess_gap``, ``excess_gap_low``, ``excess_gap_high`` | what they add, and its interval | loss units |
    | ``decay_share`` | the decay's part of the strength by order | in [0, 1] |
    | ``decay_spindle_fit`` | how well decay and spindle explain it, R² | up to 1 |
    | ``phase`` | the phase that was detected | 1, 2 or 3 |
    | ``seconds`` | wall-clock time of the measurement | seconds |
    | ``overhead`` | part of the wall time that measuring took so far, added by the monitor | in [0, 1] |

    Held-out probes and gaps are left out where there are none, decay and spindle where nothing was measured. All tags begin
    with :func:`tag_prefix`. Intervals are 95 %, over the draw of probes.

    Args:
        measurement: What was measured.
        phase: The phase detected at it.
        name: Name of the monitor, put before every tag.
        shape: Whether to fit decay and spindle, which takes longer than all the rest.

    Returns:
        Tags and numbers; a number that does not exist is NaN.
    """
    prefix = tag_prefix(name)
    summary, fitted = summarise(measurement), shape_of(measurement) if shape else None
    tags = _of_split(prefix, summary.training)
    if summary.held_out is not None:
        tags |= _of_split(f"{prefix}/heldout", summary.held_out)
        for gap in ("loss_gap", "remaining_gap", "excess_gap"):
            tags[f"{prefix}/{gap}"] = getattr(summary, gap).value
        tags |= _ends(f"{prefix}/excess_gap", summary.excess_gap)
    if fitted is not None:
        tags[f"{prefix}/decay_share"] = fitted.share
        tags[f"{prefix}/decay_spindle_fit"] = fitted.r_squared
    tags[f"{prefix}/phase"] = float(phase.number)
    tags[f"{prefix}/seconds"] = measurement.seconds
    return tags


def tag_prefix(name: str | None) -> str:
    """Return what stands before every tag of a monitor: ``"interactions"``, and its name before that if it has one."""
    return "interactions" if name is None else f"{name}/interactions"


def _of_split(prefix: str, summary: SplitSummary) -> dict[str, float]:
    tags: dict[str, float] = {}
    for field in dataclasses.fields(summary.by_order):
        by_order = getattr(summary.by_order, field.name)[0].tolist()
        tags |= {f"{prefix}/{field.name}/order_{order:02d}": by_order[order] for order in range(1, len(by_order))}
        tags[f"{prefix}/{field.name}/total"] = getattr(summary, field.name).value
    tags |= {f"{prefix}/{number}": getattr(summary, number).value for number in NUMBERS}
    tags[f"{prefix}/left_out"] = float(summary.left_out)
    return tags | _ends(f"{prefix}/share", summary.share)


def _ends(tag: str, estimate: Estimate) -> dict[str, float]:
    return {f"{tag}_low": estimate.low, f"{tag}_high": estimate.high}
