"""A history as a table to print."""

from collections.abc import Sequence

from tabulate import tabulate

from lightning_interactions.analysis import summarise
from lightning_interactions.records import Estimate, History, Measurement, Phase

__all__ = ["history_table"]

HEADERS = (
    ("", "", "train", "held-out", "strength", "strength", "", "95 %", "by", "excess", "95 %", "", ""),
    ("epoch", "step", "loss", "loss", "general.", "others", "share", "interval", "chance", "gap", "interval", "phase", "sec"),
)
"""Two lines of narrow columns, so that a row fits 120 columns."""

SIGNIFICANT = 4
"""Digits of a number that is too large for three after the point."""


def history_table(history: History) -> str:
    """Write one row a measurement; what ``print(history)`` shows.

    Args:
        history: Measurements and phases, or none.

    Returns:
        A table of plain text of at most 120 columns, headers first. Intervals are 95 %, over the draw of probes; a dash stands
        for what there is not.
    """
    rows = [_row(measurement, phase) for measurement, phase in zip(history.measurements, history.phases, strict=True)]
    # As rows, because tabulate makes a column wider than its header.
    lines = tabulate([*HEADERS, *rows], tablefmt="plain", stralign="right", disable_numparse=True).splitlines()
    rule = "-" * max(map(len, lines))
    return "\n".join([*lines[: len(HEADERS)], rule, *lines[len(HEADERS) :]])


def _row(measurement: Measurement, phase: Phase) -> Sequence[str]:
    summary = summarise(measurement)
    training, held_out = summary.training, summary.held_out
    return (
        str(measurement.time.epoch),
        str(measurement.time.step),
        _number(training.loss),
        _number(None if held_out is None else held_out.loss),
        _number(training.generalizable),
        _number(training.non_generalizable),
        _number(training.share),
        _ends(training.share),
        _number(training.share_chance),
        _number(None if held_out is None else summary.excess_gap),
        _ends(None if held_out is None else summary.excess_gap),
        str(phase.number),
        f"{measurement.seconds:.1f}" if measurement.seconds < 1000 else f"{measurement.seconds:.0f}",
    )


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.3f}" if abs(estimate.value) < 1000 else f"{estimate.value:.{SIGNIFICANT}g}"


def _ends(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return "..".join(f"{end:.2f}" if abs(end) < 100 else f"{end:.2g}" for end in (estimate.low, estimate.high))
