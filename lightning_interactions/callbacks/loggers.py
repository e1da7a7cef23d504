"""Handing a measurement to loggers, to callbacks that monitor a metric, and to the console."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure

from lightning_interactions.analysis import explain_second_phase, shape_of, strongest_interactions, telling_inputs
from lightning_interactions.analysis.second_phase import MOST_PLAYERS_OF_THEORY
from lightning_interactions.callbacks.attempts import Attempt
from lightning_interactions.callbacks.canvases import (
    draw_figure,
    hold_axes,
    lay_out,
    takes,
    teach_known_loggers,
    where_to_look,
    write_settings,
    write_text,
)
from lightning_interactions.measuring.meter import TRAINING, InteractionMeter
from lightning_interactions.measuring.schedule import DenserEarly, Schedule, Timetable
from lightning_interactions.records import History, Interactions, TimePoint
from lightning_interactions.reporting import (
    heat_map_figure,
    history_table,
    input_figure,
    phase_text,
    scalars,
    settings_text,
    shape_figure,
    strength_figure,
    tag_prefix,
    theory_figure,
    timeline_figure,
)
from lightning_interactions.reporting.scalars import DIAGNOSTICS

__all__ = ["Loggers", "Logging"]

ROOM_FOR_FIGURES = 256 * 2**20
"""Free bytes of a disk on which figures are drawn; those of one measurement take about 200,000."""

INPUTS_DRAWN = 4
"""Probes that the strongest interactions are drawn on."""

FIGURES = "figures"
"""Group of all figures but the first."""

COMPARED = ("share", "expected_test_loss", "phase")
"""Scalars that runs are compared by beside their hyperparameters."""


@dataclass(frozen=True)
class Logging:
    """What is written where.

    Attributes:
        figures: When to draw figures for loggers that take them, of the measurements that there are then; they are drawn at
            the end besides. ``None`` draws none.
        verbose: Print a table row at each measurement.
        raise_errors: Let a failing logger end the run, instead of a warning.
        layout: Lay out TensorBoard's page "Custom Scalars". A run has one layout: switch it off where you have your own.
        hparams: Write the monitor's settings as TensorBoard's hyperparameters at the end of a run that has logged none by
            then. A run has one set of them: switch it off where you log yours after the fit.
    """

    figures: Schedule | None = field(default_factory=lambda: DenserEarly(shortest=10))
    verbose: bool = False
    raise_errors: bool = False
    layout: bool = True
    hparams: bool = True


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
        self._drawn: TimePoint | None = None
        self._header_printed = False
        self._is_laid_out = False

    def begin(self, epoch: int, step: int) -> None:
        """Begin a run, and so a table."""
        self._header_printed = self._is_laid_out = False
        self._drawn = None
        if self._figures is not None:
            self._figures.begin(epoch, step)

    def tags(self, trainer: Trainer, history: History) -> dict[str, float]:
        """List the scalars of the last measurement; see :func:`~lightning_interactions.reporting.scalars`."""
        # Decay and spindle take a while to fit, and are fitted only where somebody sees them.
        monitored = any("/decay_" in str(getattr(callback, "monitor", "")) for callback in trainer.callbacks)
        shape = bool(trainer.loggers) or monitored
        return scalars(history.measurements[-1], history.phases[-1], self.name, shape=shape)

    def draw_if_due(self, trainer: Trainer, history: History, meter: InteractionMeter, step: int) -> None:
        """Draw figures if their schedule asks for it, and interactions on inputs if phase 3 was detected just now.

        Args:
            trainer: The Trainer of the run.
            history: Its measurements.
            meter: What has made the last one.
            step: Where loggers put them.
        """
        time = history.measurements[-1].time
        is_detected = [phase.number == 3 for phase in history.phases]
        if self._figures is not None and is_detected[-1] and sum(is_detected) == 1:
            self._write(trainer, _write_inputs, meter, time, step)
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
        group = f"{tag_prefix(self.name)}-{DIAGNOSTICS}"
        tags = {**tags, f"{group}/seconds": history.measurements[-1].seconds, f"{group}/overhead": overhead}
        # The first epoch's end would find the values of the untrained model, and take them for its own.
        if history.measurements[-1].time != TimePoint(0, 0):
            tensors = {tag: torch.tensor(value, device="cpu") for tag, value in tags.items()}
            trainer.callback_metrics.update(tensors)
            trainer.logged_metrics.update(tensors)
            shown = (f"{tag_prefix(self.name)}/phase", f"{tag_prefix(self.name)}/share")
            trainer.progress_bar_metrics.update({tag: tags[tag] for tag in shown})
        if self.logging.layout and not self._is_laid_out:
            # Each monitor lays out all that have measured so far: a run has one layout, the last.
            self._is_laid_out = True
            self._write(trainer, _write_layout, {**_histories(trainer), self.name: history})
        if self.logging.layout:
            self._write(trainer, _write_ends_of_axes, self.name, step)
        self._write(trainer, _write_scalars, {**tags, "epoch": trainer.current_epoch}, step)
        self._write(trainer, _write_texts, history, step)
        if self.logging.verbose:
            *header, row = history_table(History(history.measurements[-1:], history.phases[-1:])).splitlines()
            rank_zero_info("\n".join([row] if self._header_printed else [*header, row]))
            self._header_printed = True

    def finish(self, trainer: Trainer, history: History, final: Interactions, meter: InteractionMeter, step: int) -> None:
        """Draw the last measurement if it is not drawn yet, and what can be said only when the training is over."""
        if not history:
            return
        if self.logging.layout and self.name == next(iter(_histories(trainer)), None):
            for way in filter(None, map(where_to_look, trainer.loggers)):
                rank_zero_info(f"InteractionMonitor: the phase view: {way}")
        if self.logging.hparams:
            self._write(trainer, _write_hyperparameters, history)
        if self._figures is None:
            return
        if self._drawn != history.measurements[-1].time or len(history) == 1:
            self._draw(trainer, history, step)
        self._write(trainer, _write_inputs, meter, history.measurements[-1].time, step)
        self._write(trainer, _write_theory, history, final, step)

    def _draw(self, trainer: Trainer, history: History, step: int) -> None:
        self._drawn = history.measurements[-1].time
        self._write(trainer, _write_figures, history, step)

    def _write(self, trainer: Trainer, write: Callable[..., None], *args: Any) -> None:
        """Write to every logger, and let a logging problem end the run only if the user asked for it."""
        if not trainer.is_global_zero:
            return
        teach_known_loggers()
        for logger in trainer.loggers:
            what = f"InteractionMonitor: {write.__name__.strip('_')} to {type(logger).__name__}"
            with Attempt(what, raises=self.logging.raise_errors):
                write(logger, tag_prefix(self.name), *args)


def _write_scalars(logger: Logger, _prefix: str, tags: dict[str, float], step: int) -> None:
    logger.log_metrics(tags, step=step)
    logger.save()


def _histories(trainer: Trainer) -> dict[str | None, History]:
    """Find the monitors of a run that have measured, in the order of its callbacks."""
    monitors = [one for one in trainer.callbacks if isinstance(getattr(one, "meter", None), InteractionMeter)]
    return {monitor.name: monitor.history for monitor in monitors if monitor.history}


def _write_layout(logger: Logger, _prefix: str, histories: Mapping[str | None, History]) -> None:
    lay_out(logger, histories)


def _write_ends_of_axes(logger: Logger, _prefix: str, name: str | None, step: int) -> None:
    hold_axes(logger, name, step)


def _write_texts(logger: Logger, prefix: str, history: History, step: int) -> None:
    """Say the phase, and with the first measurement how all are made."""
    write_text(logger, f"{prefix}/phase", phase_text(history), step)
    if len(history) == 1:
        write_text(logger, f"{prefix}/settings", settings_text(history), step)


def _write_hyperparameters(logger: Logger, prefix: str, history: History) -> None:
    compared = scalars(history.measurements[-1], history.phases[-1], shape=False)
    metrics = {f"{prefix}/{name}": compared[f"{tag_prefix(None)}/{name}"] for name in COMPARED}
    write_settings(logger, history.settings, metrics)


def _write_figures(logger: Logger, prefix: str, history: History, step: int) -> None:
    """Draw the last measurement and the history, at the step of their scalars."""
    last = history.measurements[-1]
    # With the scalars that matter first, so that it is the first picture.
    _draw_all(logger, prefix, {"phases": lambda: timeline_figure(history)}, step)
    figures: dict[str, Callable[[], Figure]] = {
        "strength_by_order": lambda: strength_figure(last),
        "order_and_time": lambda: heat_map_figure(history),
    }
    if takes(draw_figure, logger) and shape_of(last) is not None:
        figures["decay_and_spindle"] = lambda: shape_figure(last)
    _draw_all(logger, f"{prefix}-{FIGURES}", figures, step)


def _write_inputs(logger: Logger, prefix: str, meter: InteractionMeter, time: TimePoint, step: int) -> None:
    """Draw the strongest interactions of the last measurement on some training probes."""
    if not takes(draw_figure, logger) or TRAINING not in meter.weights or meter.players is None:
        return
    players, probes, threshold = meter.players, meter.probes[TRAINING], meter.extraction.threshold
    interactions, weights = meter.interactions[TRAINING].to("cpu"), meter.weights[TRAINING].to("cpu")
    chosen = telling_inputs(interactions, weights, threshold, INPUTS_DRAWN)
    found = strongest_interactions(interactions.select(chosen), weights[chosen], threshold)
    figures = {
        f"on_input_{place}": lambda number=number, own=own: input_figure(
            probes.select([number]).to("cpu"), players, own, f"Probe {number}, after epoch {time.epoch}"
        )
        for place, (number, own) in enumerate(zip(chosen, found, strict=True), start=1)
    }
    _draw_all(logger, f"{prefix}-{FIGURES}", figures, step)


def _write_theory(logger: Logger, prefix: str, history: History, final: Interactions, step: int) -> None:
    """Draw the theory of the second phase, when the training is over."""
    if not takes(draw_figure, logger) or final.effects.shape[-1] > 2**MOST_PLAYERS_OF_THEORY:
        return
    second_phase, explained = explain_second_phase(history, final)
    if explained:
        _draw_all(logger, f"{prefix}-{FIGURES}", {"theory": lambda: theory_figure(second_phase, explained)}, step)


def _draw_all(logger: Logger, group: str, figures: Mapping[str, Callable[[], Figure]], step: int) -> None:
    if not takes(draw_figure, logger):
        return
    _check_room(logger.save_dir)
    for name, draw in figures.items():
        draw_figure(logger, f"{group}/{name}", draw(), step)


def _check_room(folder: str | None) -> None:
    """Refuse to draw onto a disk that is nearly full: what the run itself logs would be lost with the figures.

    Raises:
        OSError: If there is little room.
    """
    free = shutil.disk_usage(folder).free if folder and os.path.isdir(folder) else ROOM_FOR_FIGURES
    if free < ROOM_FOR_FIGURES:
        raise OSError(f"expected at least {ROOM_FOR_FIGURES >> 20} MiB of free disk for figures at {folder}, got {free >> 20}")
