"""Figures of the shape of strength over orders: decay and spindle, and what the theory of the second phase predicts."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from lightning_interactions.analysis import shape_of, summarise
from lightning_interactions.functional.decay_spindle import strength_by_sign
from lightning_interactions.records import SIGNS, DecaySpindle, History, Measurement, SecondPhase
from lightning_interactions.reporting.figures.cards import (
    TEXT,
    TITLE,
    card,
    finish_orders,
    finish_strength,
    small_legend,
    style,
)
from lightning_interactions.reporting.figures.phases import BLUE, GREY, VERMILION, TimeAxis

__all__ = ["draw_shape", "shape_figure", "theory_figure"]

MEASURED = "#C9C9C9"

IN_WORDS = "Does noise in the weights explain which orders are learned?\n$R^2$: 1 is fully, 0 or less is not at all"
"""For somebody who does not know the theory."""

MOST_PANELS = 4
"""At most so many measurements are drawn with all their orders."""

PANELS_A_ROW = 2

NEARLY_ZERO = 1e-6
"""So small a part of the largest variance is drawn as zero, which the fit comes near by rounding alone."""

MOST_NUMBERS = 4
"""Numbers on a logarithmic axis."""


def shape_figure(measurement: Measurement) -> Figure:
    """Draw one measurement's strength by order with the decays and the spindle that were fitted to it; for a card.

    Args:
        measurement: Drawn for its training probes, mean over the inputs that were measured.

    Returns:
        A figure with two axes: positive effects above and negative ones below; generalizable strength above and
        non-generalizable below, with the decays of both signs and twice the spindle.
    """
    figure = card()
    axes, below = figure.subplots(2, sharex=True)
    time = measurement.time
    figure.suptitle(f"Decay and spindle after epoch {time.epoch}, step {time.step}", fontsize=TITLE)
    if shape_of(measurement) is None:
        for empty in (axes, below):
            empty.text(0.5, 0.5, "nothing was measured", transform=empty.transAxes, ha="center", va="center", color=GREY)
            empty.set_axis_off()
        return figure
    draw_shape((axes, below), measurement)
    # Strength may lie anywhere over the orders: the legend is kept off the axes.
    small_legend(figure, columns=2, place="outside lower center")
    return figure


def draw_shape(panels: Sequence[Axes], measurement: Measurement) -> None:
    """Draw what :func:`shape_figure` shows into two axes, without its legend.

    Raises:
        ValueError: If nothing was measured.
    """
    axes, below = panels
    shape = shape_of(measurement)
    if shape is None:
        raise ValueError("decay and spindle: expected a measurement with finite outputs, got one of which nothing was measured")
    _draw_fit(axes, strength_by_sign(measurement.training.strength), shape)
    by_order = summarise(measurement).training.by_order
    orders = list(range(1, shape.spindle.shape[0]))
    for strength, fitted, color, marker, direction in (
        (by_order.generalizable[0], shape.decay.sum(dim=0), BLUE, "o", 1),
        (by_order.non_generalizable[0], 2 * shape.spindle, VERMILION, "s", -1),
    ):
        below.bar(orders, (direction * strength[1:]).tolist(), color=MEASURED, width=0.8)
        below.plot(orders, (direction * fitted[1:]).tolist(), color=color, marker=marker, markersize=3.5, linewidth=1.2)
    _finish_sides(axes, [f"{sign}\neffects" for sign in SIGNS])
    _finish_sides(below, ["general-\nizable", "non-gener-\nalizable"])
    axes.set_xlabel("")
    below.set_xlabel("Order (players in the interaction)", fontsize=TEXT)


def theory_figure(second_phase: SecondPhase, explained: History) -> Figure:
    """Draw real and predicted strength by order at up to four measurements, and the noise variance over time; for a card.

    Args:
        second_phase: The fit of the theory to at least one measurement.
        explained: Its part of the history; both are what :func:`~lightning_interactions.analysis.explain_second_phase` returns.

    Returns:
        A figure with one small axis for each of some evenly spread measurements, and below them one axis of time. A
        variance of zero or infinity has a triangle at the edge.

    Raises:
        ValueError: If there is no measurement, or not one for each variance.
    """
    axis = TimeAxis.of(explained)
    times = axis.places(explained)
    if not times or len(times) != len(second_phase.variance):
        raise ValueError(
            f"theory_figure: expected the {len(second_phase.variance)} measurements of the fit, at least one, got "
            f"{len(times)}; fit the theory to measurements of the second phase"
        )
    places = _evenly_spread(len(times), MOST_PANELS)
    columns = min(len(places), PANELS_A_ROW)
    rows = -(-len(places) // columns)
    figure = card()
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.0] * rows + [1.25])
    first: Axes | None = None
    for number, place in enumerate(places):
        row, column = divmod(number, columns)
        panel = figure.add_subplot(grid[row, column], sharex=first, sharey=first)
        first = first or panel
        _draw_orders(panel, second_phase, place)
        style(panel)
        panel.set_title(f"{axis.name} {times[place]}: $R^2$ = {_number(float(second_phase.r_squared[place]))}", fontsize=TEXT)
        panel.tick_params(labelbottom=number + columns >= len(places), labelleft=column == 0)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=TEXT - 1, loc="outside lower center", ncols=2, frameon=False, borderpad=0.1,
        title=IN_WORDS, title_fontsize=TEXT - 1,
    )  # fmt: skip
    figure.suptitle("Strength (score units) by order, and theory", fontsize=TITLE)
    below = figure.add_subplot(grid[rows, :])
    _draw_variance(below, second_phase, times)
    style(below, x=axis.label, y="Noise variance $\\sigma^2$")
    return figure


def _draw_fit(axes: Axes, strength: Float[Tensor, "signs orders"], shape: DecaySpindle) -> None:
    """Draw the strength of each sign, and the parts of the fit over it."""
    orders = list(range(1, strength.shape[1]))
    parts = (
        (shape.decay, BLUE, "o", "-", f"decay ({_percent(shape.share)} of the fit)"),
        (shape.spindle.expand_as(shape.decay), VERMILION, "s", "-", "spindle"),
        (shape.total, "black", "", ":", f"their sum ($R^2$ = {_number(shape.r_squared)})"),
    )
    for row, direction in enumerate((1, -1)):
        labelled = row == 0
        height = (direction * strength[row, 1:]).tolist()
        axes.bar(orders, height, color=MEASURED, width=0.8, label="measured" if labelled else None)
        for part, color, marker, style_of_line, label in parts:
            axes.plot(
                orders, (direction * part[row, 1:]).tolist(), color=color, marker=marker, markersize=3.5, linewidth=1.2,
                linestyle=style_of_line, label=label if labelled else None,
            )  # fmt: skip


def _finish_sides(axes: Axes, sides: Sequence[str]) -> None:
    """Label axes of orders, with what is above and what is below zero."""
    finish_orders(axes)
    finish_strength(axes)
    axes.margins(y=0.08)
    if not any(bar.get_height() for bars in axes.containers for bar in bars):
        axes.set_ylim(-1, 1)
    for side, place, alignment in zip(sides, (0.03, -0.03), ("bottom", "top"), strict=True):
        # Beside the bars, where no strength is drawn.
        axes.annotate(
            side, (1.01, _zero_height(axes) + place), xycoords="axes fraction", va=alignment, fontsize=TEXT - 1, color=GREY
        )
    style(axes, y="Strength (score)")


def _draw_orders(axes: Axes, second_phase: SecondPhase, place: int) -> None:
    real, predicted = second_phase.strength[place, 1:].tolist(), second_phase.predicted[place, 1:].tolist()
    orders = list(range(1, len(real) + 1))
    axes.bar(orders, real, color=MEASURED, width=0.8, label="real")
    axes.plot(orders, predicted, color=BLUE, marker="o", markersize=2.5, linewidth=1, label="theory")
    finish_orders(axes)
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _draw_variance(axes: Axes, second_phase: SecondPhase, times: Sequence[int]) -> None:
    finite = second_phase.variance[second_phase.variance.isfinite()]
    least = NEARLY_ZERO * float(finite.max()) if len(finite) else 0.0
    variance = [0.0 if value < least else value for value in second_phase.variance.tolist()]
    inside = [value if 0 < value < math.inf else math.nan for value in variance]
    axes.plot(list(times), inside, color=BLUE, marker=".")
    axes.set_yscale("log")
    ticks = _numbers_around([value for value in inside if not math.isnan(value)])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(ticks[0] / 1.1, ticks[-1] * 1.1)
    for limit, height, marker, label in ((0.0, 0.0, "v", "0"), (math.inf, 1.0, "^", "infinite")):
        at_limit = [time for time, value in zip(times, variance, strict=True) if value == limit]
        if at_limit:
            axes.plot(
                at_limit, [height] * len(at_limit), color=VERMILION, marker=marker, linestyle="", clip_on=False,
                transform=axes.get_xaxis_transform(), label=f"variance is {label}",
            )  # fmt: skip
            small_legend(axes, place="upper right")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _numbers_around(values: Sequence[float]) -> list[float]:
    """Choose two to four numbers to write on a logarithmic axis: 1, 2 and 5 times powers of ten, from below to above."""
    low, high = (min(values), max(values)) if values else (0.1, 1.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
    begin = max(place for place, step in enumerate(steps) if step <= low * (1 + 1e-9))
    end = min(place for place, step in enumerate(steps) if step >= high * (1 - 1e-9))
    around = steps[begin : max(end, begin + 1) + 1]
    if len(around) <= MOST_NUMBERS:
        return around
    powers = [10.0**power for power in range(first, last + 1)]
    return [powers[place] for place in _evenly_spread(len(powers), MOST_NUMBERS)]


def _evenly_spread(count: int, most: int) -> list[int]:
    """Positions of at most so many out of some, from the first to the last."""
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def _zero_height(axes: Axes) -> float:
    """Where zero lies on the vertical axis, from 0 at the bottom to 1 at the top."""
    low, high = axes.get_ylim()
    return -low / (high - low)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.0%}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{value:.2g}" if abs(value) < 1e4 else f"{value:.0e}"
