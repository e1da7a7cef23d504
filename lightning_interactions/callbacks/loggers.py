"""Handing a measurement to loggers, to callbacks that monitor a metric, and to the console."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info

from lightning_interactions.analysis import explain_second_phase, shape_of
from lightning_interactions.callbacks.attempts import Attempt
from lightning_interactions.measuring.schedule import DenserEarly, Schedule, Timetable
from lightning_interactions.records import History, Interactions, TimePoint
from lightning_interactions.references.internals import classes
from lightning_interactions.reporting import (
    history_table,
    phase_figure,
    scalars,
    shape_figure,
    strength_figure,
    tag_prefix,
    theory_figure,
)

__all__ = ["Loggers", "Logging"]

MOST_PLAYERS_OF_THEORY = 12
"""With more players the fit of the theory takes minutes; ask the monitor for it."""

ROOM_FOR_FIGURES = 256 * 2**20
"""Free bytes of a disk on which figures are drawn; those of one measurement take about 200,000."""


@dataclass(frozen=True)
class Logging:
    """What is written where.

    Attributes:
        figures: When to draw figures for TensorBoard, of the measurements that there are then; they are drawn at the end
            besides. ``None`` draws none.
        verbose: Print a table row at each measurement.
        raise_errors: Let a failing logger end the run, instead of a warning.
    """

    figures: Schedule | None = field(default_factory=lambda: DenserEarly(shortest=10))
    verbose: bool = False
    raise_errors: bool = False


class Loggers:
    """Hands the last measurement of a history on to the trainer and its loggers.

    Args:
        name: Name of the monitor, put before every tag.
        logging: What is written where.
    """

    def __init__(self, name: str | None, logging: Logging) -> None:
        self.name = name
        self.logging = logging
        self._figures = None if logging.figures is None else Timetable(logging.figures)
        self._drawn_step: int | None = None
        self._header_printed = False

    def begin(self, epoch: int, step: int) -> None:
        """Begin a run, and so a table."""
        self._header_printed = False
        self._drawn_step = None
        if self._figures is not None:
            self._figures.begin(epoch, step)

    def tags(self, trainer: Trainer, history: History) -> dict[str, float]:
        """List the scalars of the last measurement; see :func:`~lightning_interactions.reporting.scalars`."""
        # Decay and spindle take a while to fit, and are fitted only where somebody sees them.
        monitored = any("/decay_" in str(getattr(callback, "monitor", "")) for callback in trainer.callbacks)
        shape = bool(trainer.loggers) or monitored
        return scalars(history.measurements[-1], history.phases[-1], self.name, shape=shape)

    def draw_if_due(self, trainer: Trainer, history: History, step: int) -> None:
        """Draw figures if their schedule asks for it.

        Args:
            trainer: The Trainer of the run.
            history: Its measurements.
            step: Where loggers put them.
        """
        time = history.measurements[-1].time
        if self._figures is not None and self._figures.due(time.epoch, time.step) and len(history) > 1:
            self._draw(trainer, history, step)

    def write(self, trainer: Trainer, history: History, tags: dict[str, float], step: int, overhead: float = 0.0) -> None:
        """Hand the numbers of the last measurement to loggers, to callbacks that monitor a metric, and to the console.

        Loggers get them at once and from us: Lightning would pass on what is logged within an epoch only every
        ``log_every_n_steps``, and a logger that fails would end the run. All numbers but the seconds are computed from the same
        tensors on every rank, so none is reduced.

        Args:
            trainer: The Trainer of the run.
            history: Its measurements.
            tags: The :meth:`tags` of the last one; the seconds are those of the history.
            step: Where loggers put them.
            overhead: Part of the wall time that measuring took so far.
        """
        prefix = tag_prefix(self.name)
        tags = {**tags, f"{prefix}/seconds": history.measurements[-1].seconds, f"{prefix}/overhead": overhead}
        # The first epoch's end would find the values of the untrained model, and take them for its own.
        if history.measurements[-1].time != TimePoint(0, 0):
            tensors = {tag: torch.tensor(value, device="cpu") for tag, value in tags.items()}
            trainer.callback_metrics.update(tensors)
            trainer.logged_metrics.update(tensors)
            trainer.progress_bar_metrics.update({tag: tags[tag] for tag in (f"{prefix}/phase", f"{prefix}/share")})
        self._write(trainer, _write_scalars, {**tags, "epoch": trainer.current_epoch}, step)
        if self.logging.verbose:
            *header, row = history_table(History(history.measurements[-1:], history.phases[-1:])).splitlines()
            rank_zero_info("\n".join([row] if self._header_printed else [*header, row]))
            self._header_printed = True

    def finish(self, trainer: Trainer, history: History, final: Interactions, step: int) -> None:
        """Draw the last measurement if it is not drawn yet, and what can be said only when the training is over."""
        if self._figures is None or not history:
            return
        if self._drawn_step != history.measurements[-1].time.step or len(history) == 1:
            self._draw(trainer, history, step)
        self._write(trainer, _write_theory, history, final, step)

    def _draw(self, trainer: Trainer, history: History, step: int) -> None:
        self._drawn_step = history.measurements[-1].time.step
        self._write(trainer, _write_figures, history, step)

    def _write(self, trainer: Trainer, write: Callable[..., None], *args: Any) -> None:
        """Write to every logger, and let a logging problem end the run only if the user asked for it."""
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            what = f"InteractionMonitor: {write.__name__.strip('_')} to {type(logger).__name__}"
            with Attempt(what, raises=self.logging.raise_errors):
                write(logger, tag_prefix(self.name), *args)


def _write_scalars(logger: Logger, _prefix: str, tags: dict[str, float], step: int) -> None:
    logger.log_metrics(tags, step=step)
    logger.save()


def _write_figures(logger: Logger, prefix: str, history: History, step: int) -> None:
    """Draw the figures of the last measurement into a TensorBoard logger, at the step of its scalars."""
    if not isinstance(logger, classes("TensorBoardLogger", "loggers")):
        return
    _check_room(logger.log_dir)
    last = history.measurements[-1]
    logger.experiment.add_figure(f"{prefix}/strength_by_order", strength_figure(last), step)
    if shape_of(last) is not None:
        logger.experiment.add_figure(f"{prefix}/decay_and_spindle", shape_figure(last), step)
    logger.experiment.add_figure(f"{prefix}/phases", phase_figure(history), step)


def _check_room(folder: str) -> None:
    """Refuse to draw onto a disk that is nearly full: what the run itself logs would be lost with the figures.

    Raises:
        OSError: If there is little room.
    """
    free = shutil.disk_usage(folder).free if os.path.isdir(folder) else ROOM_FOR_FIGURES
    if free < ROOM_FOR_FIGURES:
        raise OSError(f"expected at least {ROOM_FOR_FIGURES >> 20} MiB of free disk for figures at {folder}, got {free >> 20}")


def _write_theory(logger: Logger, prefix: str, history: History, final: Interactions, step: int) -> None:
    """Draw the theory of the second phase into a TensorBoard logger, when the training is over."""
    if not isinstance(logger, classes("TensorBoardLogger", "loggers")) or final.effects.shape[-1] > 2**MOST_PLAYERS_OF_THEORY:
        return
    second_phase, explained = explain_second_phase(history, final)
    if explained:
        _check_room(logger.log_dir)
        logger.experiment.add_figure(f"{prefix}/theory", theory_figure(second_phase, explained), step)
