"""Telling loggers, other callbacks and the console what was measured."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_interactions.callbacks.logging import print_last, scalars, write_scalars, write_to_all
from lightning_interactions.callbacks.logging_figures import write_figures, write_theory
from lightning_interactions.records import History, Interactions

__all__ = ["Publisher", "steps_logged"]


def steps_logged(trainer: Trainer) -> int:
    """Count batches that stepped, as Lightning's loggers do: the first one has step 0.

    That is not the global step where there are several optimizers. In ``on_train_batch_end`` the batch is not counted yet.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


class Publisher:
    """Publishes the last measurement of a history, when it is there.

    Args:
        monitor: The monitor that measures; callbacks with a method ``on_interactions_measured`` are handed it.
        name: Name of the monitor, put before every tag.
        figures: Draw figures for TensorBoard.
        verbose: Print a table row for each measurement.
        raise_errors: Raise a logger's error, instead of a warning.
    """

    def __init__(self, monitor: Callback, *, name: str | None, figures: bool, verbose: bool, raise_errors: bool) -> None:
        self.monitor = monitor
        self.name = name
        self.figures = figures
        self.verbose = verbose
        self.raise_errors = raise_errors
        self._header_printed = False

    def begin(self) -> None:
        """Begin a run, and so a table."""
        self._header_printed = False

    def untrained(self, trainer: Trainer, pl_module: LightningModule, history: History) -> None:
        """Publish the measurement of the untrained model; a ``self.log`` before the first epoch would be overwritten."""
        self._write(write_scalars, trainer, self._scalars(history), 0)
        self._show_and_tell(trainer, pl_module, history, step=0)

    def within_epoch(self, trainer: Trainer, pl_module: LightningModule, history: History, *, step: int) -> None:
        """Publish a measurement after an optimizer step.

        Loggers get it at once: Lightning would pass on what is logged within an epoch only every ``log_every_n_steps``, and
        then at every such step until the next measurement.
        """
        tags = self._scalars(history)
        self._write(write_scalars, trainer, tags, step)
        self._log(trainer, pl_module, tags)
        self._show_and_tell(trainer, pl_module, history, step)

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, history: History) -> None:
        """Publish a measurement at the end of an epoch, at the step of Lightning's own metrics of the epoch.

        Loggers do not get it from ``self.log``: there Lightning calls them itself, and an error of theirs would end the run.
        """
        self.within_epoch(trainer, pl_module, history, step=max(steps_logged(trainer) - 1, 0))

    def at_train_end(self, trainer: Trainer, history: History, final: Interactions) -> None:
        """Draw what can be said only when the training is over."""
        self._draw(write_theory, trainer, history, final, max(steps_logged(trainer) - 1, 0))

    def _scalars(self, history: History) -> dict[str, float]:
        return scalars(history.measurements[-1], history.phases[-1], self.name)

    def _log(self, trainer: Trainer, pl_module: LightningModule, tags: dict[str, float]) -> None:
        """Hand scalars to the progress bar and to callbacks that monitor them, not to loggers."""
        for tag, value in tags.items():
            in_bar = tag.endswith("/phase")
            pl_module.log(tag, value, batch_size=1, prog_bar=in_bar, logger=False, sync_dist=trainer.world_size > 1)

    def _show_and_tell(self, trainer: Trainer, pl_module: LightningModule, history: History, step: int) -> None:
        self._draw(write_figures, trainer, history, step)
        if self.verbose:
            print_last(history, with_header=not self._header_printed)
            self._header_printed = True
        for callback in trainer.callbacks:
            if notify := getattr(callback, "on_interactions_measured", None):
                notify(trainer, pl_module, self.monitor)

    def _draw(self, write: Callable[..., None], trainer: Trainer, history: History, *args: Any) -> None:
        if self.figures:
            self._write(write, trainer, history, *args, self.name)

    def _write(self, write: Callable[..., None], trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            write_to_all(write, trainer, *args, raise_errors=self.raise_errors)
