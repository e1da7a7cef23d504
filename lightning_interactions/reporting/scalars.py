"""Measurements as scalars for loggers."""

from lightning_interactions.analysis import SplitSummary, shape_of, summarise
from lightning_interactions.records import Estimate, Measurement, Phase

__all__ = ["BY_ORDER", "DIAGNOSTICS", "HELD_OUT", "scalars", "tag_prefix"]

BY_ORDER, HELD_OUT, DIAGNOSTICS = "by-order", "heldout", "diagnostics"
"""Groups of tags besides the ten that matter first, which a hyphen puts behind these: TensorBoard sorts "_" as it does "/"."""

KINDS = ("generalizable", "non_generalizable")
"""Kinds of salient interactions."""

FIRST = (*KINDS, "share", "share_chance", "loss", "expected_test_loss", "mean_order")
"""Estimates of the training probes in the first group, by their names."""

FURTHER = ("share_above_chance", "non_salient", "cancellation")
"""Estimates of the training probes among the diagnostics."""

OF_HELD_OUT = (*KINDS, "share", "share_chance", "loss", "mean_order")
"""Estimates of the held-out probes."""


def scalars(measurement: Measurement, phase: Phase, name: str | None = None, *, shape: bool = True) -> dict[str, float]:
    """List the scalars of one measurement under their tags.

    TensorBoard makes a group of all tags that are equal up to the first slash, and sorts by name. The first group,
    ``interactions``, is what matters first:

    | Tag | What | Unit |
    | --- | --- | --- |
    | ``interactions/phase`` | the phase that was detected | 1, 2 or 3 |
    | ``interactions/share`` | generalizable part of the salient strength | in [0, 1] |
    | ``interactions/share_chance`` | the same share by chance | in [0, 1] |
    | ``interactions/loss`` | mean loss on the training probes | loss units |
    | ``interactions/expected_test_loss`` | mean loss expected if the network were not trained on them | loss units |
    | ``interactions/loss_gap`` | held-out minus training loss | loss units |
    | ``interactions/excess_gap`` | what the non-generalizable interactions add to it | loss units |
    | ``interactions/generalizable`` | strength of the generalizable interactions | score units |
    | ``interactions/non_generalizable`` | strength of the other salient ones | score units |
    | ``interactions/mean_order`` | mean order of the salient interactions | players |
    | ``interactions-by-order/generalizable_MM`` | strength of the generalizable ones of order MM, from 01 on | score units |
    | ``interactions-by-order/non_generalizable_MM`` | the same of the other salient ones | score units |
    | ``interactions-heldout/share``, ``…/share_low``, ``…/share_high``, ``…/share_chance`` | of held-out probes | in [0, 1] |
    | ``interactions-heldout/generalizable``, ``…/non_generalizable`` | the same | score units |
    | ``interactions-heldout/loss``, ``…/mean_order``, ``…/left_out`` | the same | as above |
    | ``interactions-diagnostics/share_low``, ``…/share_high`` | interval of the share | in [0, 1] |
    | ``interactions-diagnostics/share_above_chance`` | the share with its chance level at 0 | up to 1 |
    | ``interactions-diagnostics/excess_gap_low``, ``…/excess_gap_high`` | interval of the excess gap | loss units |
    | ``interactions-diagnostics/remaining_gap`` | the gap without the non-generalizable interactions | loss units |
    | ``interactions-diagnostics/non_salient`` | strength of what is not salient | score units |
    | ``interactions-diagnostics/cancellation`` | strength over the score that it nets | from 1 on |
    | ``interactions-diagnostics/decay_share`` | the decay's part of the strength by order | in [0, 1] |
    | ``interactions-diagnostics/decay_spindle_fit`` | how well decay and spindle explain it, R² | up to 1 |
    | ``interactions-diagnostics/left_out`` | training probes that could not be measured | inputs |
    | ``interactions-diagnostics/seconds`` | wall-clock time of the measurement | seconds |
    | ``interactions-diagnostics/overhead`` | part of the wall time that measuring took; the monitor adds it | in [0, 1] |

    Gaps and the group of held-out probes are left out where there are none, decay and spindle where nothing was measured. A
    monitor with a name has it before every group; see :func:`tag_prefix`. Intervals are 95 %, over the draw of probes.

    Args:
        measurement: What was measured.
        phase: The phase detected at it.
        name: Name of the monitor, put before every tag.
        shape: Whether to fit decay and spindle, which takes longer than all the rest.

    Returns:
        Tags and numbers; a number that does not exist is NaN.
    """
    prefix = tag_prefix(name)
    further = f"{prefix}-{DIAGNOSTICS}"
    summary, fitted = summarise(measurement), shape_of(measurement) if shape else None
    training = summary.training
    tags = {f"{prefix}/phase": float(phase.number)} | _values(prefix, training, FIRST)
    tags |= _values(further, training, FURTHER) | _ends(f"{further}/share", training.share)
    for kind in KINDS:
        by_order = getattr(training.by_order, kind)[0].tolist()
        tags |= {f"{prefix}-{BY_ORDER}/{kind}_{order:02d}": by_order[order] for order in range(1, len(by_order))}
    if summary.held_out is not None:
        tags |= {f"{prefix}/loss_gap": summary.loss_gap.value, f"{prefix}/excess_gap": summary.excess_gap.value}
        tags |= {f"{further}/remaining_gap": summary.remaining_gap.value}
        tags |= _ends(f"{further}/excess_gap", summary.excess_gap)
        of_held_out = f"{prefix}-{HELD_OUT}"
        tags |= _values(of_held_out, summary.held_out, OF_HELD_OUT) | _ends(f"{of_held_out}/share", summary.held_out.share)
        tags[f"{of_held_out}/left_out"] = float(summary.held_out.left_out)
    if fitted is not None:
        tags |= {f"{further}/decay_share": fitted.share, f"{further}/decay_spindle_fit": fitted.r_squared}
    return tags | {f"{further}/left_out": float(training.left_out), f"{further}/seconds": measurement.seconds}


def tag_prefix(name: str | None) -> str:
    """Return what every group of a monitor's tags begins with: ``"interactions"``, and its name before that if it has one."""
    return "interactions" if name is None else f"{name}-interactions"


def _values(group: str, summary: SplitSummary, numbers: tuple[str, ...]) -> dict[str, float]:
    return {f"{group}/{number}": getattr(summary, number).value for number in numbers}


def _ends(tag: str, estimate: Estimate) -> dict[str, float]:
    return {f"{tag}_low": estimate.low, f"{tag}_high": estimate.high}
