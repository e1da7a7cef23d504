"""Figures of the shape of strength over orders: decay and spindle, and what the theory of the second phase predicts."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from lightning_interactions.analysis import shape_of, summarise
from lightning_interactions.functional.decay_spindle import strength_by_sign
from lightning_interactions.records import SIGNS, DecaySpindle, History, Measurement, SecondPhase
from lightning_interactions.reporting.figures.phases import BLUE, GREY, VERMILION, TimeAxis

__all__ = ["shape_figure", "theory_figure"]

MEASURED = "#C9C9C9"

MOST_PANELS = 6
"""At most so many measurements are drawn with all their orders."""

PANELS_A_ROW = 3
"""With more panels there are two rows."""


def shape_figure(measurement: Measurement) -> Figure:
    """Draw one measurement's strength by order with the decays and the spindle that were fitted to it.

    Args:
        measurement: Drawn for its training probes, mean over the inputs that were measured.

    Returns:
        A figure with two axes: positive effects above and negative ones below; generalizable strength above and
        non-generalizable below, with the decays of both signs and twice the spindle.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes, beside = figure.subplots(1, 2)
    shape = shape_of(measurement)
    axes.set_title(f"Decay and spindle after epoch {measurement.time.epoch}, step {measurement.time.step}")
    beside.set_title("The same fit, both signs together, over what generalizes")
    if shape is None:
        for empty in (axes, beside):
            empty.text(0.5, 0.5, "nothing was measured", transform=empty.transAxes, ha="center", va="center", color=GREY)
            empty.set_axis_off()
        return figure
    _draw_fit(axes, strength_by_sign(measurement.training.strength), shape)
    by_order = summarise(measurement).training.by_order
    orders = list(range(1, shape.spindle.shape[0]))
    for strength, fitted, color, marker, direction in (
        (by_order.generalizable[0], shape.decay.sum(dim=0), BLUE, "o", 1),
        (by_order.non_generalizable[0], 2 * shape.spindle, VERMILION, "s", -1),
    ):
        beside.bar(orders, (direction * strength[1:]).tolist(), color=MEASURED, width=0.8)
        beside.plot(orders, (direction * fitted[1:]).tolist(), color=color, marker=marker, markersize=4.5)
    _finish_orders(axes, [f"{sign}\neffects" for sign in SIGNS])
    _finish_orders(beside, ["generalizable", "non-\ngeneralizable"])
    # Strength may lie anywhere over the orders: the legend is kept off the axes.
    figure.legend(frameon=False, fontsize="small", loc="outside lower center", ncols=2)
    return figure


def theory_figure(second_phase: SecondPhase, explained: History) -> Figure:
    """Draw real and predicted strength by order at up to six measurements, and the noise variance over time.

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
    rows = 1 if len(places) <= PANELS_A_ROW else 2
    columns = -(-len(places) // rows)
    figure = Figure(figsize=(7.5, 2.2 * rows + 2.4), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns)
    first: Axes | None = None
    for number, place in enumerate(places):
        row, column = divmod(number, columns)
        panel = figure.add_subplot(grid[row, column], sharex=first, sharey=first)
        first = first or panel
        _draw_orders(panel, second_phase, place)
        panel.set_title(
            f"{axis.name} {times[place]}: $\\sigma^2$ = {_number(float(second_phase.variance[place]))}, "
            f"$R^2$ = {_number(float(second_phase.r_squared[place]))}",
            fontsize="small",
        )
        panel.tick_params(labelbottom=number + columns >= len(places), labelleft=column == 0)
        if column == 0:
            panel.set_ylabel("Strength\n(score units)")
        if number + columns >= len(places):
            panel.set_xlabel("Order")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize="small", loc="outside upper right", ncols=2)
    below = figure.add_subplot(grid[rows, :])
    _draw_variance(below, second_phase, times)
    below.set_xlabel(axis.label)
    return figure


def _draw_fit(axes: Axes, strength: Float[Tensor, "signs orders"], shape: DecaySpindle) -> None:
    """Draw the strength of each sign, and the parts of the fit over it."""
    orders = list(range(1, strength.shape[1]))
    parts = (
        (shape.decay, BLUE, "o", "-", f"decay ({_percent(shape.share)} of the fit)"),
        (shape.spindle.expand_as(shape.decay), VERMILION, "s", "-", "spindle, the same for both signs"),
        (shape.total, "black", "", ":", f"their sum ($R^2$ = {_number(shape.r_squared)})"),
    )
    for row, direction in enumerate((1, -1)):
        labelled = row == 0
        height = (direction * strength[row, 1:]).tolist()
        axes.bar(orders, height, color=MEASURED, width=0.8, label="measured" if labelled else None)
        for part, color, marker, style, label in parts:
            axes.plot(
                orders, (direction * part[row, 1:]).tolist(),
                color=color, marker=marker, markersize=4.5, linestyle=style, label=label if labelled else None,
            )  # fmt: skip


def _finish_orders(axes: Axes, sides: Sequence[str]) -> None:
    """Label axes of orders, with what is above and what is below zero."""
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(y=0.08)
    if not any(bar.get_height() for bars in axes.containers for bar in bars):
        axes.set_ylim(-1, 1)
    for side, place, alignment in zip(sides, (0.03, -0.03), ("bottom", "top"), strict=True):
        # Beside the bars, where no strength is drawn.
        axes.annotate(
            side, (1.01, _zero_height(axes) + place), xycoords="axes fraction", va=alignment, fontsize="small", color=GREY
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
    axes.set_xlabel("Order (number of players in the interaction)")
    axes.set_ylabel("Strength (score units, mean per input)")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_orders(axes: Axes, second_phase: SecondPhase, place: int) -> None:
    real, predicted = second_phase.strength[place, 1:].tolist(), second_phase.predicted[place, 1:].tolist()
    orders = list(range(1, len(real) + 1))
    axes.bar(orders, real, color=MEASURED, width=0.8, label="real")
    axes.plot(orders, predicted, color=BLUE, marker="o", markersize=3.5, linewidth=1.2, label="theory")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _draw_variance(axes: Axes, second_phase: SecondPhase, times: Sequence[int]) -> None:
    variance = second_phase.variance.tolist()
    inside = [value if 0 < value < math.inf else math.nan for value in variance]
    axes.plot(list(times), inside, color=BLUE, marker=".")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for limit, height, marker, label in ((0.0, 0.0, "v", "0"), (math.inf, 1.0, "^", "infinite")):
        at_limit = [time for time, value in zip(times, variance, strict=True) if value == limit]
        if at_limit:
            axes.plot(
                at_limit, [height] * len(at_limit), color=VERMILION, marker=marker, linestyle="", clip_on=False,
                transform=axes.get_xaxis_transform(), label=f"variance is {label}",
            )  # fmt: skip
            axes.legend(frameon=False, fontsize="small", loc="upper right")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("Noise variance $\\sigma^2$")
    axes.spines[["top", "right"]].set_visible(False)


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
