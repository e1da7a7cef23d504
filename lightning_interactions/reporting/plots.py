"""The figures of a history for notebooks, each alone or in axes that are there."""

from collections.abc import Callable, Sequence
from typing import get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from lightning_interactions.records import History, PlotKind
from lightning_interactions.reporting.figures.cards import small_legend
from lightning_interactions.reporting.figures.phases import (
    draw_excess_gap,
    draw_heat_map,
    draw_losses,
    draw_share,
    draw_strength,
)
from lightning_interactions.reporting.figures.shapes import draw_shape

__all__ = ["plot"]

Drawing = Callable[[Sequence[Axes], History], None]


def plot(
    history: History, kind: PlotKind = "phases", ax: Axes | Sequence[Axes] | None = None
) -> tuple[Figure | SubFigure, Axes | list[Axes]]:
    """Plot a history, as metrics of torchmetrics are plotted.

    Args:
        history: At least one measurement.
        kind: ``"losses"``, ``"share"`` or ``"excess_gap"`` over time, or the three together as ``"phases"``; ``"strength"`` by
            order and ``"decay_and_spindle"`` of the last measurement; ``"heat_map"`` of order and time.
        ax: Where to draw: three axes for ``"phases"``, two for ``"heat_map"`` and ``"decay_and_spindle"``, else one; a new
            figure of pyplot if left out, which notebooks show.

    Returns:
        The figure, and its axes: a list where there are several.

    Raises:
        ValueError: If there is no such kind, nothing was measured, or the number of axes is another one.
    """
    if kind not in DRAWINGS:
        raise ValueError(f"plot: expected a kind among {get_args(PlotKind)}, got {kind!r}")
    if not history:
        raise ValueError("plot: expected a history of at least one measurement, got an empty one; train with the monitor first")
    number, draw = DRAWINGS[kind]
    if ax is None:
        from matplotlib import pyplot  # Only here, where a user asks for a figure that is shown.

        figure, made = pyplot.subplots(
            number, squeeze=False, sharex=number > 1, layout="constrained", figsize=(6, 2 + 2 * number)
        )
        axes = list(made[:, 0])
    else:
        axes = [ax] if isinstance(ax, Axes) else list(ax)
        if len(axes) != number:
            raise ValueError(f"plot: expected {number} axes for {kind!r}, got {len(axes)}")
        figure = axes[0].figure
    draw(axes, history)
    return figure, axes if number > 1 else axes[0]


def _draw_phases(axes: Sequence[Axes], history: History) -> None:
    for panel, draw in zip(axes, (draw_losses, draw_share, draw_excess_gap), strict=True):
        draw(panel, history)


def _draw_strength(axes: Sequence[Axes], history: History) -> None:
    draw_strength(axes[0], history.measurements[-1])
    small_legend(axes[0])


def _draw_shape(axes: Sequence[Axes], history: History) -> None:
    draw_shape(axes, history.measurements[-1])
    small_legend(axes[0])


def _alone(draw: Callable[[Axes, History], None]) -> Drawing:
    return lambda axes, history: draw(axes[0], history)


DRAWINGS: dict[str, tuple[int, Drawing]] = {
    "phases": (3, _draw_phases),
    "losses": (1, _alone(draw_losses)),
    "share": (1, _alone(draw_share)),
    "excess_gap": (1, _alone(draw_excess_gap)),
    "strength": (1, _draw_strength),
    "heat_map": (2, draw_heat_map),
    "decay_and_spindle": (2, _draw_shape),
}
"""How many axes each kind needs, and what draws it."""
