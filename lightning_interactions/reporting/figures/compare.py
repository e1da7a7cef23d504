"""Runs beside each other."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Measurement

__all__ = ["MOST_COMPARED", "compare_figure"]

MOST_COMPARED = 8
"""With more runs their colours cannot be told apart."""

# Colours of Okabe and Ito, which can be told apart whatever colours one sees; markers tell, too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
MARKERS = "osD^vPX*"


def compare_figure(histories: Mapping[str, History]) -> Figure:
    """Draw the share and the loss on held-out probes of several runs over time; rings are onsets of phase 3.

    Runs that were measured in different ways cannot be compared, and are drawn in columns of their own; other probes alone make
    no other way.

    Args:
        histories: Each with at least one measurement, by the name of the run; at most 8.

    Returns:
        A figure with two axes on one axis of completed epochs for each way of measuring. Without held-out probes the expected
        test loss is drawn.

    Raises:
        ValueError: If there are no runs, or too many.
    """
    if not 1 <= len(histories) <= MOST_COMPARED:
        raise ValueError(f"compare: expected 1 to {MOST_COMPARED} runs in a figure, got {len(histories)}")
    groups: list[dict[str, History]] = []
    for name, history in histories.items():
        for group in groups:
            if _measured_alike(next(iter(group.values())), history):
                group[name] = history
                break
        else:
            groups.append({name: history})
    figure = Figure(figsize=(4.5 + 3.5 * len(groups), 6.4), layout="constrained")
    panels = figure.subplots(2, len(groups), squeeze=False, sharex="col")
    styles = dict(zip(histories, zip(COLOURS, MARKERS, strict=True), strict=False))
    for column, group in enumerate(groups):
        _draw_group(panels[0][column], panels[1][column], group, styles)
        if len(groups) > 1:
            panels[0][column].set_title(f"way of measuring {column + 1}, not to be compared with others", fontsize="small")
    return figure


def _measured_alike(one: History, other: History) -> bool:
    return {**one.settings, "probes": None} == {**other.settings, "probes": None}


def _draw_group(shares: Axes, losses: Axes, histories: Mapping[str, History], styles: Mapping[str, tuple[str, str]]) -> None:
    held_out = all(one.held_out is not None for history in histories.values() for one in history.measurements)
    for name, history in histories.items():
        colour, marker = styles[name]
        share = [summarise(measurement).training.share.value for measurement in history.measurements]
        loss = [_loss(measurement, held_out=held_out) for measurement in history.measurements]
        for axes, numbers in ((shares, share), (losses, loss)):
            axes.plot(history.epochs, numbers, label=name, color=colour, marker=marker, markersize=4, linewidth=1.2)
        onset = history.first_detection(3)
        if onset is None:
            continue
        at = next((at for at, time in enumerate(history.steps) if time == onset.onset.step), None)
        if at is not None:
            for axes, numbers in ((shares, share), (losses, loss)):
                axes.plot(history.epochs[at], numbers[at], "o", markersize=13, markerfacecolor="none", color=colour)
    if any(history.first_detection(3) is not None for history in histories.values()):
        shares.plot([], [], "o", markersize=11, markerfacecolor="none", color="#555555", label="onset of phase 3")
    shares.set(ylabel="share of generalizable strength", ylim=(0, 1))
    unit = next(iter(histories.values())).settings.get("loss_unit", "loss units")
    losses.set(ylabel=f"{'held-out' if held_out else 'expected test'} loss ({unit})", xlabel="completed epochs")
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (shares, losses):
        axes.grid(alpha=0.3)
    for text in shares.legend(fontsize="small", loc="best").get_texts():
        text.set_parse_math(False)  # A run may be named with dollar signs.


def _loss(measurement: Measurement, *, held_out: bool) -> float:
    summary = summarise(measurement)
    if held_out and summary.held_out is not None:
        return summary.held_out.loss.value
    return summary.training.expected_test_loss.value
