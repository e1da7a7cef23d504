"""What loggers take besides scalars: figures, texts, a layout, settings. A logger that nobody has taught takes nothing.

Each is a function that dispatches on the class of the logger, and can be taught another one::

    @draw_figure.register
    def _(logger: MyLogger, tag: str, figure: Figure, step: int) -> None:
        logger.upload(tag, figure, step)
"""

import io
import shlex
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
from markdown import markdown
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard.summary import hparams

from lightning_interactions.records import History
from lightning_interactions.references.internals import classes
from lightning_interactions.reporting.layout import held_axes, layout_summary, phase_layout

__all__ = [
    "draw_figure",
    "hold_axes",
    "lay_out",
    "takes",
    "teach_known_loggers",
    "where_to_look",
    "write_settings",
    "write_text",
]

PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 8px; color: #222; background: #fff }
table { border-collapse: collapse } th, td { padding: 4px 8px; border: 1px solid #ccc; text-align: left; vertical-align: top }
td:first-child { white-space: nowrap }
</style>"""
"""What goes before a text that is shown as a page of its own."""


@singledispatch
def draw_figure(logger: object, tag: str, figure: Figure, step: int) -> None:
    """Log a figure; nothing unless the logger is known."""


@singledispatch
def write_text(logger: object, tag: str, text: str, step: int) -> None:
    """Log a text in Markdown; nothing unless the logger is known."""


@singledispatch
def lay_out(logger: object, histories: Mapping[str | None, History]) -> None:
    """Lay out the scalars of the monitors that have these histories; nothing unless the logger is known."""


@singledispatch
def hold_axes(logger: object, name: str | None, step: int) -> None:
    """Log what the charts of a monitor need beside its scalars; nothing unless the logger is known."""


@singledispatch
def where_to_look(logger: object) -> str | None:
    """Say how the laid out scalars are opened; nothing unless the logger is known."""


@singledispatch
def write_settings(logger: object, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Log the settings of a monitor as hyperparameters, with tags to compare runs by; nothing unless the logger is known."""


def takes(function: Any, logger: object) -> bool:
    """Say whether a logger takes what one of these functions hands over."""
    return function.dispatch(type(logger)) is not function.dispatch(object)


def teach_known_loggers() -> None:
    """Register the loggers of those packages of Lightning that are loaded."""
    for name, functions in KNOWN.items():
        for kind in classes(name, "loggers"):
            for function, own in functions.items():
                if kind not in function.registry:
                    function.register(kind, own)


def _draw_for_tensorboard(logger: Any, tag: str, figure: Figure, step: int) -> None:
    logger.experiment.add_figure(tag, figure, step)


def _write_for_tensorboard(logger: Any, tag: str, text: str, step: int) -> None:
    logger.experiment.add_text(tag, text, step)


def _lay_out_for_tensorboard(logger: Any, histories: Mapping[str | None, History]) -> None:
    logger.experiment.file_writer.add_summary(layout_summary(phase_layout(histories)))


def _hold_axes_for_tensorboard(logger: Any, name: str | None, step: int) -> None:
    logger.log_metrics(held_axes(name), step=step)


def _where_to_look_in_tensorboard(logger: Any) -> str:
    return f"tensorboard --logdir {shlex.quote(str(logger.root_dir))}, page Custom Scalars"


def _write_settings_for_tensorboard(logger: Any, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write hyperparameters into the run's own folder, if the run has none.

    TensorBoard reads those of a run that were written first, so ours would hide others that come later.
    """
    if logger.hparams:
        return
    values = {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in settings.items()}
    for summary in hparams(values, dict(metrics)):
        logger.experiment.file_writer.add_summary(summary)


def _draw_for_wandb(logger: Any, tag: str, figure: Figure, step: int) -> None:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    logger.log_image(tag, [np.asarray(canvas.buffer_rgba())[..., :3]], step=step)


def _write_for_wandb(logger: Any, tag: str, text: str, step: int) -> None:
    """Log a page of HTML, which Weights & Biases shows beside the figures; it has no other texts."""
    from wandb import Html  # A run with this logger has it.

    page = Html(io.StringIO(PAGE + markdown(text, extensions=["tables"])), inject=False)
    # The key of a scalar can be no page besides.
    logger.log_metrics({f"{tag}_text": page}, step=step)


def _draw_for_mlflow(logger: Any, tag: str, figure: Figure, step: int) -> None:
    logger.experiment.log_figure(logger.run_id, figure, f"{tag}/step_{step:08d}.png")


def _write_for_mlflow(logger: Any, tag: str, text: str, step: int) -> None:
    logger.experiment.log_text(logger.run_id, text, f"{tag}/step_{step:08d}.md")


KNOWN: dict[str, dict[Any, Callable[..., Any]]] = {
    "TensorBoardLogger": {
        draw_figure: _draw_for_tensorboard,
        write_text: _write_for_tensorboard,
        lay_out: _lay_out_for_tensorboard,
        hold_axes: _hold_axes_for_tensorboard,
        where_to_look: _where_to_look_in_tensorboard,
        write_settings: _write_settings_for_tensorboard,
    },
    "WandbLogger": {draw_figure: _draw_for_wandb, write_text: _write_for_wandb},
    "MLFlowLogger": {draw_figure: _draw_for_mlflow, write_text: _write_for_mlflow},
}
"""What the loggers of Lightning take."""
