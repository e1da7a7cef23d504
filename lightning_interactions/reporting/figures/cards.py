"""What all figures for TensorBoard's cards share: small squares, which have to be read at 200 to 300 pixels."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

__all__ = ["TEXT", "TITLE", "card", "finish_orders", "finish_strength", "small_legend", "style"]

SIDE, DPI = 3.4, 120
"""Inches and dots an inch: 408 pixels, which TensorBoard shows at 200 to 300, enlarged at their full size."""

TITLE, TEXT = 9.5, 8
"""Points; 8 are 13 pixels of 408, and 8 of 250."""

MOST_TICKS = 5


def card() -> Figure:
    """Make an empty square."""
    return Figure(figsize=(SIDE, SIDE), dpi=DPI, layout="constrained")


def style(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Label axes in letters that can be read on a card."""
    axes.set_title(title or axes.get_title(), fontsize=TITLE)
    axes.set_xlabel(x or axes.get_xlabel(), fontsize=TEXT)
    axes.set_ylabel(y or axes.get_ylabel(), fontsize=TEXT)
    axes.tick_params(labelsize=TEXT, length=2.5, pad=2)
    axes.spines[["top", "right"]].set_visible(False)


def small_legend(drawn: Axes | Figure, *, columns: int = 1, place: str = "best", above: float | None = None) -> None:
    """Add a legend in small letters, on a ground that curves may run under.

    Args:
        drawn: Where.
        columns: Columns of it.
        place: Its place, in matplotlib's words.
        above: Height that its place is at, in units of the axes; inside of them if left out.
    """
    anchor = {} if above is None else {"bbox_to_anchor": (0.5, above), "borderaxespad": 0}
    drawn.legend(  # type: ignore[call-overload]
        fontsize=TEXT - 1, loc=place, ncols=columns, handlelength=1.4, handletextpad=0.4, columnspacing=1.0, labelspacing=0.25,
        borderpad=0.2, framealpha=0.7, edgecolor="none", **anchor,
    )  # fmt: skip


def finish_orders(axes: Axes) -> None:
    """Number the orders on the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS + 3, integer=True, min_n_ticks=1))


def finish_strength(axes: Axes) -> None:
    """Number strengths, which are positive on both sides of zero."""
    axes.axhline(0, color="black", linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
