"""Runs beside each other."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Measurement

__all__ = ["MOST_COMPARED", "compare_figure"]

MOST_COMPARED = 8
"""With more runs their colours cannot be told apart."""

MARKERS = "osD^vPX*"


def compare_figure(histories: Mapping[str, History]) -> Figure:
    """Draw the share and the loss on held-out probes of several runs over time; rings are onsets of phase 3.

    Args:
        histories: Each with at least one measurement, by the name of the run; at most 8.

    Returns:
        A figure with two axes on one axis of completed epochs. Without held-out probes the expected test loss is drawn.

    Raises:
        ValueError: If there are no runs, or too many.
    """
    if not 1 <= len(histories) <= MOST_COMPARED:
        raise ValueError(f"compare: expected 1 to {MOST_COMPARED} runs in a figure, got {len(histories)}")
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    shares, losses = figure.subplots(2, 1, sharex=True)
    # Colours of Okabe and Ito, which can be told apart whatever colours one sees; markers tell, too.
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999"]
    held_out = all(one.held_out is not None for history in histories.values() for one in history.measurements)
    for place, (name, history) in enumerate(histories.items()):
        style = {"color": colours[place], "marker": MARKERS[place], "markersize": 4, "linewidth": 1.2}
        share = [summarise(measurement).training.share.value for measurement in history.measurements]
        loss = [_loss(measurement, held_out=held_out) for measurement in history.measurements]
        shares.plot(history.epochs, share, label=name, **style)
        losses.plot(history.epochs, loss, label=name, **style)
        onset = history.first_detection(3)
        if onset is None:
            continue
        at = next((at for at, time in enumerate(history.steps) if time == onset.onset.step), None)
        if at is not None:
            for axes, numbers in ((shares, share), (losses, loss)):
                axes.plot(history.epochs[at], numbers[at], "o", markersize=13, markerfacecolor="none", color=colours[place])
    if any(history.first_detection(3) is not None for history in histories.values()):
        shares.plot([], [], "o", markersize=11, markerfacecolor="none", color="#555555", label="onset of phase 3")
    shares.set(ylabel="share of generalizable strength", ylim=(0, 1))
    units = {str(history.settings.get("loss_unit", "loss units")) for history in histories.values()}
    losses.set(
        ylabel=f"{'held-out' if held_out else 'expected test'} loss ({' or '.join(sorted(units))})", xlabel="completed epochs"
    )
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (shares, losses):
        axes.grid(alpha=0.3)
    for text in shares.legend(fontsize="small", loc="best").get_texts():
        text.set_parse_math(False)  # A run may be named with dollar signs.
    return figure


def _loss(measurement: Measurement, *, held_out: bool) -> float:
    summary = summarise(measurement)
    if held_out and summary.held_out is not None:
        return summary.held_out.loss.value
    return summary.training.expected_test_loss.value
