"""Figures of the shape of strength over orders: decay and spindle, and what the theory of the second phase predicts."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from lightning_interactions.records import SIGNS, DecaySpindle, OrderStrength, SecondPhase
from lightning_interactions.reporting.figures.phases import BLUE, GREY, TIME_LABELS, VERMILION

__all__ = ["shape_figure", "theory_figure"]

MEASURED = "#C9C9C9"

MOST_PANELS = 6
"""At most so many measurements are drawn with all their orders."""

PANELS_A_ROW = 3
"""With more panels there are two rows."""


def shape_figure(
    strength: Float[Tensor, "signs orders"],
    shape: DecaySpindle,
    epoch: int,
    measured: OrderStrength | None = None,
    *,
    step: int | None = None,
) -> Figure:
    """Draw one measurement's strength by order with the decays and the spindle that were fitted to it.

    Args:
        strength: Positive and negative strength by order, score units, that the shape was fitted to.
        shape: The fit.
        epoch: Completed epochs, for the title.
        measured: What the evidence calls generalizable and what not; drawn beside it with the same fit, if given.
        step: Optimizer steps taken, for the title.

    Returns:
        A figure with one or two axes: positive effects above and negative ones below; generalizable strength above and
        non-generalizable below, with the decays of both signs and twice the spindle.
    """
    figure = Figure(figsize=(7 if measured is None else 11, 4.4), layout="constrained")
    axes = figure.add_subplot(1, 1 if measured is None else 2, 1)
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
    _finish_orders(axes, [f"{sign}\neffects" for sign in SIGNS])
    axes.set_title(f"Decay and spindle after epoch {epoch}" + ("" if step is None else f", step {step}"))
    if measured is not None:
        beside = figure.add_subplot(1, 2, 2)
        for by_input, fitted, color, marker, direction in (
            (measured.generalizable, shape.decay.sum(dim=0), BLUE, "o", 1),
            (measured.non_generalizable, 2 * shape.spindle, VERMILION, "s", -1),
        ):
            by_order = by_input.sum(dim=(1, 2)).nanmean(dim=0)
            beside.bar(orders, (direction * by_order[1:]).tolist(), color=MEASURED, width=0.8)
            beside.plot(orders, (direction * fitted[1:]).tolist(), color=color, marker=marker, markersize=4.5)
        _finish_orders(beside, ["generalizable", "non-\ngeneralizable"])
        beside.set_title("The same fit, both signs together, over what generalizes")
    # Strength may lie anywhere over the orders: the legend is kept off the axes.
    figure.legend(frameon=False, fontsize="small", loc="outside lower center", ncols=2)
    return figure


def theory_figure(second_phase: SecondPhase, times: Sequence[int], unit: str = "epoch") -> Figure:
    """Draw real and predicted strength by order at up to six measurements, and the noise variance over time.

    Args:
        second_phase: The fit of the theory to at least one measurement.
        times: When each of its measurements was made.
        unit: What that is counted in: ``"epoch"`` for completed times, ``"step"`` for optimizer steps.

    Returns:
        A figure with one small axis for each of some evenly spread measurements, and below them one axis of time. A
        variance of zero or infinity has a triangle at the edge.

    Raises:
        ValueError: If there is no measurement, or not one time for each.
    """
    if not times or len(times) != len(second_phase.variance):
        raise ValueError(
            f"theory_figure: expected the times of the {len(second_phase.variance)} measurements, at least one, got "
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
            f"{unit} {times[place]}: $\\sigma^2$ = {_number(float(second_phase.variance[place]))}, "
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
    _draw_variance(figure.add_subplot(grid[rows, :]), second_phase, times, unit)
    return figure


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


def _draw_variance(axes: Axes, second_phase: SecondPhase, times: Sequence[int], unit: str) -> None:
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
    axes.set_xlabel(TIME_LABELS[unit])
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
