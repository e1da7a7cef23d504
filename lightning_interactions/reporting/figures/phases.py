"""Figures of a run over time, and of the strength at one moment."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lightning_interactions.analysis import Summary, summarise
from lightning_interactions.records import SIGNS, Estimate, History, Measurement, TimePoint

__all__ = ["BLUE", "GREY", "VERMILION", "TimeAxis", "phase_figure", "strength_figure"]

# Colours that stay apart in every common kind of colour blindness (Okabe & Ito 2008).
BLUE, SKY, VERMILION, ORANGE, GREY = "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#6E6E6E"
INTERVAL = "95 % interval (draw of probes)"
PHASE_BANDS = {1: "#EAF3FA", 2: "#FDF3DC", 3: "#FBE3D6"}


@dataclass(frozen=True)
class TimeAxis:
    """What tells the measurements of a history apart: completed epochs, or steps where several lie within one epoch.

    Attributes:
        by_step: Whether it is steps.
    """

    by_step: bool

    @classmethod
    def of(cls, history: History) -> "TimeAxis":
        """Choose the axis of a history."""
        return cls(by_step=len(set(history.epochs)) < len(history))

    @property
    def name(self) -> str:
        """One unit of it."""
        return "step" if self.by_step else "epoch"

    @property
    def label(self) -> str:
        """What stands below the axis."""
        return "Optimizer steps" if self.by_step else "Completed epochs"

    def place(self, time: TimePoint) -> int:
        """Where a moment lies on it."""
        return time.step if self.by_step else time.epoch

    def places(self, history: History) -> list[int]:
        """Where the measurements lie on it."""
        return history.steps if self.by_step else history.epochs


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
    by_order = summarise(measurement).training.by_order
    for (low, high), direction, label in (
        (by_order.generalizable[1:, 1:], 1, INTERVAL),
        (by_order.non_generalizable[1:, 1:], -1, f"_{INTERVAL}"),
    ):
        if bool(low.isfinite().any()):
            ends = (direction * low).tolist(), (direction * high).tolist()
            axes.vlines(range(1, len(low) + 1), *ends, color="black", linewidth=1.2, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
    axes.set_xlabel("Order (number of players in the interaction)")
    axes.set_ylabel("Strength (score units, mean per input)")
    axes.set_title(
        f"Strength by order after epoch {measurement.time.epoch}, step {measurement.time.step} "
        f"({int(measurement.training.measured.sum())} training probes)"
    )
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def phase_figure(history: History) -> Figure:
    """Draw losses, share and excess gap over time with 95 % intervals, and the phases as bands from onset to onset.

    A dashed line is the detection of a phase where it came after its onset. Besides the losses on both kinds of probes there is
    the test loss that is expected from the training probes.

    Args:
        history: At least one measurement; its setting ``loss_unit`` is the unit of the loss.

    Returns:
        A figure with three axes on one axis of time: completed epochs, or optimizer steps where several measurements lie within
        one epoch.
    """
    figure = Figure(figsize=(7, 7), layout="constrained")
    losses, shares, gaps = figure.subplots(3, sharex=True)
    axis, summaries = TimeAxis.of(history), [summarise(measurement) for measurement in history.measurements]
    times = axis.places(history)
    unit = history.settings.get("loss_unit", "")
    in_unit = f" ({unit})" if unit else ""

    _draw_losses(losses, times, summaries)
    losses.set_ylabel(f"Loss{in_unit}")

    training = [summary.training for summary in summaries]
    share = [one.share for one in training]
    shares.plot(times, [one.value for one in share], color=BLUE, marker=".", label="training probes")
    _draw_intervals(shares, times, share, BLUE)
    shares.plot(times, [one.share_chance.value for one in training], color=GREY, linestyle=":", label="chance level")
    shares.set_ylabel("Share of generalizable\nstrength")
    shares.set_ylim(0, 1)

    _draw_gaps(gaps, times, summaries)
    gaps.set_ylabel(f"Excess gap{in_unit}")
    gaps.set_xlabel(axis.label)
    gaps.xaxis.set_major_locator(MaxNLocator(integer=True))

    for axes in (losses, shares, gaps):
        axes.spines[["top", "right"]].set_visible(False)
        _draw_bands(axes, history, axis, labelled=axes is losses)
        # Above the axes, since their curves may be anywhere; those of the losses above the phases.
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            above = (1, 1.11 if axes is losses else 1.01)
            axes.legend(
                handles, labels, frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=above, ncols=len(handles),
                borderaxespad=0, columnspacing=1.5,
            )  # fmt: skip
    return figure


def _draw_losses(axes: Axes, times: Sequence[int], summaries: Sequence[Summary]) -> None:
    training = [summary.training for summary in summaries]
    held_out = [math.nan if summary.held_out is None else summary.held_out.loss.value for summary in summaries]
    expected = [one.expected_test_loss.value for one in training]
    axes.plot(times, [one.loss.value for one in training], color=BLUE, marker=".", label="training probes")
    if any(summary.held_out is not None for summary in summaries):
        axes.plot(times, held_out, color=VERMILION, marker=".", linestyle="--", label="held-out probes")
    axes.plot(times, expected, color=BLUE, linestyle=":", label="expected test loss")
    if all(math.isnan(loss) for loss in (*held_out, *(one.loss.value for one in training))):
        axes.text(0.5, 0.5, "no loss is known", transform=axes.transAxes, ha="center", va="center", color=GREY)


def _draw_gaps(axes: Axes, times: Sequence[int], summaries: Sequence[Summary]) -> None:
    if all(summary.held_out is None for summary in summaries):
        axes.text(0.5, 0.5, "no held-out probes", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])
        return
    excess = [summary.excess_gap for summary in summaries]
    axes.plot(times, [one.value for one in excess], color=VERMILION, marker=".")
    _draw_intervals(axes, times, excess, VERMILION)
    axes.axhline(0, color="black", linewidth=0.8)


def _draw_intervals(axes: Axes, times: Sequence[int], estimates: Sequence[Estimate], color: str) -> None:
    low, high = [one.low for one in estimates], [one.high for one in estimates]
    axes.fill_between(times, low, high, color=color, alpha=0.2, linewidth=0, label=INTERVAL)


def _draw_bands(axes: Axes, history: History, axis: TimeAxis, *, labelled: bool) -> None:
    """Shade the stretch of each phase, from its onset to the next one's; a dashed line is a detection that came later."""
    times = axis.places(history)
    onsets, detections = [(times[0], history.phases[0].number)], []
    for phase in history.detections[1:]:
        onset, detected = axis.place(phase.onset), axis.place(phase.detected)
        # A phase whose onset turns out to lie before that of the last one leaves nothing of it.
        onsets.append((max(onset, onsets[-1][0]), phase.number))
        detections += [detected] if onset < detected else []
    # A phase that has only just begun gets a band as wide as one epoch, or the steps between the last measurements.
    width = times[-1] - times[-2] if axis.by_step else 1
    ends = [begin for begin, _ in onsets[1:]] + [max(times[-1], onsets[-1][0] + width)]
    for number, detected in enumerate(detections):
        label = "phase detected" if labelled and number == 0 else None
        axes.axvline(detected, color=GREY, linestyle="--", linewidth=1, zorder=1, label=label)
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
