"""Figures for TensorBoard."""

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_interactions.analysis.second_phase import explain_second_phase
from lightning_interactions.callbacks.logging import tag_prefix
from lightning_interactions.functional.decay_spindle import fit_decay_and_spindle, strength_by_sign
from lightning_interactions.records import History, Interactions
from lightning_interactions.reporting.figures.phases import phase_figure, strength_figure, time_axis
from lightning_interactions.reporting.figures.shapes import shape_figure, theory_figure

__all__ = ["write_figures", "write_theory"]

MOST_PLAYERS_OF_THEORY = 12
"""With more players the fit of the theory takes minutes; ask the monitor for it."""


def write_figures(logger: Logger, _trainer: Trainer, history: History, step: int, name: str | None) -> None:
    """Draw the figures of the last measurement into a TensorBoard logger, at the step of its scalars."""
    if not isinstance(logger, TensorBoardLogger):
        return
    prefix = tag_prefix(name)
    last = history.measurements[-1]
    logger.experiment.add_figure(f"{prefix}/strength_by_order", strength_figure(last), step)
    strength = last.training.strength
    by_sign = strength_by_sign(strength)
    if by_sign.isfinite().all():
        figure = shape_figure(by_sign, fit_decay_and_spindle(by_sign), last.epoch, strength, step=last.global_step)
        logger.experiment.add_figure(f"{prefix}/decay_and_spindle", figure, step)
    logger.experiment.add_figure(f"{prefix}/phases", phase_figure(history), step)


def write_theory(logger: Logger, _trainer: Trainer, history: History, final: Interactions, step: int, name: str | None) -> None:
    """Draw the theory of the second phase into a TensorBoard logger, when the training is over."""
    if not isinstance(logger, TensorBoardLogger) or final.and_effects.shape[1] > 2**MOST_PLAYERS_OF_THEORY:
        return
    second_phase, explained = explain_second_phase(history, final)
    if explained:
        logger.experiment.add_figure(f"{tag_prefix(name)}/theory", theory_figure(second_phase, *time_axis(explained)), step)
