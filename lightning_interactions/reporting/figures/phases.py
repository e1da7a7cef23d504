"""Matplotlib figures, made without pyplot so that no global state or display is touched."""

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lightning_interactions.records import SIGNS, History, Interval, Measurement

__all__ = ["TIME_LABELS", "phase_figure", "strength_figure", "time_axis"]

# Colours that stay apart in every common kind of colour blindness (Okabe & Ito 2008).
BLUE, SKY, VERMILION, ORANGE, GREY = "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#6E6E6E"
INTERVAL = "95 % interval (draw of probes)"
TIME_LABELS = {"epoch": "Completed epochs", "step": "Optimizer steps"}
PHASE_BANDS = {1: "#EAF3FA", 2: "#FDF3DC", 3: "#FBE3D6"}


def time_axis(history: History) -> tuple[list[int], str]:
    """Choose what tells the measurements of a history apart.

    Returns:
        The time of each measurement, and its unit: completed epochs (``"epoch"``), or optimizer steps (``"step"``) where
        several measurements lie within one epoch.
    """
    repeated = len(set(history.epochs)) < len(history)
    return (history.steps, "step") if repeated else (history.epochs, "epoch")


def strength_figure(measurement: Measurement) -> Figure:
    """Draw the strength of interactions by order, generalizable above the axis and non-generalizable below.

    Args:
        measurement: Drawn for its training probes, mean over the inputs that were measured.

    Returns:
        A figure with one axis; positive and negative effects are stacked in two tones, with 95 % intervals for their sums.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    strength = measurement.training.strength
    for by_input, direction, tones, kind in (
        (strength.generalizable, 1, (BLUE, SKY), "generalizable"),
        (strength.non_generalizable, -1, (VERMILION, ORANGE), "non-generalizable"),
    ):
        by_sign = by_input.sum(dim=1).nanmean(dim=0)[:, 1:]
        orders = list(range(1, by_sign.shape[1] + 1))
        base = torch.zeros(by_sign.shape[1], dtype=by_sign.dtype)
        for sign, tone, part in zip(SIGNS, tones, by_sign, strict=True):
            axes.bar(
                orders,
                (direction * part).tolist(),
                bottom=base.tolist(),
                color=tone,
                width=0.8,
                label=f"{kind}, {sign} effect",
            )
            base = base + direction * part
    for ends, direction in (
        (measurement.training_intervals.generalizable[:, 1:], 1),
        (measurement.training_intervals.non_generalizable[:, 1:], -1),
    ):
        low, high = (direction * ends).tolist()
        label = INTERVAL if direction == 1 else f"_{INTERVAL}"
        axes.vlines(range(1, len(low) + 1), low, high, color="black", linewidth=1.2, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
    axes.set_xlabel("Order (number of players in the interaction)")
    axes.set_ylabel("Strength (score units, mean per input)")
    axes.set_title(
        f"Strength by order after epoch {measurement.epoch}, step {measurement.global_step} "
        f"({int(measurement.training.measured.sum())} training probes)"
    )
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def phase_figure(history: History) -> Figure:
    """Draw losses, share and excess gap over time with 95 % intervals, and the phases as bands from onset to onset.

    A dashed line is the call of a phase where it came after its onset. Besides the losses on both kinds of probes there is the
    one expected on training probes if the network were not trained on them.

    Args:
        history: At least one measurement.

    Returns:
        A figure with three axes on one axis of time, in the unit that :func:`time_axis` chooses.
    """
    figure = Figure(figsize=(7, 7), layout="constrained")
    losses, shares, gaps = figure.subplots(3, sharex=True)
    times, time_unit = time_axis(history)
    training = [measurement.training_summary for measurement in history.measurements]
    held_out = [measurement.held_out_summary for measurement in history.measurements]
    nan = float("nan")

    losses.plot(times, [summary.loss for summary in training], color=BLUE, marker=".", label="training probes")
    if any(summary is not None for summary in held_out):
        losses.plot(
            times, [nan if summary is None else summary.loss for summary in held_out],
            color=VERMILION, marker=".", linestyle="--", label="held-out probes",
        )  # fmt: skip
    losses.plot(
        times, [summary.unseen_loss for summary in training], color=BLUE, linestyle=":", label="expected if not trained on"
    )
    unit = history.measurements[-1].loss_unit
    in_unit = f" ({unit})" if unit else ""
    losses.set_ylabel(f"Loss{in_unit}")
    if all(summary is None or math.isnan(summary.loss) for summary in (*training, *held_out)):
        losses.text(0.5, 0.5, "no loss is known", transform=losses.transAxes, ha="center", va="center", color=GREY)

    shares.plot(times, [summary.share for summary in training], color=BLUE, marker=".", label="training probes")
    _draw_intervals(shares, times, [measurement.training_intervals.share for measurement in history.measurements], BLUE)
    shares.plot(times, [summary.share_chance for summary in training], color=GREY, linestyle=":", label="chance level")
    shares.set_ylabel("Share of generalizable\nstrength")
    shares.set_ylim(0, 1)

    gaps.plot(times, [measurement.excess_gap for measurement in history.measurements], color=VERMILION, marker=".")
    _draw_intervals(gaps, times, [measurement.excess_gap_interval for measurement in history.measurements], VERMILION)
    gaps.axhline(0, color="black", linewidth=0.8)
    gaps.set_ylabel(f"Excess gap{in_unit}")
    gaps.set_xlabel(TIME_LABELS[time_unit])
    gaps.xaxis.set_major_locator(MaxNLocator(integer=True))
    if all(summary is None for summary in held_out):
        gaps.text(0.5, 0.5, "no held-out probes", transform=gaps.transAxes, ha="center", va="center", color=GREY)

    losses.legend(frameon=False, fontsize="small", loc="upper right")
    for axes in (shares, gaps):
        # Above the axes, since their curves may be anywhere.
        axes.legend(frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1, 1.01), ncols=3, borderaxespad=0)
    for axes in (losses, shares, gaps):
        axes.spines[["top", "right"]].set_visible(False)
        _draw_bands(axes, history, labelled=axes is losses)
    return figure


def _draw_intervals(axes: Axes, times: Sequence[int], intervals: Sequence[Interval], color: str) -> None:
    low, high = [interval.low for interval in intervals], [interval.high for interval in intervals]
    axes.fill_between(times, low, high, color=color, alpha=0.2, linewidth=0, label=INTERVAL)


def _draw_bands(axes: Axes, history: History, *, labelled: bool) -> None:
    """Shade the stretch of each phase, from its onset to the next one's; a dashed line is a call that came later."""
    times, unit = time_axis(history)
    time_of = dict(zip(history.steps, times, strict=True))
    onsets, calls = [(times[0], history.phases[0].number)], []
    for phase in history.calls[1:]:
        # In states from before phases had steps only the epoch is known.
        call = time_of.get(phase.called_step, phase.called_epoch)
        onset = time_of.get(phase.onset_step, call)
        # A phase whose onset turns out to lie before that of the last one leaves nothing of it.
        onsets.append((max(onset, onsets[-1][0]), phase.number))
        calls += [call] if onset < call else []
    # A phase that has only just begun gets a band as wide as one epoch, or the steps between the last measurements.
    width = 1 if unit == "epoch" else times[-1] - times[-2]
    ends = [begin for begin, _ in onsets[1:]] + [max(times[-1], onsets[-1][0] + width)]
    for call in calls:
        axes.axvline(call, color=GREY, linestyle="--", linewidth=1, zorder=1)
    for (begin, number), end in zip(onsets, ends, strict=True):
        if begin == end:
            continue
        axes.axvspan(begin, end, color=PHASE_BANDS[number], linewidth=0, zorder=0)
        if labelled:
            middle = (begin + end) / 2
            axes.annotate(f"{number}", (middle, 1), (0, 3), ("data", "axes fraction"), "offset points", ha="center")
    if labelled:
        axes.annotate("phase", (0, 1), (-6, 3), "axes fraction", "offset points", ha="right")
    axes.set_xlim(times[0], ends[-1])
