"""Names and values of what is logged, and writing to the Trainer's loggers."""

import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info

from lightning_interactions.functional.shapes import fit_decay_and_spindle, strength_by_sign
from lightning_interactions.records import (
    History,
    Interval,
    Measurement,
    OrderStrength,
    Phase,
    SplitIntervals,
    Summary,
)

__all__ = ["print_last", "scalars", "tag_prefix", "write_scalars", "write_to_all"]


def scalars(measurement: Measurement, phase: Phase, name: str | None) -> dict[str, float]:
    """List the scalars of one measurement under their tags.

    Args:
        measurement: What was measured.
        phase: The phase called at it.
        name: Name of the monitor, put before every tag.
    """
    prefix = tag_prefix(name)
    training, held_out, summary = measurement.training, measurement.held_out, measurement.held_out_summary
    tags = _split_scalars(prefix, training.strength, measurement.training_summary, measurement.training_intervals)
    if held_out is not None and summary is not None and measurement.held_out_intervals is not None:
        tags |= _split_scalars(f"{prefix}/heldout", held_out.strength, summary, measurement.held_out_intervals)
        tags[f"{prefix}/loss_gap"] = measurement.loss_gap
        tags[f"{prefix}/remaining_gap"] = measurement.remaining_gap
        tags[f"{prefix}/excess_gap"] = measurement.excess_gap
        tags |= _ends(f"{prefix}/excess_gap", measurement.excess_gap_interval)
    by_sign = strength_by_sign(training.strength)
    if by_sign.isfinite().all():
        shape = fit_decay_and_spindle(by_sign)
        tags[f"{prefix}/decay_share"] = shape.share
        tags[f"{prefix}/decay_spindle_fit"] = shape.r_squared
    tags[f"{prefix}/phase"] = float(phase.number)
    tags[f"{prefix}/seconds"] = measurement.seconds
    return tags


def write_scalars(logger: Logger, trainer: Trainer, tags: dict[str, float], step: int) -> None:
    """Write scalars to a logger at once, with the epoch, and let it save them, as Lightning does."""
    logger.log_metrics({**tags, "epoch": trainer.current_epoch}, step=step)
    logger.save()


def print_last(history: History, *, with_header: bool) -> None:
    """Print the last measurement as a row of a table."""
    *header, row = str(History(history.measurements[-1:], history.phases[-1:])).splitlines()
    rank_zero_info("\n".join([*header, row] if with_header else [row]))


def write_to_all(write: Callable[..., None], trainer: Trainer, *args: Any, raise_errors: bool) -> None:
    """Write to every logger, and let a logging problem end the run only if the user asked for it.

    Args:
        write: Takes a logger, the Trainer and ``args``.
        trainer: Whose loggers to write to.
        args: What to write.
        raise_errors: Raise a logger's error, instead of a warning.
    """
    for logger in trainer.loggers:
        try:
            write(logger, trainer, *args)
        except Exception as error:
            if raise_errors:
                raise
            warnings.warn(
                f"InteractionMonitor: {write.__name__} to {type(logger).__name__} failed and is left out: {error!r}",
                stacklevel=3,
            )


def tag_prefix(name: str | None) -> str:
    """Return what stands before every tag of a monitor."""
    return "interactions" if name is None else f"{name}/interactions"


def _ends(tag: str, interval: Interval) -> dict[str, float]:
    return {f"{tag}_low": interval.low, f"{tag}_high": interval.high}


def _split_scalars(prefix: str, strength: OrderStrength, summary: Summary, intervals: SplitIntervals) -> dict[str, float]:
    tags: dict[str, float] = {}
    kinds = {
        "generalizable": (strength.generalizable, summary.generalizable),
        "non_generalizable": (strength.non_generalizable, summary.non_generalizable),
        "non_salient": (strength.non_salient, summary.non_salient),
    }
    for kind, (by_input, total) in kinds.items():
        by_order = by_input.sum(dim=(1, 2)).nanmean(dim=0)
        tags |= {f"{prefix}/{kind}/order_{order:02d}": by_order[order].item() for order in range(1, len(by_order))}
        tags[f"{prefix}/{kind}/total"] = total
    for field in (
        "loss",
        "unseen_loss",
        "share",
        "share_chance",
        "share_above_chance",
        "mean_order",
        "cancellation",
        "left_out",
    ):
        tags[f"{prefix}/{field}"] = float(getattr(summary, field))
    return tags | _ends(f"{prefix}/share", intervals.share)
