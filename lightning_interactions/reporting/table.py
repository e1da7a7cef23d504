"""A history as a table to print."""

from collections.abc import Sequence

from tabulate import tabulate

from lightning_interactions.analysis import summarise
from lightning_interactions.records import Estimate, History, Measurement, Phase

__all__ = ["history_table"]

HEADERS = (
    "epoch",
    "step",
    "training loss",
    "held-out loss",
    "generalizable",
    "non-generalizable",
    "share",
    "(interval)",
    "chance",
    "mean order",
    "excess gap",
    "(interval)",
    "phase",
    "seconds",
)


def history_table(history: History) -> str:
    """Write one row a measurement; what ``print(history)`` shows.

    Args:
        history: Measurements and phases, or none.

    Returns:
        A table of plain text, headers first. Intervals are 95 %, over the draw of probes; a dash stands for what there is
        not.
    """
    return tabulate(
        [_row(measurement, phase) for measurement, phase in zip(history.measurements, history.phases, strict=True)],
        headers=HEADERS,
        floatfmt=".3f",
        missingval="-",
    )


def _row(measurement: Measurement, phase: Phase) -> Sequence[float | int | str | None]:
    summary = summarise(measurement)
    training, held_out = summary.training, summary.held_out
    return (
        measurement.time.epoch,
        measurement.time.step,
        training.loss.value,
        None if held_out is None else held_out.loss.value,
        training.generalizable.value,
        training.non_generalizable.value,
        training.share.value,
        _ends(training.share),
        training.share_chance.value,
        training.mean_order.value,
        None if held_out is None else summary.excess_gap.value,
        None if held_out is None else _ends(summary.excess_gap),
        phase.number,
        measurement.seconds,
    )


def _ends(estimate: Estimate) -> str:
    return f"{estimate.low:.2f}..{estimate.high:.2f}"
